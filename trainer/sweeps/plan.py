"""What a sweep consists of: ``sweep.yaml``, written whole before its first trial and never changed.

It holds the complete configuration of every trial, so finishing a sweep needs neither the command line that started it
nor Hydra, and means the same when defaults have changed meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import yaml

from trainer.checkpoint.files import make_directory, replace
from trainer.config import override, stored
from trainer.config.compose import Job
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.untrusted.documents import parse_yaml, shown
from trainer.untrusted.errors import Unacceptable
from trainer.untrusted.files import read_text
from trainer.untrusted.typed import build

FILE_NAME = "sweep.yaml"
FORMAT_VERSION = 1
SIZE_LIMIT = 32 << 20  # bytes; a trial has about 3 KB
NODE_LIMIT = 500_000  # scalars and containers; a trial has about 30
REASON_SHOWN = 300  # characters


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    ``directory`` is its run directory, relative to that of the sweep; ``overrides`` are what the command line made of
    it. ``config`` is its composed configuration as text of a ``config.yaml``, None when this combination of overrides
    is none; ``problem`` then says why.
    """

    number: int
    directory: str
    overrides: tuple[str, ...]
    init_from: str | None
    allow: tuple[str, ...]
    config: str | None
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The contents of ``sweep.yaml``."""

    format_version: int
    trials: tuple[Trial, ...]


def plan(jobs: Sequence[Job]) -> Sweep:
    """The sweep that Hydra's ``jobs`` make.

    Raises:
        UsageError: no job has a valid configuration, or two would share a directory.
    """
    if all(job.problem is not None for job in jobs):
        raise UsageError(f"no trial of this sweep has a valid configuration; of the first: {jobs[0].problem}")
    sweep = Sweep(FORMAT_VERSION, tuple(_trial(job) for job in jobs))
    try:
        _check(sweep)
    except Unacceptable as error:
        raise UsageError(f"{error}\nhydra.sweep.subdir names the directory of each trial") from error
    return sweep


def _trial(job: Job) -> Trial:
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
    """Write ``sweep.yaml``; with ``on_existing="resume"``, one that is there already may say the same.

    Raises:
        UsageError: there is a sweep already, or the directory cannot be written.
    """
    if not os.path.lexists(sweep_dir / FILE_NAME):
        try:
            make_directory(sweep_dir)
            replace(sweep_dir / FILE_NAME, _to_text(sweep).encode())
        except OSError as error:
            raise UsageError(f"the sweep directory {sweep_dir} cannot be written: {error.strerror}") from error
    elif on_existing != "resume":
        raise UsageError(
            f"{sweep_dir} has a sweep already; to finish it:\n"
            f"  {resume_command(sweep_dir)}\n"
            "or add on_existing=resume to this command, or choose another hydra.sweep.dir"
        )
    else:
        difference = _difference(read(sweep_dir), sweep)
        if difference is not None:
            raise UsageError(f"{sweep_dir} has another sweep: {difference}\nchoose another hydra.sweep.dir")


def _difference(there: Sweep, wanted: Sweep) -> str | None:
    """The first thing in which two sweeps differ, as text; that they were asked for in other words is none."""
    if len(there.trials) != len(wanted.trials):
        return f"it has {len(there.trials)} trials, and this command makes {len(wanted.trials)}"
    for old, new in zip(there.trials, wanted.trials, strict=True):
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
    """Read what a sweep consists of; the directory may come from anywhere.

    Raises:
        UsageError: the directory does not exist or is not that of a sweep.
        NoValidCheckpoint: ``sweep.yaml`` is not one of this version.
    """
    path = sweep_dir / FILE_NAME
    try:
        value = parse_yaml(read_text(path, SIZE_LIMIT), NODE_LIMIT)
        sweep = build(Sweep, value, "the sweep")
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


def label(sweep: Sweep, trial: Trial) -> str:
    """The overrides that distinguish a trial from others of its sweep."""
    common = set.intersection(*(set(other.overrides) for other in sweep.trials))
    return " ".join(text for text in trial.overrides if text not in common)


def resume_command(sweep_dir: Path) -> str:
    return shlex.join(["python", "-m", "trainer", "resume", f"sweep_dir={sweep_dir}"])


def config_of(trial: Trial) -> Config:
    """The configuration that a trial is meant to have.

    Raises:
        UsageError: this combination of overrides has none.
    """
    if trial.config is None:
        raise UsageError(f"trial {trial.number} has no valid configuration: {trial.problem}")
    return stored.from_text(trial.config)


def _check(sweep: Sweep) -> None:
    """Refuse what ``plan`` would not make, above all a trial outside of the sweep's directory."""
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


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that the configurations in the file can be read."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _to_text(sweep: Sweep) -> str:
    trials = [{**vars(trial), "overrides": [*trial.overrides], "allow": [*trial.allow]} for trial in sweep.trials]
    document = {"format_version": sweep.format_version, "trials": trials}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
