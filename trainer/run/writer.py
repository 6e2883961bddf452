"""The one process that writes a run directory: what it takes, keeps open, and closes again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from trainer.checkpoint import directory
from trainer.checkpoint.retention import Retention
from trainer.config import stored
from trainer.config.schema import Config
from trainer.distributed.membership import Process
from trainer.distributed.peers import SILENCE
from trainer.errors import PeerLost, TrainerError, warn
from trainer.monitoring.tensorboard import TensorBoard
from trainer.monitoring.terminal import Terminal, append
from trainer.monitoring.trackers.following import followed
from trainer.monitoring.views import Views
from trainer.run.checkpointer import Checkpointer, Contents, Store
from trainer.run.preparation import Prepared
from trainer.run.summary import opening, summarize
from trainer.run.watchdog import Watchdog
from trainer.run_directory import layout, validation_predictions
from trainer.run_directory.events import Events
from trainer.run_directory.history import History, keep_readable
from trainer.run_directory.metrics import TRAIN, VALIDATION
from trainer.run_directory.mirror import Mirror
from trainer.run_directory.mirror_place import Place
from trainer.run_directory.wall_time import Clock
from trainer.storage import holding
from trainer.storage.durable import replace
from trainer.storage.lease import Fence


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a run writes to. ``committed_step`` is the step it begins at, if the run directory has that checkpoint."""

    checkpointer: Checkpointer
    history: History
    terminal: Terminal
    views: Views
    committed_step: int | None


@contextmanager
def taking(run_dir: Path, run: Prepared, process: Process, watchdog: Watchdog, began: float) -> Iterator[Outputs]:
    """Take the run directory, which this process has locked, while the block runs. Then print how the run ended. The
    ``watchdog`` learns what it has to know about the files, and its clock writes the account of the time, from
    ``began`` on, seconds since the epoch.

    Nothing in the directory is touched before. Checkpoints of an earlier start that this start cannot use are put away.

    Raises:
        RunDirectoryInUse: another process has taken the directory over.
        RunDirectoryLost: the name no longer leads to the directory that this process has locked.
        UsageError: the mirror holds another run.
    """
    mirror = _mirror(holding.path_of(run_dir), run)
    place = layout.as_writer(run_dir)
    said = run.start.take(place)
    checkpoints = layout.hold_checkpoints(run_dir)  # not before: a restart has moved the earlier ones away
    directory.remove_leftovers(checkpoints)
    replace(place / stored.FILE_NAME, stored.to_text(run.config).encode())
    keep_readable(place, run.start.recorded(run_dir), lambda text: warn(holding.named(text)))
    step = run.assembly.step
    history = History(place, step, noted=int(run.assembly.state.progress.evaluated_step.numpy()) == step)
    terminal = Terminal(place / layout.LOG, step, run.total_steps)
    show_time = functools.partial(_show_time, history.events[TRAIN])
    clock = Clock(Fence(place / layout.LOCK), place, began, step, show_time)
    watchdog.clock.follow(clock)
    watchdog.closing = clock.close
    try:
        for line in [*said, *opening(run_dir, run), *run.notes]:
            terminal.line(line)
        for warning in run.warnings:
            terminal.warn(warning)
        run.start.make_way(checkpoints, terminal)
        validation_predictions.forget_later(place, step)
        validation, events = run.data.validation, history.events
        tensorboard = TensorBoard(place, events, run.config, run.assembly.state, validation, run.lineage)
        views = Views(place, validation, run.config.preprocess, events[VALIDATION], tensorboard)
        with followed(run_dir, run.config.tracking, history.notices, terminal.warn, watchdog.clock):
            checkpointer = _checkpointer(checkpoints, run, mirror, history, terminal, process)
            watchdog.in_flight, watchdog.way_back = checkpointer.wait, checkpointer.way_back
            # a checkpoint that was taken from elsewhere is not in this directory yet
            committed_step = step if (checkpoints / directory.name_of(step)).is_dir() else None
            terminal.stage("tracing the step: the first one takes longer than the others")
            try:
                yield Outputs(checkpointer, history, terminal, views, committed_step)
            finally:
                with watchdog.clock.phase("saving"):
                    views.close()
                    checkpointer.close()
        summarize(run_dir, run, history, terminal)
    except TrainerError as error:
        terminal.log(_logged(error))
        raise
    except tf.errors.OpError:  # of an exchange that was given up
        if process.peers is not None and process.peers.wait_for_loss(SILENCE):
            terminal.log(f"{PeerLost.__name__}: {process.peers.lost}")
        raise
    finally:
        if clock.close() and mirror is not None:
            mirror.finish_account()
        history.close()
        terminal.close()


@contextmanager
def logging(run_dir: Path) -> Iterator[None]:
    """Write an error of the block to ``train.log``, where ``taking`` does not: nothing of the run is open."""
    try:
        yield
    except TrainerError as error:
        append(layout.as_writer(run_dir) / layout.LOG, _logged(error))
        raise


def _logged(error: TrainerError) -> str:
    return f"{type(error).__name__}: {error}"


def _show_time(events: Events, step: int, shares: Mapping[str, float]) -> None:
    events.scalars(step, {f"time/{phase}": share for phase, share in shares.items()})


def _checkpointer(
    checkpoints: Path, run: Prepared, mirror: Mirror | None, history: History, terminal: Terminal, process: Process
) -> Checkpointer:
    progress = run.assembly.state.progress
    contents = Contents(
        config=run.config,
        fingerprint=run.fingerprint,
        class_names=run.data.training.class_names,
        examples_per_epoch=run.data.sampling.examples_per_epoch,
        versions=run.versions,
        lineage=run.lineage,
        progress=progress,
        state_file=run.assembly.state_file,
    )
    store = Store(checkpoints, _retention(run.config), mirror, run.start.checkpoint)
    return Checkpointer(
        contents, store, history, terminal, lambda: process.tell({"committed": int(progress.step.numpy())})
    )


def _mirror(run_dir: Path, run: Prepared) -> Mirror | None:
    url = run.config.checkpoint.mirror
    if url is None:
        return None
    return Mirror(Place(url), run_dir, _retention(run.config), run.lineage[0], run.assembly.step)


def _retention(config: Config) -> Retention:
    policy = config.checkpoint
    return Retention(policy.keep_last, policy.keep_best, policy.keep_every_steps, policy.best_metric)
