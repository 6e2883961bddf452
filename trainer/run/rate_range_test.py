"""A learning rate range test of a run that is there, or of one that could be started. Nothing is written or locked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.checkpoint.verification import reading
from trainer.command_line import argument, changing_command, consent
from trainer.config import override, plugins, reproduction, stored
from trainer.config.complete import total_steps, with_leaves
from trainer.config.schema import Config, Invocation
from trainer.config.schema.optimization import ConstantScheduleConfig
from trainer.data.batches import training_batches
from trainer.distributed.membership import Process
from trainer.errors import warn
from trainer.run.preparation import Prepared, prepare
from trainer.run.session import from_nothing
from trainer.run.starting_point import FromCheckpoint, StartingPoint
from trainer.run_directory import which_checkpoint
from trainer.runtime.signals import StopRequest
from trainer.storage.unreadable import is_directory
from trainer.training.rate_range import Tried, try_rates
from trainer.training.schedules import learning_rate_at, left_by_rollbacks

RATE = "optimizer.learning_rate"
LEAST_SHARE = 0.1  # of the peak; below it, the peak would have to be far above the rate that was found


@dataclasses.dataclass(frozen=True)
class Range:
    """The rates to try: ``steps`` from ``lowest`` to ``highest``."""

    lowest: float
    highest: float
    steps: int


@dataclasses.dataclass(frozen=True)
class Subject:
    """A state in this process's memory, and the data to train it on."""

    prepared: Prepared

    @property
    def step(self) -> int:
        return self.prepared.assembly.step

    def tried(self, wanted: Range) -> Iterator[Tried]:
        """Train this state, which is spent afterwards, at rising rates; each step when it was made."""
        state, config = self.prepared.assembly.state, self.prepared.config
        batches = training_batches(
            self.prepared.data.training,
            config,
            int(state.progress.examples.numpy()),
            state.dropout_features,
            warn=warn,
            device=state.replicas.input_device,
        )
        return try_rates(state, config, batches, wanted.lowest, wanted.highest, wanted.steps)


def of_run(run_dir: Path, checkpoint: str, allow: Sequence[str]) -> Subject:
    """The state of a checkpoint, with the order of examples and the optimizer's variables that a resume continues.

    Raises:
        UsageError: the directory does not exist, or the data cannot be read.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        Vanished: the run that is training there has deleted it meanwhile.
        RestoreRefused: code or data differ from those of the checkpoint.
    """
    if not is_directory(Path(checkpoint)):
        which_checkpoint.refuse_missing(run_dir)
    found = which_checkpoint.find(run_dir, checkpoint, "full", warn)
    with reading(found.path):
        others = plugins.refuse_others(found.manifest.versions, allow, found.path)
        there = stored.read(found.path / stored.FILE_NAME)
        # a run that is complete has a state, too
        wanted = with_leaves(there, {"train.steps": found.manifest.step + 1})
        changes = override.changes(there, wanted, whole=True)
        start = FromCheckpoint(
            found.path, found.manifest, found.damaged, changes, allow, others, asked=None, repeats=True
        )
        return _subject(run_dir, wanted, start)


def of_new_run(invocation: Invocation, config: Config) -> Subject:
    """The state that a new run would begin with.

    Raises:
        UsageError: the configuration does not fit the machine or the data.
    """
    return _subject(Path(invocation.run_dir), config, from_nothing(invocation, config))


def _subject(run_dir: Path, config: Config, start: StartingPoint) -> Subject:
    prepared = prepare(run_dir, config, start, Process(StopRequest(), None))
    assert prepared is not None, "a step is left to do"
    return Subject(prepared)


def command_for_run(rate: float, run_dir: Path, checkpoint: str, subject: Subject, step: int) -> tuple[str, str]:
    """What the command does, and the command that continues a run at ``rate`` from the tested checkpoint, of ``step``.

    The key has the peak of the schedule. So it gets the peak with which the rate at this step is ``rate``, and where
    the schedule leaves next to nothing of it, or has ended, the rate becomes a constant one. What rollbacks take of the
    rate (``divergence.learning_rate_factor``) they take of any schedule.
    """
    start = subject.prepared.start
    assert isinstance(start, FromCheckpoint), "of_run has made it"
    there = stored.read(start.checkpoint / stored.FILE_NAME)
    total = total_steps(there, subject.prepared.data.sampling.examples_per_epoch)
    share = _share(there, step)
    left = float(left_by_rollbacks(tf.constant(start.manifest.examples, tf.int64), there).numpy())
    chosen = [] if checkpoint == "latest" else [argument("checkpoint", _place(checkpoint))]
    changes: dict[str, Any] = {}
    consents = [RATE]
    if step >= total:
        changes["train.steps"] = 2 * step
    what = "to go on from here with it"
    if (step >= total or share < LEAST_SHARE) and not isinstance(there.schedule, ConstantScheduleConfig):
        changes["schedule"] = "constant"
        consents.append("schedule")
        share = 1.0
        what = f"{what}, as a constant rate"
    changes[RATE] = float(f"{rate / share / left:.2g}")
    reasons = []
    if share != 1.0:
        reasons.append(f"schedule={there.schedule.name} has {share:.2g} of the peak at step {step}")
    if left != 1.0:
        reasons.append(f"divergence.learning_rate_factor leaves {left:.2g} of it after the rollbacks")
    if changes[RATE] != rate and reasons:
        what = f"{what} ({', and '.join(reasons)})"
    return what, changing_command(run_dir, changes, consents, *chosen)


def command_for_new_run(rate: float, invocation: Invocation, config: Config) -> tuple[str, str]:
    """What the command does, and the command that starts the run at ``rate``."""
    more = []
    if invocation.init_from is not None:
        more.append(argument("init_from", Path(invocation.init_from)))
    if invocation.allow:
        more.append(consent(invocation.allow))
    command = reproduction.command(with_leaves(config, {RATE: rate}), Path(invocation.run_dir), *more)
    return "to train with it", command


def _share(config: Config, step: int) -> float:
    """The share of the peak that the schedule has at a step, apart from the warm-up, which is short."""
    schedule = config.schedule
    assert schedule.warmup_steps is not None, "a stored configuration is complete"
    share = float(learning_rate_at(tf.constant(step, tf.int64), 1.0, schedule).numpy())
    return share / min((step + 1) / schedule.warmup_steps, 1.0) if schedule.warmup_steps else share


def _place(checkpoint: str) -> str | Path:
    return Path(checkpoint) if Path(checkpoint).is_dir() else checkpoint
