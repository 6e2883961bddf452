"""The plan of a sweep: ``sweep.yaml``, which is written whole before the first trial and never changes.

It holds the complete configuration of every trial. So finishing a sweep needs neither Hydra nor the command line that
started it, and the result is the same when defaults have changed meanwhile.

A search chooses each trial by the results of the trials before. Its plan grows: each trial is added before it begins.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import yaml

from trainer.command_line import JOB_SCRIPT, argument, array_command, command_line
from trainer.config import override, stored
from trainer.config.multirun import Job
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory import places
from trainer.storage.documents import parse_yaml, shown
from trainer.storage.durable import make_directory, replace
from trainer.storage.guarded import read_text
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable

FILE_NAME = "sweep.yaml"
FORMAT_VERSION = 2
SIZE_LIMIT = 32 << 20  # bytes; a trial has about 3 KB
NODE_LIMIT = 500_000  # scalars and containers; a trial has about 30
REASON_SHOWN = 300  # characters


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    ``directory`` is its run directory, relative to the sweep's directory. ``overrides`` are the trial's own, from the
    command line. ``config`` is its composed configuration as text of a ``config.yaml``. It is None when this
    combination of overrides is invalid; ``problem`` then says why.
    """

    number: int
    directory: str
    overrides: tuple[str, ...]
    init_from: str | None
    allow: tuple[str, ...]
    config: str | None
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Search:
    """The additional facts about a search.

    ``arguments`` are those of the ``train`` that began it, without directory and ``on_existing``. They are shown to
    people and never passed to a program. ``failed`` are trials whose failure the sweeper knew before it chose the next
    ones, so they cannot succeed any more. ``ended`` means that the sweeper wants no more trials.
    """

    arguments: tuple[str, ...]
    failed: tuple[int, ...]
    ended: bool


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The contents of ``sweep.yaml``; ``search`` is None where all trials were known before the first began."""

    format_version: int
    trials: tuple[Trial, ...]
    search: Search | None


def plan(jobs: Sequence[Job]) -> Sweep:
    """The sweep that consists of Hydra's ``jobs``.

    Raises:
        UsageError: no job has a valid configuration, or two would share a directory or a mirror.
    """
    if all(job.problem is not None for job in jobs):
        raise UsageError(f"no trial of this sweep has a valid configuration; of the first: {jobs[0].problem}")
    mirrors: dict[str, int] = {}
    for job in jobs:
        mirror = None if job.config is None else job.config.checkpoint.mirror
        if mirror is not None and mirrors.setdefault(mirror, job.number) != job.number:
            raise UsageError(
                f"trials {mirrors[mirror]} and {job.number} share checkpoint.mirror={mirror}, and a mirror belongs "
                "to one run\ngive each its own: 'checkpoint.mirror=…/${hydra:job.num}'"
            )
    return _sound(Sweep(FORMAT_VERSION, tuple(trial_of(job) for job in jobs), None))


def _sound(sweep: Sweep) -> Sweep:
    """
    Raises:
        UsageError: two trials would share a directory.
    """
    try:
        _check(sweep)
    except Unacceptable as error:
        raise UsageError(f"{error}\nhydra.sweep.subdir names the directory of each trial") from error
    return sweep


def trial_of(job: Job) -> Trial:
    """The trial for one of Hydra's jobs."""
    invocation, config = job.invocation, job.config
    init_from = None if invocation is None else invocation.init_from
    return Trial(
        number=job.number,
        directory=job.directory,
        overrides=tuple(job.overrides),
        init_from=None if init_from is None else os.path.abspath(os.path.expanduser(init_from)),
        allow=() if invocation is None else invocation.allow,
        config=None if config is None else stored.to_text(config),
        problem=job.problem,
    )


def begin(sweep_dir: Path, sweep: Sweep, on_existing: str) -> None:
    """Write ``sweep.yaml``. With ``on_existing="resume"``, an existing one is accepted when it says the same.

    Raises:
        UsageError: there is a sweep already, or the directory cannot be written.
    """
    if not os.path.lexists(sweep_dir / FILE_NAME):
        _write(sweep_dir, sweep)
        return
    there = _existing(sweep_dir, on_existing)
    difference = _difference(there, sweep)
    if difference is not None:
        raise UsageError(f"{sweep_dir} has another sweep: {difference}\nchoose another hydra.sweep.dir")


