"""The one process that writes a run directory: what it takes, keeps open, and closes again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.retention import Retention
from trainer.config import stored
from trainer.config.schema import Config
from trainer.distributed.membership import Process
from trainer.errors import TrainerError, warn
from trainer.monitoring.tensorboard import TensorBoard
from trainer.monitoring.terminal import Terminal
from trainer.monitoring.views import Views
from trainer.run.checkpointer import Checkpointer, Contents, Store
from trainer.run.preparation import Prepared
from trainer.run.summary import opening, summarize
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
    clock: Clock
    committed_step: int | None


@contextmanager
def taking(run_dir: Path, run: Prepared, process: Process) -> Iterator[Outputs]:
    """Take the run directory, which this process has locked, while the block runs. Then print how the run ended.

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
    history = History(place, step)
    terminal = Terminal(place / layout.LOG, step, run.total_steps)
    show_time = functools.partial(_show_time, history.events[TRAIN])
    clock = Clock(Fence(place / layout.LOCK), place, process.stop.began, step, show_time)
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
        checkpointer = _checkpointer(checkpoints, run, mirror, history, terminal, process)
        # a checkpoint that was taken from elsewhere is not in this directory yet
        committed_step = step if (checkpoints / directory.name_of(step)).is_dir() else None
        try:
            yield Outputs(checkpointer, history, terminal, views, clock, committed_step)
        finally:
            views.close()
            with clock.phase("saving"):
                checkpointer.close()
        summarize(run_dir, run, history, terminal)
    except TrainerError as error:
        terminal.log(f"{type(error).__name__}: {error}")
        raise
    finally:
        clock.close()
        history.close()
        terminal.close()


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
