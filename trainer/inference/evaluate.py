"""Evaluate a stored checkpoint on its own data, or on other data with the same classes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from trainer.config.contracts import Split
from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.data.batch import Batch
from trainer.data.batches import evaluation_batches, is_ready
from trainer.data.images.libjpeg import listening
from trainer.data.sixteen_bits import check_range
from trainer.data.sources.source import open_source
from trainer.diagnosis.wanted import wanted_config
from trainer.errors import RestoreRefused
from trainer.inference.classification_report import ClassificationReport, Tally
from trainer.run.restore import Restored, restore
from trainer.training.evaluation import evaluate
from trainer.training.step import make_prediction_step


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate. ``overrides`` are ``key=value`` arguments over the stored configuration. ``weights`` is None
    for the weights that the run's own validations use.
    """

    run_dir: Path
    checkpoint: str
    overrides: Sequence[str]
    split: Split
    weights: WeightsName | None
    flip: bool
    allow: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """``config`` is the stored configuration with the overrides. ``recorded`` is the result of the same evaluation in
    the checkpoint's manifest; None where the manifest has another evaluation or none.
    """

    restored: Restored
    config: Config
    weights: WeightsName
    report: ClassificationReport
    recorded: dict[str, float] | None


def evaluate_checkpoint(request: Request) -> Evaluation:
    """Evaluate a checkpoint over a whole split.

    Raises:
        UsageError: an override is wrong, or the data cannot be read.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        RestoreRefused: program and checkpoint do not match, or the data has another list of classes.
    """
    restored = restore(request.run_dir, request.checkpoint, request.allow)
    weights = restored.weights(request.weights)
    config = wanted_config(restored.config, request.overrides)
    source = open_source(config.data, request.split)
    _check_classes(restored, source.class_names)
    if not is_ready(config):
        for text in check_range(source, config.preprocess, new=False):
            print(f"warning: {text}", file=sys.stderr)
    step = make_prediction_step(restored.state, weights, flip=request.flip)
    assert config.model.num_classes is not None
    with listening() as heard:
        report = classification_report(
            evaluation_batches(source, config), step, source.class_names, config.model.num_classes
        )
    if heard:
        print(f"warning: libjpeg repaired images ({heard[0]}); check-data with this data names them", file=sys.stderr)
    same = (
        request.split == "validation"
        and not request.flip
        and weights == restored.config.evaluation.weights
        and config.data == restored.config.data
    )
    return Evaluation(restored, config, weights, report, restored.manifest.validation if same else None)


def _check_classes(restored: Restored, class_names: tuple[str, ...]) -> None:
    """The class names, in order, are the meaning of a network's outputs, so they must be the same."""
    known = restored.manifest.class_names
    if known == class_names:
        return
    shared = min(len(known), len(class_names))
    first = next((index for index in range(shared) if known[index] != class_names[index]), shared)
    there, here = (names[first] if first < len(names) else "(absent)" for names in (known, class_names))
    raise RestoreRefused(
        f"the data has other classes than {restored.path} was trained on: {len(known)} -> {len(class_names)}\n"
        f"  first: class {first}: {there} -> {here}\n"
        "use data with the same classes in the same order"
    )


def classification_report(
    batches: Iterable[Batch],
    step: Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]],
    class_names: tuple[str, ...],
    classes: int,
) -> ClassificationReport:
    """Like ``evaluate``, with all other results from the predictions. ``step`` comes from ``make_prediction_step``.

    ``classes`` is the size of the classifier. Classes beyond the data's ``class_names`` are named by their number.
    """
    tally = Tally(classes)

    def counted(batch: Batch) -> tf.Tensor:
        sums, predictions = step(batch)
        there = batch["weight"].numpy() > 0.0  # fillers of the last batch and bad records have no weight
        columns = [batch["label"], *(predictions[name] for name in ("predicted", "confidence", "in_top_5"))]
        tally.add(*(column.numpy()[there] for column in columns))
        return sums

    means = evaluate(batches, counted, lambda: False)
    assert means is not None
    return ClassificationReport(
        class_names=(*class_names, *map(str, range(len(class_names), classes))),
        examples=int(tally.confusion.sum()),
        loss=means["loss"],
        accuracy=means["accuracy"],
        top_5_accuracy=tally.top_5_accuracy,
        expected_calibration_error=tally.expected_calibration_error,
        confusion=tally.confusion,
    )
