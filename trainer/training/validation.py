"""One validation of a run: made, recorded, and noted in the state."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainer.config.metrics import counts, is_better
from trainer.config.schema import Config
from trainer.data.ahead import Ahead
from trainer.data.batch import Batch
from trainer.data.supply import Supply
from trainer.run_directory.metrics import VALIDATION, Record, best_step
from trainer.training.due import Standing
from trainer.training.evaluation import evaluate
from trainer.training.interfaces import Run
from trainer.training.state import Progress

SENSELESS = 10.0  # times the loss of guessing: an overfitted network stays below, a diverged one is far above


def validate(
    run: Run, standing: Standing, evaluation_step: tf.types.experimental.PolymorphicFunction, *, closing: bool
) -> Standing:
    """Validate this step, record it, and note it in the state unless it is ``closing``; a request to stop that arrives
    meanwhile leaves everything as it was.

    Raises:
        UsageError: the data cannot be read, or no example can be used; everything is as it was.
    """
    seen: list[tf.Tensor] = []

    def watched(batch: Batch) -> tf.Tensor:
        sums, examples = evaluation_step(batch)
        if not seen and not run.history.validations:
            run.views.graph(lambda: evaluation_step.get_concrete_function(batch).graph)
        seen.append(examples)
        return sums

    with contextlib.closing(Supply(run.evaluation_batches, run.stop.is_asked, run.terminal.warn)) as supply:
        batches = Ahead(supply, 1 if run.stop.is_shared else 0, run.stop.data_failed)
        if run.stop.is_shared:
            batches.look()
            run.stop.poll()  # so that the answer is there before the first batch is needed
        validation = evaluate(batches, watched, lambda: run.stop.poll() is not None)
    if validation is None:
        return standing
    improved = _record_validation(run, standing.step, validation, seen, closing)
    standing = dataclasses.replace(standing, recorded=True, improved=improved)
    if closing:
        return standing
    progress = run.state.progress
    _note_validation(progress, standing.step, validation, run.config)
    out_of_patience = patience_is_exhausted(progress, run.config)
    return dataclasses.replace(standing, noted=standing.step, out_of_patience=out_of_patience)


def _record_validation(
    run: Run, step: int, validation: dict[str, float], seen: Sequence[tf.Tensor], closing: bool
) -> bool:
    """Write a validation to the history; returns whether it is the best so far.

    ``closing`` marks one made only because the run ends here: it leaves no trace in the state, so that a longer run
    that continues from here is the same as one that never stopped.
    """
    metric = run.config.checkpoint.best_metric
    earlier = [values[metric] for values in run.history.validations.values() if counts(values)]
    improved = counts(validation) and all(is_better(validation[metric], value, metric) for value in earlier)
    epoch = run.epoch(int(run.state.progress.examples.numpy()))
    run.history.add(Record(step, VALIDATION, validation, {"epoch": epoch, "closing": closing}))
    best = best_step(run.history.validations, metric)
    run.views.validated(step, seen, (step,) if best is None else (step, best))
    remarks = _remarks(validation, run.config, improved=improved)
    run.terminal.line(
        f"step {step}/{run.total_steps}  epoch {epoch:.2f}  validation loss {validation['loss']:.4f}  "
        f"accuracy {validation['accuracy']:.4f}{''.join(f'  {remark}' for remark in remarks)}"
    )
    return improved


def _remarks(validation: Mapping[str, float], config: Config, *, improved: bool) -> list[str]:
    """What a reader must know beside the numbers of a validation."""
    assert config.model.num_classes is not None
    guessing = math.log(config.model.num_classes)  # the loss of equal probabilities
    remarks = []
    if not counts(validation):
        remarks.append("it does not count: the loss is not finite")
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
    first = int(progress.best_step.numpy()) == 0  # no validation has counted yet
    metric, stopping = config.checkpoint.best_metric, config.early_stopping
    counted = counts(validation)
    if counted and (first or is_better(validation[metric], float(progress.best_value.numpy()), metric)):
        progress.best_value.assign(validation[metric])
        progress.best_step.assign(step)
    watched = validation[stopping.metric]
    reference = float(progress.patience_value.numpy())
    if counted and (first or is_better(watched, reference, stopping.metric, stopping.min_change)):
        progress.patience_value.assign(watched)
        progress.patience_used.assign(0)
    else:
        progress.patience_used.assign_add(1)
    progress.evaluations.assign_add(1)
    progress.evaluated_step.assign(step)


def patience_is_exhausted(progress: Progress, config: Config) -> bool:
    patience = config.early_stopping.patience
    return patience is not None and int(progress.patience_used.numpy()) >= patience
