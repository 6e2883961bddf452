"""Evaluate a stored checkpoint on its own data, or on other data whose classes it knows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from trainer.config.arguments import parse_arguments
from trainer.config.contracts import Split
from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.data.batch import Batch
from trainer.data.batches import evaluation_batches, is_ready
from trainer.data.evaluated import Evaluated, Trained, open_evaluated, refuse_without_effect
from trainer.data.images.libjpeg import listening
from trainer.data.sixteen_bits import check_range
from trainer.diagnosis.wanted import wanted_config
from trainer.errors import few
from trainer.inference.classification_report import ClassificationReport, Tally
from trainer.run.restore import Restored, restore
from trainer.run.start_cache import start_cache_of
from trainer.training.class_metrics import Collected, scores_kept
from trainer.training.evaluation import evaluate
from trainer.training.step import PredictionStep, make_prediction_step, predictions_of

TOP = 5  # of so many classes or fewer, the right one is always among the five most probable


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate. ``overrides`` are ``key=value`` arguments over the stored configuration. ``split`` is None for
    the one that is meant, see ``open_evaluated``; ``weights`` is None for the weights that the run's own validations
    use.
    """

    run_dir: Path
    checkpoint: str
    overrides: Sequence[str]
    split: Split | None
    weights: WeightsName | None
    flip: bool
    allow: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """``config`` is the stored configuration with the overrides. ``data`` is what was evaluated. ``notes`` say what a
    reader of the numbers has to know. ``recorded`` is the result of the same evaluation in the checkpoint's manifest;
    None where the manifest has another evaluation or none.
    """

    restored: Restored
    config: Config
    data: Evaluated
    weights: WeightsName
    report: ClassificationReport
    recorded: dict[str, float] | None
    notes: tuple[str, ...]


def evaluate_checkpoint(request: Request) -> Evaluation:
    """Evaluate a checkpoint over a whole split.

    Raises:
        UsageError: an override is wrong or has no effect, or the data cannot be read.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        RestoreRefused: program and checkpoint do not match, or the data has classes that the checkpoint does not know.
    """
    restored = restore(request.run_dir, request.checkpoint, request.allow)
    weights = restored.weights(request.weights)
    config = wanted_config(restored.config, request.overrides)
    data = open_evaluated(_trained(restored), config.data, request.split)
    refuse_without_effect(data, parse_arguments(request.overrides))
    if not is_ready(config):
        for text in check_range(data.source, config.preprocess, new=False):
            print(f"warning: {text}", file=sys.stderr)
    step = _prediction_step(restored, weights, flip=request.flip)
    assert config.model.num_classes is not None
    with listening() as heard:
        report = classification_report(
            evaluation_batches(data.source, config),
            step,
            data.source.class_names,
            config.model.num_classes,
            scores_kept(config.checkpoint.best_metric, config.early_stopping.metric),
        )
    if heard:
        print(f"warning: libjpeg repaired images ({heard[0]}); check-data with this data names them", file=sys.stderr)
    same = (
        data.split == "validation"
        and not request.flip
        and weights == restored.config.evaluation.weights
        and config.data == restored.config.data
    )
    notes = (*data.notes, *_without_examples(report, config.data.classes or data.source.class_names))
    return Evaluation(restored, config, data, weights, report, restored.manifest.validation if same else None, notes)


def _prediction_step(restored: Restored, weights: WeightsName, *, flip: bool) -> PredictionStep:
    """The compiled step; the start cache has it where an earlier process has left it."""
    state = restored.state
    step = make_prediction_step(state, weights, flip=flip)
    cache = start_cache_of(restored.config, state.replicas, state.model)
    if cache is None:
        return step
    name = f"prediction_step-{weights}{'-flip' if flip else ''}"
    return cache.kept(name, step, state.weights(weights), predictions_of)


def _without_examples(report: ClassificationReport, class_names: Sequence[str]) -> tuple[str, ...]:
    """A note about the classes that are expected and have no example, so that the numbers are not about them."""
    there = {name for name, count in zip(report.class_names, report.class_examples, strict=True) if count}
    missing = [name for name in class_names if name not in there]
    if not missing:
        return ()
    return (f"{len(missing)} of {len(class_names)} classes have no example here: {few(missing)}",)


def _trained(restored: Restored) -> Trained:
    """The data that the checkpoint was trained on, as it records them."""
    return Trained(restored.path, restored.config.data, restored.manifest.class_names, restored.training_listing)


def classification_report(
    batches: Iterable[Batch],
    step: PredictionStep,
    class_names: tuple[str, ...],
    classes: int,
    most_scores: int,
) -> ClassificationReport:
    """Like ``evaluate``, with all other results from the predictions. ``step`` comes from ``make_prediction_step``.

    ``classes`` is the size of the classifier, ``most_scores`` that of ``Collected``. Classes beyond the data's
    ``class_names`` are named by their number.
    """
    tally, collected = Tally(classes), Collected(classes, most_scores)

    def counted(batch: Batch) -> tf.Tensor:
        sums, predictions = step(batch)
        there = batch["weight"].numpy() > 0.0  # fillers of the last batch and bad records have no weight
        names = ("predicted", "confidence", "in_top_5", "finite")
        columns = [batch["label"], *(predictions[name] for name in names)]
        label, predicted, confidence, in_top_5, finite = (column.numpy()[there] for column in columns)
        tally.add(label, predicted, confidence, in_top_5, finite)
        collected.add(label, predicted, finite, predictions["probabilities"].numpy()[there])
        return sums

    means = evaluate(batches, counted, lambda: False)
    assert means is not None
    return ClassificationReport(
        class_names=(*class_names, *map(str, range(len(class_names), classes))),
        examples=tally.examples,
        not_finite=tally.not_finite,
        loss=means["loss"],
        accuracy=means["accuracy"],
        top_5_accuracy=tally.top_5_accuracy if classes > TOP else None,
        **collected.metrics(),
        expected_calibration_error=tally.expected_calibration_error,
        class_examples=tuple(tally.class_examples.tolist()),
        confusion=tally.confusion,
    )
