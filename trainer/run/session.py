"""One process working on one run, from beginning to end: the order of events.

``train`` and ``resume`` find out what the run begins from. ``_run`` does the rest, the same for all: open data,
complete the configuration, build, compare, restore (``preparation``); take the directory (``writer``); loop
(``trainer.training.loop``); close. After a divergence it restores an earlier checkpoint (``rollback``), and takes the
directory again as a resume does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from trainer.checkpoint import directory
from trainer.checkpoint.verification import Depth, Found, newest_valid, verify
from trainer.command_line import resume_command
from trainer.config import override, plugins, stored
from trainer.config.override import Change
from trainer.config.schema import Config, Invocation
from trainer.distributed.membership import Process, joined
from trainer.errors import Diverged, NoValidCheckpoint, UsageError, warn
from trainer.fingerprint import facts, program
from trainer.interchange import state_files
from trainer.monitoring.trackers import registry
from trainer.run import fast_dev_run, overlaps, warm_start
from trainer.run.preparation import Prepared, prepare
from trainer.run.rollback import agreement, roll_back
from trainer.run.starting_point import FromCheckpoint, FromNothing, StartingPoint, request_of
from trainer.run.warm_start import WarmStart
from trainer.run.watchdog import Watchdog
from trainer.run.wiring import Announcement, wire
from trainer.run.worker import work
from trainer.run.writer import logging, taking
from trainer.run_directory import layout, lock, occupancy, which_checkpoint
from trainer.runtime.signals import StopRequest
from trainer.storage.unreadable import Unreadable, is_directory
from trainer.training.loop import train as run_loop

# how a run ended: at its last step, because validation no longer improved, or because nothing was left to do
Ending = Literal["finished", "stopped_early", "complete"]


def train(
    invocation: Invocation,
    config: Config,
    stop: StopRequest,
    *,
    anywhere: bool = False,
    ends_process: bool = False,
) -> Ending | None:
    """Start a run in ``run_dir``. If it already holds a run, ``on_existing="resume"`` continues that run, and
    ``"restart"`` moves it aside and begins again. With ``anywhere``, ``run_dir`` is not from the command line: if it is
    the moment of the start and another run has it, this one is in a directory beside it.

    Returns None where another process is the chief: only the chief knows how the run ended. ``ends_process``: this
    process exists for the run, and a hang ends it (``trainer.run.watchdog``).

    Raises:
        UsageError: ``run_dir`` already holds checkpoints or foreign files, places overlap, or the configuration does
            not fit the data.
        NoValidCheckpoint: ``run_dir`` held a run, and its checkpoints are gone.
        RestoreRefused: ``config`` differs from the existing run in a key that changes the result.
    """
    asked = program.asked_to_train(invocation, config)
    with (
        joined(config.runtime.strategy, stop, lambda: program.of_process(asked)) as process,
        contextlib.ExitStack() as stack,
    ):
        run_dir = Path(invocation.run_dir)
        watchdog = Watchdog(process, run_dir if process.is_chief else None, ends_process=ends_process)
        watchdog.follow(config)
        stack.enter_context(watchdog.watching())
        if not process.is_chief:
            work(process, watchdog)
            return None
        overlaps.refuse(run_dir, config, invocation.init_from)
        if config.train.fast_dev_run:
            fresh = from_nothing(dataclasses.replace(invocation, on_existing="fail"), config)
            return fast_dev_run.tried(run_dir, lambda place: _begin(place, config, fresh, process, watchdog))
        if anywhere and occupancy.is_stamp(run_dir):
            start = from_nothing(dataclasses.replace(invocation, on_existing="fail"), config)
            with occupancy.own_place(run_dir) as own:
                return _begin(own, config, start, process, watchdog)
        with lock.writing(run_dir):
            if invocation.on_existing == "restart" or occupancy.is_vacant(run_dir, occupancy.ADVICE):
                return _run(run_dir, config, from_nothing(invocation, config), process, watchdog)
            if invocation.on_existing == "resume":
                found = newest_valid(run_dir / layout.CHECKPOINTS, config.checkpoint.verify, warn)
                return _continue(run_dir, found, lambda there: config, invocation.allow, process, watchdog)
            raise UsageError(
                f"{run_dir} has checkpoints already; to continue that run:\n"
                f"  {resume_command(run_dir)}\n"
                "or add on_existing=resume to this command, or choose another run_dir; on_existing=restart moves that "
                "run aside and begins again"
            )


def resume(
    run_dir: Path,
    checkpoint: str,
    values: Mapping[str, object],
    allow: Sequence[str],
    stop: StopRequest,
    *,
    ends_process: bool = False,
) -> Ending | None:
    """Continue the run in ``run_dir`` from a checkpoint: ``latest``, ``best``, ``step-N`` or a path. From a file of
    ``export format=state``, the checkpoint is made in ``run_dir`` first.

    ``values`` are the configuration keys to change. ``allow`` names the changes that may change the result. Returns
    None as ``train`` does. ``ends_process`` is as for ``train``.

    Raises:
        UsageError: a directory or key does not exist.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        RestoreRefused: a resume may not make one of the changes, or code or data differ from those of the checkpoint.
    """
    fast_dev_run.refuse_resume(values)
    asked = program.asked_to_resume(values, allow)
    with (
        joined(override.strategy_asked(values), stop, lambda: program.of_process(asked)) as process,
        contextlib.ExitStack() as stack,
    ):
        watchdog = Watchdog(process, run_dir if process.is_chief else None, ends_process=ends_process)
        stack.enter_context(watchdog.watching())
        if not process.is_chief:
            work(process, watchdog)
            return None
        _follow_stored(watchdog, run_dir)
        packed = state_files.is_state(Path(checkpoint))
        elsewhere = packed or is_directory(Path(checkpoint))
        if not elsewhere:
            if Path(checkpoint).is_file():
                which_checkpoint.refuse_foreign(Path(checkpoint), f"checkpoint={checkpoint}")
            which_checkpoint.refuse_missing(run_dir)
        which_checkpoint.refuse_foreign_run(run_dir)
        occupancy.refuse_foreign(run_dir, continued=not elsewhere)
        with lock.writing(run_dir):
            if packed:
                checkpoint = state_files.unpack(Path(checkpoint), run_dir)
            elif not Path(checkpoint).is_dir() and not occupancy.has_checkpoints(run_dir):
                occupancy.is_vacant(run_dir, occupancy.begin_again(run_dir))
            found = which_checkpoint.find(run_dir, checkpoint, _depth(run_dir, values), warn)
            want = functools.partial(override.override, values=values)
            return _continue(run_dir, found, want, allow, process, watchdog, asked=values)


def replay(checkpoint: Path, config: Config, allow: Sequence[str], run_dir: Path) -> Path:
    """Train from ``checkpoint`` to ``config.train.steps`` in another run directory. Returns the last checkpoint there.

    Raises:
        RestoreRefused: code, data or ``config`` differ from those of the checkpoint.
    """
    with lock.writing(run_dir):
        found = Found(checkpoint, verify(checkpoint, "full"), ())
        process = Process(StopRequest(), None)
        watchdog = Watchdog(process, None, ends_process=False)  # which does not watch: a replay is looked at
        _continue(run_dir, found, lambda there: config, allow, process, watchdog, repeats=True)
    return directory.committed(run_dir / layout.CHECKPOINTS)[-1]


def _run(run_dir: Path, config: Config, start: StartingPoint, process: Process, watchdog: Watchdog) -> Ending:
    watchdog.follow(config)
    registry.refuse_unusable(config.tracking.trackers)
    registry.refuse_unregistered(config.tracking)
    run, began = prepare(run_dir, config, start, process), process.stop.began
    if run is None:
        return "complete"
    while True:
        try:
            _train(run_dir, run, process, watchdog, began)
        except Diverged as diverged:
            began = time.time()
            with watchdog.clock.phase("starting"), logging(run_dir):
                run = roll_back(run_dir, run, diverged)
            process.tell(agreement(diverged, run).message())
        else:
            return "finished" if run.assembly.step >= run.total_steps else "stopped_early"


def _train(run_dir: Path, run: Prepared, process: Process, watchdog: Watchdog, began: float) -> None:
    """Train a run, on which this process works since ``began``, to its end."""
    with taking(run_dir, run, process, watchdog, began) as outputs:
        announced = Announcement(
            total_steps=run.total_steps,
            committed_step=outputs.committed_step,
            validations=outputs.history.validations,
            fingerprint=facts.to_text(run.fingerprint),
            versions=run.versions,
        )
        process.tell(announced.message())
        where = (
            outputs.checkpointer,
            outputs.history,
            outputs.terminal,
            outputs.views,
            watchdog.clock,
            run.start_cache,
        )
        wired = wire(announced, run.config, run.assembly.state, run.data, process, *where)
        watchdog.may_stop(wired.stop)
        run_loop(wired)


def _begin(place: Path, config: Config, start: StartingPoint, process: Process, watchdog: Watchdog) -> Ending:
    watchdog.run_dir = place
    with lock.writing(place):
        return _run(place, config, start, process, watchdog)


def from_nothing(invocation: Invocation, config: Config) -> FromNothing:
    """The start of a new run, with the weights that ``init_from`` names.

    Raises:
        UsageError: they are not there, or cannot be used.
    """
    restart = invocation.on_existing == "restart"
    if invocation.init_from is None:
        return FromNothing(restart, None)
    contents = warm_start.find(Path(invocation.init_from))
    follow_data = config.model.num_classes is None
    return FromNothing(restart, WarmStart(contents, invocation.allow, classes_follow_data=follow_data))


def _continue(
    run_dir: Path,
    found: Found,
    want: Callable[[Config], Config],
    allow: Sequence[str],
    process: Process,
    watchdog: Watchdog,
    *,
    asked: Mapping[str, object] | None = None,
    repeats: bool = False,
) -> Ending:
    """Continue from the checkpoint ``found``. ``want`` turns its stored configuration into the wanted one, for which
    the user has ``asked`` key by key, or as a whole. With ``repeats``, this training was done before, and is not judged
    for what it is good for.
    """

    def again(names: Sequence[str]) -> str | None:
        changed: Sequence[Change] = ()
        if asked is None:
            try:
                there = stored.read(found.path / stored.FILE_NAME)
            except NoValidCheckpoint:  # the other version of a plug-in has other keys
                return None
            changed = override.changes(there, want(there), whole=True)
        return request_of(run_dir, found.path, found.damaged, changed, asked).command([*allow, *names])

    other_plugins = plugins.refuse_others(found.manifest.versions, allow, found.path, None if repeats else again)
    there = stored.read(found.path / stored.FILE_NAME)
    wanted = want(there)
    changes = override.changes(there, wanted, whole=asked is None)
    config = override.adopt(there, wanted, changes)
    overlaps.refuse(run_dir, config, None)
    start = FromCheckpoint(found.path, found.manifest, found.damaged, changes, allow, other_plugins, asked, repeats)
    return _run(run_dir, config, start, process, watchdog)


def _follow_stored(watchdog: Watchdog, run_dir: Path) -> None:
    """Watch already while checkpoints are read, by the limits of the run so far."""
    with contextlib.suppress(NoValidCheckpoint, Unreadable):
        watchdog.follow(stored.read(run_dir / stored.FILE_NAME))


def _depth(run_dir: Path, values: Mapping[str, object]) -> Depth:
    """How thoroughly to verify: as ``values`` say, else as the run's configuration says, else fully."""
    asked = values.get("checkpoint.verify")
    for depth in typing.get_args(Depth):
        if asked == depth:
            return depth
    try:
        return stored.read(run_dir / stored.FILE_NAME).checkpoint.verify
    except NoValidCheckpoint:
        return "full"
