"""Metrics that count every class alike, however many examples it has: macro F1, balanced accuracy and AUROC.

They are defined as in scikit-learn (``f1_score`` with ``average="macro"``, ``balanced_accuracy_score``, and
``roc_auc_score`` with ``multi_class="ovr"``, which is the mean over classes of each class against the rest).
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

MOST_SCORES = 2**28  # numbers of 4 bytes, 1 GiB: 268,000 examples of 1,000 classes


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


def auroc(labels: npt.NDArray[np.int64], scores: Scores) -> float:
    """The mean area under the receiver operating characteristic of each class against the rest, over the classes that
    occur. ``labels`` is int64 ``[n]``, ``scores`` float32 ``[n, classes]``; equal scores count one half.

    NaN where fewer than two classes occur, or a score is not finite. Exact: every pair of examples is counted.
    """
    there = np.flatnonzero(np.bincount(labels, minlength=scores.shape[1])).tolist()
    if len(there) < 2 or not np.isfinite(scores).all():
        return math.nan
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], there, side="right").tolist()
    areas, begin = [], 0
    for label, end in zip(there, ends, strict=True):
        of_class = scores[:, label]
        own, everyone = of_class[order[begin:end]], np.sort(of_class)
        # of all examples, those with a lower score and half of the equal ones; among its own that is half of all pairs
        below = np.searchsorted(everyone, own, "left").sum() + np.searchsorted(everyone, own, "right").sum()
        count = end - begin
        areas.append((int(below) / 2.0 - count * count / 2.0) / (count * (len(labels) - count)))
        begin = end
    return float(np.mean(areas))


class Collected:
    """The scores of all examples of a validation, batch by batch, and the metrics that they make.

    ``MOST_SCORES`` scores at most are kept, 4 bytes each, and copied once by ``metrics``. With more, the AUROC is not
    computed and is NaN.
    """

    def __init__(self, classes: int) -> None:
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
        if int(self._examples.sum()) * len(self._examples) > MOST_SCORES:
            self._scores = None

    def metrics(self) -> dict[str, float]:
        """``macro_f1``, ``balanced_accuracy`` and ``auroc``, each NaN where it is not defined."""
        return {
            "macro_f1": macro_f1(self._examples, self._predicted, self._hits),
            "balanced_accuracy": balanced_accuracy(self._examples, self._hits),
            "auroc": auroc(np.concatenate(self._labels), np.concatenate(self._scores)) if self._scores else math.nan,
        }