def propose(
    sweep_dir: Path, there: Sweep | None, job: Job, arguments: tuple[str, ...], failed: tuple[int, ...]
) -> Sweep:
    """The search ``there`` including the trial for ``job``. It is added to ``sweep.yaml`` unless it is there already.

    Trials come in order, from 0. ``failed`` are earlier trials whose failure the search knows. They stay failed once a
    trial was chosen with that knowledge.

    Raises:
        UsageError: the search had another trial at this place, or the directory cannot be written.
    """
    trial = trial_of(job)
    if there is None:
        sweep = _sound(Sweep(FORMAT_VERSION, (trial,), Search(arguments, (), ended=False)))
        _write(sweep_dir, sweep)
        return sweep
    assert there.search is not None
    if trial.number < len(there.trials):
        difference = _trial_difference(there.trials[trial.number], trial)
        if difference is not None:
            raise UsageError(
                f"{sweep_dir} has another search: {difference}\n"
                "a search continues with the command that began it:\n"
                f"  {search_command(sweep_dir, there.search)}\nor choose another hydra.sweep.dir"
            )
        return there
    search = dataclasses.replace(there.search, failed=failed, ended=False)
    sweep = _sound(dataclasses.replace(there, trials=(*there.trials, trial), search=search))
    _write(sweep_dir, sweep)
    return sweep


def existing_search(sweep_dir: Path, on_existing: str) -> Sweep | None:
    """The search that exists already; None where there is no sweep.

    Raises:
        UsageError: this command may not continue it, or it is not a search.
    """
    if not os.path.lexists(sweep_dir / FILE_NAME):
        return None
    there = _existing(sweep_dir, on_existing)
    if there.search is None:
        raise UsageError(f"{sweep_dir} has a sweep that is not a search\nchoose another hydra.sweep.dir")
    return there


def end_search(sweep_dir: Path, sweep: Sweep, failed: tuple[int, ...]) -> Sweep:
    """Record that the search wants no more trials, and return it; ``failed`` as in ``propose``."""
    assert sweep.search is not None
    search = dataclasses.replace(sweep.search, failed=failed, ended=True)
    if search != sweep.search:
        sweep = dataclasses.replace(sweep, search=search)
        _write(sweep_dir, sweep)
    return sweep


def refuse_place(sweep_dir: Path) -> None:
    """Refuse a sweep directory that is a checkpoint or a run, or lies in one.

    Raises:
        UsageError: names both.
    """
    given = f"hydra.sweep.dir={sweep_dir}"
    places.refuse_in_checkpoint(sweep_dir, given)
    if not os.path.lexists(sweep_dir / FILE_NAME):
        places.refuse_nested(sweep_dir / FILE_NAME, given)


def _write(sweep_dir: Path, sweep: Sweep) -> None:
    refuse_place(sweep_dir)
    try:
        make_directory(sweep_dir)
        replace(sweep_dir / FILE_NAME, _to_text(sweep).encode())
    except OSError as error:
        raise UsageError(f"the sweep directory {sweep_dir} cannot be written: {error.strerror}") from error


def _existing(sweep_dir: Path, on_existing: str) -> Sweep:
    """The sweep that exists already.

    Raises:
        UsageError: this command may not continue it.
    """
    if on_existing != "resume":
        raise UsageError(
            f"{sweep_dir} has a sweep already; to finish it:\n"
            f"  {resume_command(sweep_dir)}\n"
            "or add on_existing=resume to this command, or choose another hydra.sweep.dir"
        )
    return read(sweep_dir)


def _difference(there: Sweep, wanted: Sweep) -> str | None:
    """The first difference of two sweeps, as text. Other wording of the same overrides is not a difference."""
    if there.search is not None:
        return "it is a search, and this command names its trials"
    if len(there.trials) != len(wanted.trials):
        return f"it has {len(there.trials)} trials, and this command makes {len(wanted.trials)}"
    differences = (_trial_difference(old, new) for old, new in zip(there.trials, wanted.trials, strict=True))
    return next((difference for difference in differences if difference is not None), None)


