"""Metrics that count every class alike, however many examples it has: macro F1, balanced accuracy and AUROC.

They are defined as in scikit-learn (``f1_score`` with ``average="macro"``, ``balanced_accuracy_score``, and
``roc_auc_score`` with ``multi_class="ovr"``, which is the mean over classes of each class against the rest).
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

MOST_SCORES = 2**28  # numbers of 4 bytes, 1 GiB: 268,000 examples of 1,000 classes; where the AUROC decides something
UNASKED_SCORES = 2**26  # 256 MiB, where it is one number among others: 67,000 examples of 1,000 classes
COLUMNS_AT_ONCE = 64


def macro_f1(examples: Counts, predicted: Counts, hits: Counts) -> float:
    """The mean F1 of the classes that occur or are predicted, from the numbers of examples, of predictions and of right
    predictions of each class, int64 ``[classes]``. NaN where no class occurs.
    """
    both = examples + predicted
    there = both > 0
    return float(np.mean(2.0 * hits[there] / both[there])) if there.any() else math.nan


def balanced_accuracy(examples: Counts, hits: Counts) -> float:
    """The mean share of right predictions of the classes that occur; NaN where none does."""
    there = examples > 0
    return float(np.mean(hits[there] / examples[there])) if there.any() else math.nan


def auroc(labels: npt.NDArray[np.int64], scores: Sequence[Scores]) -> float:
    """The mean area under the receiver operating characteristic of each class against the rest, over the classes that
    occur. ``labels`` is int64 ``[n]``; ``scores`` are in parts, float32 ``[part, classes]``, of together ``n`` rows.
    Equal scores count one half. No more than ``COLUMNS_AT_ONCE`` columns of the scores are copied at a time.

    NaN where fewer than two classes occur, or a score is not finite. Exact: every pair of examples is counted.
    """
    there = np.unique(labels).tolist()
    if len(there) < 2 or not all(np.isfinite(part).all() for part in scores):
        return math.nan
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], there, side="right").tolist()
    areas, begin = [], 0
    for number, end in enumerate(ends):
        place = number % COLUMNS_AT_ONCE
        if place == 0:
            together = there[number : number + COLUMNS_AT_ONCE]
            columns = np.concatenate([part[:, together] for part in scores]).T
        of_class = columns[place]
        own, everyone = of_class[order[begin:end]], np.sort(of_class)
        # of all examples, those with a lower score and half of the equal ones; among its own that is half of all pairs
        below = np.searchsorted(everyone, own, "left").sum() + np.searchsorted(everyone, own, "right").sum()
        count = end - begin
        areas.append((int(below) / 2.0 - count * count / 2.0) / (count * (len(labels) - count)))
        begin = end
    return float(np.mean(areas))


def scores_kept(*metrics: str) -> int:
    """How many scores are kept where ``metrics`` decide something."""
    return MOST_SCORES if "auroc" in metrics else UNASKED_SCORES


class Collected:
    """The scores of all examples of a validation, batch by batch, and the metrics that they make.

    ``most`` scores are kept, see ``scores_kept``, 4 bytes each. With more, the AUROC is not computed and is NaN.
    """

    def __init__(self, classes: int, most: int) -> None:
        self._most = most
        self._examples = np.zeros(classes, np.int64)
        self._predicted = np.zeros(classes, np.int64)
        self._hits = np.zeros(classes, np.int64)
        self._labels: list[npt.NDArray[np.int64]] = []
        self._scores: list[Scores] | None = []

    def add(
        self,
        labels: npt.NDArray[np.int64],
        predicted: npt.NDArray[np.int64],
        finite: npt.NDArray[np.bool_],
        scores: Scores,
    ) -> None:
        """Add examples, each array ``[n]``; ``finite`` says which have a finite loss; without one there is no
        prediction. ``scores`` is float32 ``[n, classes]``.
        """
        np.add.at(self._examples, labels, 1)
        np.add.at(self._predicted, predicted[finite], 1)
        np.add.at(self._hits, labels[finite & (labels == predicted)], 1)
        if self._scores is None:
            return
        self._labels.append(labels)
        self._scores.append(scores)
        if int(self._examples.sum()) * len(self._examples) > self._most:
            self._scores = None

    def metrics(self) -> dict[str, float]:
        """``macro_f1``, ``balanced_accuracy`` and ``auroc``, each NaN where it is not defined."""
        return {
            "macro_f1": macro_f1(self._examples, self._predicted, self._hits),
            "balanced_accuracy": balanced_accuracy(self._examples, self._hits),
            "auroc": auroc(np.concatenate(self._labels), self._scores) if self._scores else math.nan,
        }
