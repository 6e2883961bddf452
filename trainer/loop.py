"""The training loop. A fresh and a resumed run execute the same code; only the state they begin with differs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import tensorflow as tf

from trainer.agreement import StopAgreement
from trainer.config.schema import Config
from trainer.errors import Stopped, TrainingFailed
from trainer.evaluation import evaluate
from trainer.gradients import Batch
from trainer.history import TRAIN, VALIDATION, Record
from trainer.loss_scale import MINIMUM
from trainer.schedules import learning_rate_at
from trainer.signals import exit_status
from trainer.state import Progress, TrainingState
from trainer.step import make_evaluation_step, make_train_step


class Saves(Protocol):
    """See Committer."""

    def check(self) -> None: ...
    def save(self) -> None: ...
    def finish(self) -> None: ...


class Records(Protocol):
    """See History."""

    validations: dict[int, dict[str, float]]

    def add(self, record: Record) -> None: ...


class Display(Protocol):
    """See Terminal."""

    def step(self, step: int) -> None: ...
    def training(
        self, step: int, total: int, epoch: float, values: Mapping[str, float], seconds_left: float
    ) -> None: ...
    def line(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop works with."""

    config: Config
    state: TrainingState
    examples_per_epoch: int
    total_steps: int
    training_batches: Callable[[int], Iterable[Batch]]  # from a position on
    evaluation_batches: Iterable[Batch]
    committer: Saves
    committed_step: int | None  # the step of the checkpoint the run was restored from
    history: Records
    terminal: Display
    stop: StopAgreement

    def epoch(self, examples: int) -> float:
        return examples / self.examples_per_epoch


def train(run: Run) -> None:
    """Train until ``total_steps`` or early stopping.

    What is due at a step is decided from the state alone (has this step been evaluated? committed?), so a run that
    was interrupted between two of these does the missing ones first when it goes on.

    Raises:
        Stopped: a signal asked for it; the current step is committed.
        TrainingFailed: the loss or a variable is not finite; nothing is committed.
        NotSaved: the disk refused a save and the policy is not to go on, or it refused the last one.
    """
    progress, config = run.state.progress, run.config
    assert config.evaluation.every_steps is not None
    train_step = make_train_step(run.state, config)
    evaluation_step = make_evaluation_step(run.state, config)
    step = int(progress.step.numpy())
    noted = int(progress.evaluated_step.numpy())
    committed = run.committed_step
    out_of_patience = _patience_is_exhausted(progress, config)
    batches = _iterate(run)
    clock = _Clock()
    while True:
        run.committer.check()
        finished = step >= run.total_steps or out_of_patience
        on_cadence = step > 0 and step % config.evaluation.every_steps == 0
        closing = finished and step > 0 and not on_cadence
        pending = (on_cadence and noted != step) or (closing and step not in run.history.validations)
        improved = False
        stopping = run.stop.poll()
        if pending and stopping is None:
            with clock.paused():
                validation = evaluate(run.evaluation_batches, evaluation_step, lambda: run.stop.poll() is not None)
            stopping = run.stop.poll()  # one that arrives now is seen after the next step
            if validation is not None:
                pending = False
                improved = _record_validation(run, step, validation, closing)
            if validation is not None and on_cadence:
                noted = step
                _note_validation(progress, step, validation, config)
                out_of_patience = _patience_is_exhausted(progress, config)
                finished = finished or out_of_patience
        due = step > 0 and step % config.checkpoint.every_steps == 0
        best = improved and config.checkpoint.keep_best > 0
        if (finished or due or best or stopping) and committed != step:
            with clock.paused():
                run.committer.save()
            committed = step
        if finished or stopping:
            run.committer.finish()
        if stopping is not None and (pending or not finished):
            raise Stopped(
                f"{stopping.name} at step {step}; checkpoint step-{step:08d} is committed", exit_status(stopping)
            )
        if finished:
            return
        train_step(next(batches))
        step += 1
        clock.step()
        run.terminal.step(step)
        if step % config.train.log_every_steps == 0 or step == run.total_steps:
            _log_training(run, step, clock)


def _iterate(run: Run) -> Iterator[Batch]:
    """The batches from the current position on; opened when the first is asked for."""
    yield from run.training_batches(int(run.state.progress.examples.numpy()))