def _trial_difference(old: Trial, new: Trial) -> str | None:
    if old.config is not None and new.config is not None:
        changes = override.changes(stored.from_text(old.config), stored.from_text(new.config))
        if changes:
            return f"trial {new.number}: {changes[0]}"
    for name in ("directory", "init_from", "allow", "config", "problem"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            return f"trial {new.number}: {name}: {shown(before)} -> {shown(after)}"
    return None


def read(sweep_dir: Path) -> Sweep:
    """Read the plan of a sweep. Its directory may come from a stranger.

    Raises:
        UsageError: the directory does not exist or is not a sweep's.
        NoValidCheckpoint: ``sweep.yaml`` is not one of this version.
    """
    path = sweep_dir / FILE_NAME
    try:
        value = parse_yaml(read_text(path, SIZE_LIMIT), NODE_LIMIT)
        sweep = build(Sweep, _upgraded(value), "the sweep")
        _check(sweep)
        for trial in sweep.trials:
            if trial.config is not None:
                stored.from_text(trial.config)
    except FileNotFoundError:
        missing = f"{path} does not exist" if sweep_dir.is_dir() else f"sweep_dir={sweep_dir} does not exist"
        raise UsageError(f"{missing}; a sweep is started by train --multirun") from None
    except OSError as error:
        raise NoValidCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    except (Unacceptable, UsageError) as error:
        reason = str(error).splitlines()[0][:REASON_SHOWN]
        raise NoValidCheckpoint(f"{path} is not a sweep of this version: {reason}") from error
    return sweep


def _upgraded(value: object) -> object:
    """A document of version 1, which knew no searches, in the form of this version; any other unchanged."""
    if isinstance(value, dict) and "format_version" in value and value["format_version"] == 1 and "search" not in value:
        return {**value, "format_version": FORMAT_VERSION, "search": None}
    return value


def label(sweep: Sweep, trial: Trial) -> str:
    """The overrides that distinguish a trial from others of its sweep."""
    if sweep.search is not None:  # the first trial has no others yet
        common = {*sweep.search.arguments, "on_existing=resume"}
    else:
        common = set.intersection(*(set(other.overrides) for other in sweep.trials))
    return " ".join(text for text in trial.overrides if text not in common)


def resume_command(sweep_dir: Path) -> str:
    return command_line("resume", argument("sweep_dir", sweep_dir))


def report_command(sweep_dir: Path) -> str:
    return command_line("report", argument("sweep_dir", sweep_dir))


def ways_to_run(sweep_dir: Path, sweep: Sweep) -> str:
    """What can be done with a sweep that was only planned, for a person."""
    trials = len(sweep.trials)
    lines = [f"{sweep_dir} has the plan of {trials} trial{'s' if trials > 1 else ''}; this command starts none"]
    if JOB_SCRIPT.is_file():
        lines += ["to run each as a task of a Slurm job array:", f"  {array_command(sweep_dir, trials)}"]
    lines += ["to run one after another, here:", f"  {resume_command(sweep_dir)}"]
    return "\n".join(lines)


def search_command(sweep_dir: Path, search: Search) -> str:
    """The command line that continues a search, for a person to read and run."""
    return command_line("train", *search.arguments, argument("hydra.sweep.dir", sweep_dir), "on_existing=resume")


def config_of(trial: Trial) -> Config:
    """The planned configuration of a trial.

    Raises:
        UsageError: this combination of overrides is not valid.
    """
    if trial.config is None:
        raise UsageError(f"trial {trial.number} has no valid configuration: {trial.problem}")
    return stored.from_text(trial.config)


def _check(sweep: Sweep) -> None:
    """Refuse a document that ``plan`` would not make, above all with a trial outside the sweep's directory."""
    if sweep.format_version != FORMAT_VERSION:
        raise Unacceptable(f"format_version is {sweep.format_version}, and this program knows {FORMAT_VERSION}")
    taken: dict[PurePosixPath, int] = {}
    for position, trial in enumerate(sweep.trials):
        if trial.number != position:
            raise Unacceptable(f"trial {trial.number} is at the place of trial {position}")
        if (trial.config is None) == (trial.problem is None):
            raise Unacceptable(f"trial {position} needs either a config or a problem")
        place = PurePosixPath(trial.directory)
        if place.is_absolute() or not place.parts or ".." in place.parts or not trial.directory.isprintable():
            raise Unacceptable(f"the directory of trial {position} is {trial.directory!r}, outside of the sweep's")
        for other, number in taken.items():
            if place.is_relative_to(other) or other.is_relative_to(place):
                raise Unacceptable(f"trials {number} and {position} share a directory: {other} and {place}")
        taken[place] = position
    for number in () if sweep.search is None else sweep.search.failed:
        if not 0 <= number < len(sweep.trials):
            raise Unacceptable(f"trial {number} failed, and there are the trials 0 to {len(sweep.trials) - 1}")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that the configurations in the file are readable."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _to_text(sweep: Sweep) -> str:
    trials = [{**vars(trial), "overrides": [*trial.overrides], "allow": [*trial.allow]} for trial in sweep.trials]
    search = None
    if sweep.search is not None:
        search = {**vars(sweep.search), "arguments": [*sweep.search.arguments], "failed": [*sweep.search.failed]}
    document = {"format_version": sweep.format_version, "search": search, "trials": trials}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
