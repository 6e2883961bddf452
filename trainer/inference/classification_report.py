"""The results of a network over a whole split, class by class."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
import numpy.typing as npt

from trainer.errors import measure
from trainer.inference.notebook_html import table
from trainer.monitoring.confusion import Confusion

CALIBRATION_BINS = 15  # Guo et al., arXiv 1706.04599, section 5
SHOWN_CLASSES = 12


@dataclasses.dataclass(frozen=True, repr=False)
class ClassificationReport:
    """Results over ``examples`` examples.

    ``loss`` is the mean cross-entropy (nats, no smoothing). ``accuracy`` is the share of examples whose most probable
    class is right, ``top_5_accuracy`` the share with the right class among the five most probable; None for a network
    of five classes or fewer, where that is every example. ``macro_f1``, ``balanced_accuracy`` and ``auroc`` count every
    class alike, see ``trainer.training.class_metrics``; NaN where they are not defined. ``class_examples`` has the
    number of examples of each class. ``confusion`` counts examples by true and predicted class; it holds the pairs that
    occur, so its size follows the examples, not the square of the classes.

    ``not_finite`` examples have a loss that is not finite. They are wrong, and are left out of the confusion and of the
    calibration error, because they have no predicted class.
    """

    class_names: tuple[str, ...]
    examples: int
    not_finite: int
    loss: float
    accuracy: float
    top_5_accuracy: float | None
    macro_f1: float
    balanced_accuracy: float
    auroc: float
    expected_calibration_error: float
    class_examples: tuple[int, ...]
    confusion: Confusion

    @property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """The share of each class's examples that the network gets right; None for a class without examples."""
        hits = self.confusion.class_hits()
        return tuple(hits[number] / count if count else None for number, count in enumerate(self.class_examples))

    def confusions(self) -> list[tuple[int, int, int]]:
        """``(count, true class, predicted class)`` of every confusion that happened, most frequent first."""
        return self.confusion.mistaken()

    def scores(self) -> dict[str, float]:
        """The numbers that mean something for the network, by the names that people read."""
        found = {"loss": self.loss, "accuracy": self.accuracy}
        if self.top_5_accuracy is not None:
            found["top-5 accuracy"] = self.top_5_accuracy
        of_classes = {
            "macro F1": self.macro_f1,
            "balanced accuracy": self.balanced_accuracy,
            "AUROC": self.auroc,
        }
        found |= {name: value for name, value in of_classes.items() if math.isfinite(value)}
        return found | {"expected calibration error": self.expected_calibration_error}

    def shown_classes(self) -> tuple[str, list[tuple[str, int, str]]]:
        """A title, and name, examples and accuracy of each class; of many classes, only of the worst."""
        rows = list(zip(self.class_names, self.class_examples, self.class_accuracy, strict=True))
        title = "accuracy by class"
        if len(rows) > SHOWN_CLASSES:
            title = f"the worst {SHOWN_CLASSES} of {len(rows)} classes"
            there = sorted((row for row in rows if row[2] is not None), key=lambda row: (row[2] or 0.0, -row[1]))
            rows = there[:SHOWN_CLASSES]
        shown = [(name, n, "no examples" if share is None else f"{share:.4f}") for name, n, share in rows]
        return title, shown

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {measure(value)}" for name, value in self.scores().items())
        return f"<ClassificationReport: {self.examples} examples of {len(self.class_names)} classes, {scores}>"

    def _repr_html_(self) -> str:
        title, classes = self.shown_classes()
        counts: list[tuple[str, object]] = [("examples", self.examples), ("classes", len(self.class_names))]
        if self.not_finite:
            counts.append(("loss not finite, counted as wrong", self.not_finite))
        scores = [(name, measure(value)) for name, value in self.scores().items()]
        heads = ("class", "examples", "accuracy")
        return table("ClassificationReport", [*counts, *scores]) + table(title, classes, heads)


class Tally:
    """Counts predictions batch by batch."""

    def __init__(self, classes: int) -> None:
        self.class_examples = np.zeros([classes], np.int64)
        self.not_finite = 0
        self._pairs: collections.Counter[tuple[int, int]] = collections.Counter()
        self._in_top_5 = 0
        self._bins = np.zeros([CALIBRATION_BINS, 3])  # examples, their confidence summed, correct ones

    def add(
        self,
        labels: npt.NDArray[np.int64],
        predicted: npt.NDArray[np.int64],
        confidence: npt.NDArray[np.float32],
        in_top_5: npt.NDArray[np.bool_],
        finite: npt.NDArray[np.bool_],
    ) -> None:
        """Count examples, each array ``[n]``; ``finite`` says which have a finite loss."""
        np.add.at(self.class_examples, labels, 1)
        self.not_finite += int((~finite).sum())
        self._in_top_5 += int((in_top_5 & finite).sum())
        labels, predicted, confidence = labels[finite], predicted[finite], confidence[finite]
        self._pairs.update(zip(labels.tolist(), predicted.tolist(), strict=True))
        # bin m holds confidences in (m / bins, (m + 1) / bins]
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        columns = np.stack([np.ones(len(labels)), confidence.astype(np.float64), labels == predicted], axis=1)
        np.add.at(self._bins, bins, columns)

    @property
    def examples(self) -> int:
        return int(self.class_examples.sum())

    @property
    def confusion(self) -> Confusion:
        return Confusion(dict(self._pairs))

    @property
    def top_5_accuracy(self) -> float:
        return self._in_top_5 / self.examples

    @property
    def expected_calibration_error(self) -> float:
        """Mean over the examples of |accuracy − confidence| of their bin (arXiv 1706.04599, equation 3); NaN when no
        example has a finite loss.
        """
        examples, confidence, correct = self._bins.T
        counted = examples.sum()
        return float(np.abs(correct - confidence).sum() / counted) if counted else float("nan")
