"""The training loop. A fresh and a resumed run execute the same code; only the state they begin with differs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from trainer.config.schema import Config
from trainer.errors import Stopped, TrainingFailed
from trainer.evaluation import evaluate
from trainer.history import TRAIN, VALIDATION, History, Record
from trainer.schedules import learning_rate_at
from trainer.signals import StopRequest
from trainer.state import Progress, TrainingState
from trainer.step import Batch, make_evaluation_step, make_train_step
from trainer.terminal import Terminal


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop works with. ``commit`` makes a checkpoint of the current step and returns its directory."""

    config: Config
    state: TrainingState
    train_examples: int
    total_steps: int
    training_batches: Callable[[int], tf.data.Dataset]  # from a position on
    evaluation_batches: tf.data.Dataset
    commit: Callable[[], Path]
    committed_step: int | None  # the step of the checkpoint the run was restored from
    history: History
    terminal: Terminal
    stop: StopRequest

    def epoch(self, examples: int) -> float:
        return examples / self.train_examples


def train(run: Run) -> None:
    """Train until ``total_steps`` or early stopping.

    What is due at a step is decided from the state alone (has this step been evaluated? committed?), so a run that
    was interrupted between two of these does the missing ones first when it goes on.

    Raises:
        Stopped: a signal asked for it; the current step is committed.
        TrainingFailed: the loss or a variable is not finite; nothing is committed.
    """
    progress, config = run.state.progress, run.config
    train_step = make_train_step(run.state, config)
    evaluation_step = make_evaluation_step(run.state, config)
    step = int(progress.step.numpy())
    evaluated = int(progress.evaluated_step.numpy())
    committed = run.committed_step
    out_of_patience = _patience_is_exhausted(progress, config)
    batches = _iterate(run)
    clock = _Clock()
    while True:
        finished = step >= run.total_steps or out_of_patience
        improved = False
        if _evaluation_is_due(step, finished, config) and evaluated != step and run.stop.signal is None:
            with clock.paused():
                validation = evaluate(run.evaluation_batches, evaluation_step, lambda: run.stop.signal is not None)
            if validation is not None:
                improved = _note_evaluation(run, step, validation)
                evaluated = step
                out_of_patience = _patience_is_exhausted(progress, config)
                finished = finished or out_of_patience
        due = step > 0 and step % config.checkpoint.every_steps == 0
        best = improved and config.checkpoint.keep_best > 0
        if (finished or due or best or run.stop.signal) and committed != step:
            with clock.paused():
                run.history.sync()
                run.commit()
            committed = step
        if run.stop.signal is not None and not (finished and evaluated == step):
            raise Stopped(
                f"{run.stop.signal.name} at step {step}; checkpoint step-{step:08d} is committed", run.stop.exit_status
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


def _evaluation_is_due(step: int, finished: bool, config: Config) -> bool:
    assert config.evaluation.every_steps is not None
    return step > 0 and (finished or step % config.evaluation.every_steps == 0)


def _note_evaluation(run: Run, step: int, validation: dict[str, float]) -> bool:
    """Record a validation in state and history; whether it is the best so far."""
    progress, config = run.state.progress, run.config
    first = int(progress.evaluations.numpy()) == 0
    value = validation[config.checkpoint.best_metric]
    improved = first or _better(value, float(progress.best_value.numpy()), config.checkpoint.best_metric, 0.0)
    if improved:
        progress.best_value.assign(value)
        progress.best_step.assign(step)
    stopping = config.early_stopping
    watched = validation[stopping.metric]
    reference = float(progress.patience_value.numpy())
    if first or _better(watched, reference, stopping.metric, stopping.min_change):
        progress.patience_value.assign(watched)
        progress.patience_used.assign(0)
    else:
        progress.patience_used.assign_add(1)
    progress.evaluations.assign_add(1)
    progress.evaluated_step.assign(step)
    epoch = run.epoch(int(progress.examples.numpy()))
    run.history.add(Record(step, VALIDATION, validation, {"epoch": epoch}))
    marker = "  best so far" if improved else ""
    run.terminal.line(
        f"step {step}/{run.total_steps}  epoch {epoch:.2f}  validation loss {validation['loss']:.4f}  "
        f"accuracy {validation['accuracy']:.4f}{marker}"
    )
    return improved


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
    }
    examples = int(progress.examples.numpy())
    facts = {"epoch": run.epoch(examples), "examples": examples, "ledger": ledger_text(progress)}
    run.history.add(Record(step, TRAIN, scalars, facts))
    left = (run.total_steps - step) * config.train.global_batch_size / scalars["images_per_second"]
    run.terminal.training(step, run.total_steps, run.epoch(examples), scalars, left)
    if step % config.train.log_every_steps == 0:
        for variable in (progress.loss_sum, progress.correct, progress.seen, progress.steps_summed):
            variable.assign(tf.zeros_like(variable))


def ledger_text(progress: Progress) -> str:
    """The digest of all examples consumed so far, 16 hexadecimal digits."""
    return f"{int(progress.ledger.numpy()) % 2**64:016x}"


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