def _record_validation(run: Run, step: int, validation: dict[str, float], closing: bool) -> bool:
    """Write a validation to the history; whether it is the best so far.

    ``closing`` marks one made only because the run ends here: it leaves no trace in the state, so that a longer run
    that continues from here is the same as one that never stopped.
    """
    metric = run.config.checkpoint.best_metric
    earlier = [values[metric] for values in run.history.validations.values()]
    improved = all(_better(validation[metric], value, metric, 0.0) for value in earlier)
    epoch = run.epoch(int(run.state.progress.examples.numpy()))
    run.history.add(Record(step, VALIDATION, validation, {"epoch": epoch, "closing": closing}))
    skipped = f"  {validation['skipped']} bad records left out" if validation["skipped"] else ""
    run.terminal.line(
        f"step {step}/{run.total_steps}  epoch {epoch:.2f}  validation loss {validation['loss']:.4f}  "
        f"accuracy {validation['accuracy']:.4f}{'  best so far' if improved else ''}{skipped}"
    )
    return improved


def _note_validation(progress: Progress, step: int, validation: dict[str, float], config: Config) -> None:
    """Move the state that depends on validation: best so far, and early stopping's patience."""
    first = int(progress.evaluations.numpy()) == 0
    metric, stopping = config.checkpoint.best_metric, config.early_stopping
    if first or _better(validation[metric], float(progress.best_value.numpy()), metric, 0.0):
        progress.best_value.assign(validation[metric])
        progress.best_step.assign(step)
    watched = validation[stopping.metric]
    reference = float(progress.patience_value.numpy())
    if first or _better(watched, reference, stopping.metric, stopping.min_change):
        progress.patience_value.assign(watched)
        progress.patience_used.assign(0)
    else:
        progress.patience_used.assign_add(1)
    progress.evaluations.assign_add(1)
    progress.evaluated_step.assign(step)


def _better(value: float, reference: float, metric: str, min_change: float) -> bool:
    return reference - value > min_change if metric == "loss" else value - reference > min_change


def _patience_is_exhausted(progress: Progress, config: Config) -> bool:
    patience = config.early_stopping.patience
    return patience is not None and int(progress.patience_used.numpy()) >= patience


def _log_training(run: Run, step: int, clock: _Clock) -> None:
    """Write the mean of the steps since the last record.

    The sums are in the state tree, so a record is the same whether or not its steps were made by one process. At the
    end of a run they are kept: a longer run may follow.
    """
    progress, config = run.state.progress, run.config
    steps, seen = int(progress.steps_summed.numpy()), int(progress.seen.numpy())
    if steps == 0:
        _check_loss_scale(progress, step)
        return
    loss = float(progress.loss_sum.numpy()) / steps
    if not math.isfinite(loss):
        raise TrainingFailed(
            f"the training loss is {loss} in steps {step - steps + 1} to {step}; nothing was committed since\n"
            "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or resume from an earlier checkpoint"
        )
    rate = learning_rate_at(progress.step - 1, config.optimizer.learning_rate, config.schedule)
    scalars = {
        "loss": loss,
        "accuracy": int(progress.correct.numpy()) / seen,
        "learning_rate": float(rate.numpy()),
        "images_per_second": clock.rate(config.train.global_batch_size),
        "substituted": int(progress.substituted.numpy()),
    }
    if config.runtime.precision == "mixed_float16":
        scalars["loss_scale"] = float(progress.loss_scale.numpy())
    examples = int(progress.examples.numpy())
    closing = step % config.train.log_every_steps != 0
    facts = {"epoch": run.epoch(examples), "examples": examples, "ledger": progress.ledger_text(), "closing": closing}
    run.history.add(Record(step, TRAIN, scalars, facts))
    left = (run.total_steps - step) * config.train.global_batch_size / scalars["images_per_second"]
    run.terminal.training(step, run.total_steps, run.epoch(examples), scalars, left)
    if not closing:
        for variable in (progress.loss_sum, progress.correct, progress.seen, progress.steps_summed):
            variable.assign(tf.zeros_like(variable))


def _check_loss_scale(progress: Progress, step: int) -> None:
    """Skipped steps are the loss scale finding its place, unless it is at its lowest already."""
    scale = float(progress.loss_scale.numpy())
    if scale <= MINIMUM:
        raise TrainingFailed(
            f"the gradients at step {step} are not finite although the loss scale is down to {scale:g}\n"
            "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or runtime.precision=mixed_bfloat16"
        )


class _Clock:
    """Images per second of this process between two training records, evaluation and saving left out."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._steps = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        pause = time.monotonic()
        yield
        self._start += time.monotonic() - pause

    def step(self) -> None:
        self._steps += 1

    def rate(self, batch_size: int) -> float:
        """The rate since the last call."""
        rate = self._steps * batch_size / (time.monotonic() - self._start)
        self._start, self._steps = time.monotonic(), 0
        return rate
