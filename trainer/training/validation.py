"""One validation of a run: made, recorded, and noted in the state."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.metrics import OF_CLASSES, counts, counts_by, is_better
from trainer.config.schema import Config
from trainer.data.ahead import Ahead
from trainer.data.batch import Batch
from trainer.data.supply import Supply
from trainer.errors import measure
from trainer.run_directory.metrics import VALIDATION, Record, best_step
from trainer.training.class_metrics import Collected, scores_kept
from trainer.training.due import Standing
from trainer.training.evaluation import evaluate
from trainer.training.interfaces import EvaluationStep, Run
from trainer.training.state import Progress
from trainer.training.step import COLUMNS

SENSELESS = 10.0  # times the loss of guessing: an overfitted network stays below, a diverged one is far above


def validate(run: Run, standing: Standing, evaluation_step: EvaluationStep, *, closing: bool) -> Standing:
    """Validate this step, record it, and note it in the state unless it is ``closing``; a request to stop that arrives
    meanwhile leaves everything as it was.

    Raises:
        UsageError: the data cannot be read, or no example can be used; everything is as it was.
    """
    assert run.config.model.num_classes is not None
    kept = scores_kept(run.config.checkpoint.best_metric, run.config.early_stopping.metric)
    seen = _Seen(run.config.model.num_classes, kept)

    def watched(batch: Batch) -> tf.Tensor:
        sums, examples = evaluation_step(batch)
        if not seen.batches and not run.history.validations:
            run.views.graph(lambda: evaluation_step.get_concrete_function(batch).graph)
        seen.add(examples)
        run.clock.progress()
        return sums

    with contextlib.closing(Supply(run.evaluation_batches, run.stop.is_asked, run.terminal.warn)) as supply:
        batches = Ahead(supply, 1 if run.stop.is_shared else 0, run.stop.data_failed)
        if run.stop.is_shared:
            batches.look()
            run.stop.poll()  # so that the answer is there before the first batch is needed
        validation = evaluate(batches, watched, lambda: run.stop.poll() is not None)
    if validation is None:
        return standing
    seen.finish()
    validation |= seen.collected.metrics()
    improved = _record_validation(run, standing.step, validation, seen.predictions, closing)
    standing = dataclasses.replace(standing, recorded=True, improved=improved)
    if closing:
        return standing
    progress = run.state.progress
    _note_validation(progress, standing.step, validation, run.config)
    out_of_patience = patience_is_exhausted(progress, run.config)
    # a process that was stopped before this validation has committed the step without it
    committed = None if standing.committed == standing.step else standing.committed
    return dataclasses.replace(standing, noted=standing.step, committed=committed, out_of_patience=out_of_patience)


class _Seen:
    """The predictions of a validation on the host. Those of a batch are fetched when the next one is under way, so that
    the device does not wait.
    """

    def __init__(self, classes: int, most_scores: int) -> None:
        self.batches = 0
        self.predictions: list[npt.NDArray[np.float32]] = []  # [B, 5] for each batch
        self.collected = Collected(classes, most_scores)
        self._under_way: tf.Tensor | None = None

    def add(self, examples: tf.Tensor) -> None:
        """``examples`` is float32 ``[B, 5 + classes]``, see ``make_evaluation_step``."""
        self.batches += 1
        self.finish()
        self._under_way = examples

    def finish(self) -> None:
        if self._under_way is None:
            return
        columns = self._under_way.numpy()
        self._under_way = None
        self.predictions.append(columns[:, :COLUMNS].copy())
        label, predicted, _, loss, weight = columns[:, :COLUMNS].T
        used = weight > 0.0
        numbers = label[used].astype(np.int64), predicted[used].astype(np.int64)
        self.collected.add(*numbers, np.isfinite(loss[used]), columns[used, COLUMNS:])


def _record_validation(
    run: Run,
    step: int,
    validation: dict[str, float],
    seen: Sequence[npt.NDArray[np.float32]],
    closing: bool,
) -> bool:
    """Write a validation to the history; returns whether it is the best so far.

    ``closing`` marks one made only because the run ends here: it leaves no trace in the state, so that a longer run
    that continues from here is the same as one that never stopped.
    """
    metric = run.config.checkpoint.best_metric
    earlier = [values[metric] for values in run.history.validations.values() if counts_by(values, metric)]
    improved = counts_by(validation, metric) and all(is_better(validation[metric], value, metric) for value in earlier)
    epoch = run.epoch(int(run.state.progress.examples.numpy()))
    run.history.add(Record(step, VALIDATION, validation, {"epoch": epoch, "closing": closing}))
    best = best_step(run.history.validations, metric)
    run.views.validated(step, seen, (step,) if best is None else (step, best))
    remarks = _remarks(validation, run.config, improved=improved)
    used = dict.fromkeys((metric, run.config.early_stopping.metric))
    others = "".join(f"  {name} {measure(validation[name])}" for name in used if name in OF_CLASSES)
    run.terminal.line(
        f"step {step}/{run.total_steps}  epoch {epoch:.2f}  validation loss {measure(validation['loss'])}  "
        f"accuracy {validation['accuracy']:.4f}{others}{''.join(f'  {remark}' for remark in remarks)}"
    )
    return improved


def _remarks(validation: Mapping[str, float], config: Config, *, improved: bool) -> list[str]:
    """What a reader must know beside the numbers of a validation."""
    assert config.model.num_classes is not None
    guessing = math.log(config.model.num_classes)  # the loss of equal probabilities
    remarks = []
    if not counts(validation):
        remarks.append("it does not count: the loss is not finite")
    elif not counts_by(validation, config.checkpoint.best_metric):
        remarks.append(f"it does not count: {config.checkpoint.best_metric} is not defined for these examples")
    elif validation["loss"] > SENSELESS * guessing:
        remarks.append(f"far worse than guessing, whose loss is {guessing:.2f}: training diverges, or has just begun")
    elif improved:
        remarks.append("best so far")
    if validation["skipped"]:
        remarks.append(f"{validation['skipped']} bad records left out")
    return remarks


def _note_validation(progress: Progress, step: int, validation: dict[str, float], config: Config) -> None:
    """Move the state that depends on validation: best so far, and early stopping's patience.

    A validation that does not count is no improvement, and none of its values enter the state.
    """
    first = _is_first(progress)
    _note_best(progress, step, validation, config)
    _note_patience(progress, validation, config, first=first)
    progress.evaluations.assign_add(1)
    progress.evaluated_step.assign(step)


def _is_first(progress: Progress) -> bool:
    """Whether patience has nothing to compare with. A best so far alone does not tell: by a metric that is not defined
    for these examples there is none, and by one that earlier versions did not record there is none yet.
    """
    return int(progress.best_step.numpy()) == 0 and float(progress.patience_value.numpy()) == 0.0


def _note_best(progress: Progress, step: int, validation: Mapping[str, float], config: Config) -> None:
    metric, first = config.checkpoint.best_metric, int(progress.best_step.numpy()) == 0
    counted = counts_by(validation, metric)
    if counted and (first or is_better(validation[metric], float(progress.best_value.numpy()), metric)):
        progress.best_value.assign(validation[metric])
        progress.best_step.assign(step)


def _note_patience(progress: Progress, validation: Mapping[str, float], config: Config, *, first: bool) -> None:
    stopping = config.early_stopping
    watched = validation[stopping.metric]
    reference = float(progress.patience_value.numpy())
    counted = counts_by(validation, stopping.metric)
    if counted and (first or is_better(watched, reference, stopping.metric, stopping.min_change)):
        progress.patience_value.assign(watched)
        progress.patience_used.assign(0)
    else:
        progress.patience_used.assign_add(1)


def recount(
    progress: Progress, earlier: Callable[[], Mapping[int, Mapping[str, float]]], before: Config, config: Config
) -> list[str]:
    """Where ``config`` ranks validations otherwise than ``before``, which the state was made with: make the best so far
    and the patience what they would be if it had from the start. ``earlier`` reads the validations of the run but those
    that its end made; the ones that the state knows of are counted.

    Without this, an accuracy would be compared with a loss. Returns lines for the log.
    """
    metric, stopping = config.checkpoint.best_metric, config.early_stopping
    of_best = before.checkpoint.best_metric != metric
    of_patience = (before.early_stopping.metric, before.early_stopping.min_change) != (
        stopping.metric,
        stopping.min_change,
    )
    if not (of_best or of_patience):
        return []
    known = {step: values for step, values in earlier().items() if step <= int(progress.evaluated_step.numpy())}
    if of_best:
        progress.best_value.assign(0.0)
        progress.best_step.assign(0)
    if of_patience:
        progress.patience_value.assign(0.0)
        progress.patience_used.assign(0)
    first = True
    for step, validation in sorted(known.items()):
        if of_patience and stopping.metric in validation:
            nothing = first and float(progress.patience_value.numpy()) == 0.0
            _note_patience(progress, validation, config, first=nothing)
        if of_best:
            _note_best(progress, step, validation, config)
        first = first and not counts_by(validation, metric)
    again = f"counted again from {len(known)} earlier validation{'' if len(known) == 1 else 's'}"
    said = [f"the best so far by checkpoint.best_metric={metric} is {again}"] if of_best else []
    return [*said, *([f"the patience of early_stopping.metric={stopping.metric} is {again}"] if of_patience else [])]


def patience_is_exhausted(progress: Progress, config: Config) -> bool:
    patience = config.early_stopping.patience
    return patience is not None and int(progress.patience_used.numpy()) >= patience
