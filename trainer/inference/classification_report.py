"""The results of a network over a whole split, class by class."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from trainer.monitoring.confusion import Confusion

CALIBRATION_BINS = 15  # Guo et al., arXiv 1706.04599, section 5


@dataclasses.dataclass(frozen=True)
class ClassificationReport:
    """Results over ``examples`` examples.

    ``loss`` is the mean cross-entropy (nats, no smoothing). ``accuracy`` is the share of examples whose most probable
    class is right, ``top_5_accuracy`` the share with the right class among the five most probable. ``confusion``,
    int64 ``[classes, classes]``, counts examples by true (row) and predicted (column) class.
    """

    class_names: tuple[str, ...]
    examples: int
    loss: float
    accuracy: float
    top_5_accuracy: float
    expected_calibration_error: float
    confusion: npt.NDArray[np.int64]

    @property
    def class_examples(self) -> npt.NDArray[np.int64]:
        """How many examples each class has, int64 ``[classes]``."""
        return self.confusion.sum(axis=1)

    @property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """The share of each class's examples that the network gets right; None for a class without examples."""
        counts = zip(self.confusion.diagonal().tolist(), self.class_examples.tolist(), strict=True)
        return tuple(hits / count if count else None for hits, count in counts)

    def confusions(self) -> list[tuple[int, int, int]]:
        """``(count, true class, predicted class)`` of every confusion that happened, most frequent first."""
        return Confusion.of_matrix(self.confusion).mistaken()


class Tally:
    """Counts predictions batch by batch."""

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros([classes, classes], np.int64)
        self._in_top_5 = 0
        self._bins = np.zeros([CALIBRATION_BINS, 3])  # examples, their confidence summed, correct ones

    def add(
        self,
        labels: npt.NDArray[np.int64],
        predicted: npt.NDArray[np.int64],
        confidence: npt.NDArray[np.float32],
        in_top_5: npt.NDArray[np.bool_],
    ) -> None:
        """Count examples, each array ``[n]``."""
        np.add.at(self.confusion, (labels, predicted), 1)
        self._in_top_5 += int(in_top_5.sum())
        # bin m holds confidences in (m / bins, (m + 1) / bins]
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        columns = np.stack([np.ones(len(labels)), confidence.astype(np.float64), labels == predicted], axis=1)
        np.add.at(self._bins, bins, columns)

    @property
    def top_5_accuracy(self) -> float:
        return self._in_top_5 / int(self.confusion.sum())

    @property
    def expected_calibration_error(self) -> float:
        """Mean over the examples of |accuracy − confidence| of their bin (arXiv 1706.04599, equation 3)."""
        examples, confidence, correct = self._bins.T
        return float(np.abs(correct - confidence).sum() / examples.sum())
