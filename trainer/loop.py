"""The training loop. A fresh and a resumed run execute the same code; only the state they begin with differs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import tensorflow as tf

from trainer.agreement import StopAgreement
from trainer.config.schema import Config
from trainer.errors import Stopped, TrainingFailed
from trainer.evaluation import evaluate
from trainer.gradients import Batch
from trainer.loss_scale import MINIMUM
from trainer.metrics import TRAIN, VALIDATION, Record, best_step
from trainer.schedules import learning_rate_at
from trainer.signals import exit_status
from trainer.state import Progress, TrainingState
from trainer.step import Told, make_evaluation_step, make_train_step


class Saves(Protocol):
    """See Committer."""

    def check(self) -> None: ...
    def save(self) -> None: ...
    def finish(self) -> None: ...
    def last_good(self) -> str: ...


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


class Views(Protocol):
    """See TensorBoard."""

    def before(self, step: int, batch: Batch) -> None: ...
    def after(self, step: int) -> None: ...
    def validated(self, step: int, examples: Sequence[tf.Tensor], keep: Sequence[int]) -> None: ...
    def graph(self, graph: Callable[[], tf.Graph]) -> None: ...


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
    views: Views
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
    stretch = _Stretch()
    while True:
        run.committer.check()
        finished = step >= run.total_steps or out_of_patience
        on_cadence = step > 0 and step % config.evaluation.every_steps == 0
        closing = finished and step > 0 and not on_cadence
        pending = (on_cadence and noted != step) or (closing and step not in run.history.validations)
        improved = False
        stopping = run.stop.poll()
        if pending and stopping is None:
            with stretch.paused():
                validation, seen = _validate(run, evaluation_step)
            stopping = run.stop.poll()  # one that arrives now is seen after the next step
            if validation is not None:
                pending = False
                improved = _record_validation(run, step, validation, seen, closing)
            if validation is not None and on_cadence:
                noted = step
                _note_validation(progress, step, validation, config)
                out_of_patience = _patience_is_exhausted(progress, config)
                finished = finished or out_of_patience
        due = step > 0 and step % config.checkpoint.every_steps == 0
        best = improved and config.checkpoint.keep_best > 0
        if (finished or due or best or stopping) and committed != step:
            with stretch.paused():
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
        batch = stretch.next(batches)
        run.views.before(step + 1, batch)
        stretch.add(train_step(batch))
        step += 1
        run.terminal.step(step)
        if step % config.train.log_every_steps == 0 or step == run.total_steps:
            _log_training(run, step, stretch)
        run.views.after(step)


def _iterate(run: Run) -> Iterator[Batch]:
    """The batches from the current position on; opened when the first is asked for."""
    yield from run.training_batches(int(run.state.progress.examples.numpy()))


def _validate(
    run: Run, evaluation_step: tf.types.experimental.PolymorphicFunction
) -> tuple[dict[str, float] | None, list[tf.Tensor]]:
    """The means over the validation split, None when a request to stop came in between; and what was predicted."""
    seen: list[tf.Tensor] = []

    def watched(batch: Batch) -> tf.Tensor:
        sums, examples = evaluation_step(batch)
        if not seen and not run.history.validations:
            run.views.graph(lambda: evaluation_step.get_concrete_function(batch).graph)
        seen.append(examples)
        return sums

    return evaluate(run.evaluation_batches, watched, lambda: run.stop.poll() is not None), seen


def _record_validation(
    run: Run, step: int, validation: dict[str, float], seen: Sequence[tf.Tensor], closing: bool
) -> bool:
    """Write a validation to the history; whether it is the best so far.

    ``closing`` marks one made only because the run ends here: it leaves no trace in the state, so that a longer run
    that continues from here is the same as one that never stopped.
    """
    metric = run.config.checkpoint.best_metric
    earlier = [values[metric] for values in run.history.validations.values()]
    improved = all(_better(validation[metric], value, metric, 0.0) for value in earlier)
    epoch = run.epoch(int(run.state.progress.examples.numpy()))
    run.history.add(Record(step, VALIDATION, validation, {"epoch": epoch, "closing": closing}))
    best = best_step(run.history.validations, metric)
    assert best is not None
    run.views.validated(step, seen, (step, best))
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


def _log_training(run: Run, step: int, stretch: _Stretch) -> None:
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
        raise TrainingFailed(_not_finite(run, step, stretch.told))
    rate = learning_rate_at(progress.step - 1, config.optimizer.learning_rate, config.schedule)
    told = stretch.told
    images_per_second, input_wait = stretch.end(config.train.global_batch_size)
    scalars = {
        "loss": loss,
        "accuracy": int(progress.correct.numpy()) / seen,
        "learning_rate": float(rate.numpy()),
        "weight_norm": float(tf.linalg.global_norm(list(run.state.trainable.values())).numpy()),
        "images_per_second": images_per_second,
        "input_wait": input_wait,
        "substituted": int(progress.substituted.numpy()),
    }
    closing = step % config.train.log_every_steps != 0
    gradient_norm = float(told[-1].gradient_norm.numpy())
    if not closing and math.isfinite(gradient_norm):  # with a loss scale, a step may be skipped
        scalars["gradient_norm"] = gradient_norm
    if config.runtime.precision == "mixed_float16":
        scalars["loss_scale"] = float(progress.loss_scale.numpy())
    examples = int(progress.examples.numpy())
    facts = {"epoch": run.epoch(examples), "examples": examples, "ledger": progress.ledger_text(), "closing": closing}
    run.history.add(Record(step, TRAIN, scalars, facts))
    left = (run.total_steps - step) * config.train.global_batch_size / scalars["images_per_second"]
    run.terminal.training(step, run.total_steps, run.epoch(examples), scalars, left)
    if not closing:
        for variable in (progress.loss_sum, progress.correct, progress.seen, progress.steps_summed):
            variable.assign(tf.zeros_like(variable))


def _not_finite(run: Run, step: int, told: Sequence[Told]) -> str:
    losses = [float(each.loss.numpy()) for each in told]
    bad = next((at for at, loss in enumerate(losses, step - len(losses) + 1) if not math.isfinite(loss)), step)
    size = run.config.train.global_batch_size
    last = int(run.state.progress.examples.numpy()) - (step - bad) * size
    return (
        f"the training loss is not finite at step {bad}, of training examples {last - size} to {last - 1}; "
        f"nothing was committed since; {run.committer.last_good()}\n"
        "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or resume from an earlier checkpoint"
    )


def _check_loss_scale(progress: Progress, step: int) -> None:
    """Skipped steps are the loss scale finding its place, unless it is at its lowest already."""
    scale = float(progress.loss_scale.numpy())
    if scale <= MINIMUM:
        raise TrainingFailed(
            f"the gradients at step {step} are not finite although the loss scale is down to {scale:g}\n"
            "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or runtime.precision=mixed_bfloat16"
        )


class _Stretch:
    """The steps that this process made since the last training record: what they told, and the time they took.

    Evaluation and saving are left out of the time.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.told: list[Told] = []
        self._start = time.monotonic()
        self._waited = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        pause = time.monotonic()
        yield
        self._start += time.monotonic() - pause

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, once it is there."""
        began = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - began
        return batch

    def add(self, told: Told) -> None:
        """A step was made."""
        self.told.append(told)

    def end(self, batch_size: int) -> tuple[float, float]:
        """Images per second and the share of the time that was spent waiting for batches; the next stretch begins."""
        elapsed = time.monotonic() - self._start
        rates = len(self.told) * batch_size / elapsed, self._waited / elapsed
        self._begin()
        return rates
