"""The confusion matrix: counts of examples by true and predicted class. Nothing here imports TensorFlow."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Confusion:
    """``counts`` are examples by (true, predicted) class, hits included, pairs without an example left out.

    A stored matrix may name any class. So look at ``classes`` before you make anything of that size.
    """

    counts: Mapping[tuple[int, int], int]

    @classmethod
    def of_entries(cls, entries: Iterable[Sequence[int]]) -> Confusion:
        """From ``(true, predicted, count)``."""
        return cls({(true, predicted): count for true, predicted, count in entries})

    def entries(self) -> list[tuple[int, int, int]]:
        """``(true, predicted, count)``, in order."""
        return [(*pair, count) for pair, count in sorted(self.counts.items())]

    @property
    def classes(self) -> int:
        """The smallest number of classes that includes every class in ``counts``."""
        return max((max(pair) for pair in self.counts), default=0) + 1

    @property
    def hits(self) -> int:
        return sum(count for (true, predicted), count in self.counts.items() if true == predicted)

    def class_hits(self) -> collections.Counter[int]:
        """The number of hits of each class that has some."""
        return collections.Counter({true: count for (true, other), count in self.counts.items() if true == other})

    def mistaken(self) -> list[tuple[int, int, int]]:
        """``(count, true, predicted)`` for every kind of mistake with an example, most frequent first."""
        wrong = [(count, *pair) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda entry: (-entry[0], *entry[1:]))

    def rows(self, classes: int) -> list[list[int]]:
        """The whole matrix, a row for each true class."""
        return [[self.counts.get((true, other), 0) for other in range(classes)] for true in range(classes)]

    def shares(self, classes: int) -> list[list[float | None]]:
        """The matrix as shares of the true class's examples; None where the class has no examples."""
        return [[count / sum(row) if any(row) else None for count in row] for row in self.rows(classes)]

    def by_class(self) -> dict[int, ClassScores]:
        """The scores of each class that has an example or is predicted."""
        support: collections.Counter[int] = collections.Counter()
        predicted: collections.Counter[int] = collections.Counter()
        for (true, other), count in self.counts.items():
            support[true] += count
            predicted[other] += count
        hits = self.class_hits()
        return {
            name: ClassScores(
                support=support[name],
                precision=hits[name] / predicted[name] if predicted[name] else None,
                recall=hits[name] / support[name] if support[name] else None,
                f1=2.0 * hits[name] / (support[name] + predicted[name]),
            )
            for name in sorted({*support, *predicted})
        }


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """``support`` counts the examples of a class. ``precision`` is None where it is never predicted, ``recall`` where
    it has no example.
    """

    support: int
    precision: float | None
    recall: float | None
    f1: float
