"""Which record training reads at a position: the order of an epoch, with weights for the classes.

An epoch consists of places. Without weights every record has one; with them a class of n records has
round(weight x n), so that each of its records is shown floor(weight) or ceil(weight) times. A keyed permutation of the
class by (seed, epoch) says which of them are shown once more. Everything is computed from the position; nothing
is kept from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.config.ranges import to_range
from trainer.config.schema import Config
from trainer.data.order.permutation import mix, permute, records_at
from trainer.data.sources.source import Source
from trainer.errors import UsageError
from trainer.runtime.seeds import derive_seed

Numbers = npt.NDArray[np.int64]


class Sampling:
    """The records of a source at the positions of training. ``examples_per_epoch`` is the number of its places."""

    def __init__(self, source: Source, config: Config) -> None:
        """Raises ``UsageError`` when ``data.class_weights`` do not fit the classes."""
        weights = config.data.class_weights
        self._seed = config.seed
        self._classes = None if weights is None else WeightedClasses(source, weights, config.seed)
        self.examples_per_epoch = source.count if self._classes is None else self._classes.places

    def records_at(self, positions: Numbers) -> Numbers:
        """The record numbers at ``positions`` (int64 ``[n]``)."""
        places = records_at(positions, self.examples_per_epoch, self._seed)
        return places if self._classes is None else self._classes.records(places, positions // self.examples_per_epoch)

    def substitute(self, position: int, attempt: int) -> int:
        """The record to read at ``position`` instead of one that cannot be used: the record of another position of its
        epoch, chosen by (seed, position, attempt).
        """
        epoch_begin = position // self.examples_per_epoch * self.examples_per_epoch
        place = derive_seed(self._seed, "substitute", position, attempt) % self.examples_per_epoch
        return int(self.records_at(np.array([epoch_begin + place], np.int64))[0])


def times_skipped(positions: Numbers, entries: Sequence[str]) -> Numbers:
    """How many ``entries`` of ``train.skip_examples`` have each of ``positions``, int64 ``[n]`` both."""
    times = np.zeros(len(positions), np.int64)
    for entry in entries:
        skipped = to_range("train.skip_examples", entry)
        times += (positions >= skipped.start) & (positions < skipped.stop)
    return times


class WeightedClasses:
    """The places of an epoch in class order: first those of class 0. Holds one number for each record."""

    def __init__(self, source: Source, weights: Sequence[float], seed: int) -> None:
        names = source.class_names
        if len(weights) != len(names):
            raise UsageError(
                f"data.class_weights has {len(weights)} numbers, but there are {len(names)} classes, in this order: "
                f"{', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
            )
        labels = source.labels()
        counts = np.bincount(labels, minlength=len(names))
        places = np.array([round(weight * int(count)) for weight, count in zip(weights, counts, strict=True)], np.int64)
        for name, weight, count, kept in zip(names, weights, counts, places, strict=True):
            if count and not kept:
                raise UsageError(
                    f"data.class_weights has {weight:g} for {name}, which leaves no place for its {count} records; "
                    "raise it, or leave the class out by data.classes"
                )
        self._seed = seed
        self._by_class = np.argsort(labels, kind="stable")
        self._counts = counts
        self._first_record = np.cumsum(counts) - counts
        self._last_place = np.cumsum(places)
        self._first_place = self._last_place - places
        self._whole = places - places % np.maximum(counts, 1)  # places of the rounds that show every record
        self.places = int(places.sum())

    def records(self, places: Numbers, epochs: Numbers) -> Numbers:
        """The record numbers at ``places`` of ``epochs`` (int64 ``[n]`` each)."""
        labels = np.searchsorted(self._last_place, places, side="right")
        counts, inside = self._counts[labels], places - self._first_place[labels]
        ranks = inside % counts
        once_more = inside >= self._whole[labels]
        ranks[once_more] = permute(
            ranks[once_more], counts[once_more], self._keys(epochs[once_more], labels[once_more])
        )
        return self._by_class[self._first_record[labels] + ranks]

    def _keys(self, epochs: Numbers, labels: Numbers) -> npt.NDArray[np.uint64]:
        """A key for each (epoch, class)."""
        known = {epoch: derive_seed(self._seed, "class_weights", int(epoch)) for epoch in np.unique(epochs)}
        of_epoch = np.array([known[epoch] for epoch in epochs], np.uint64)
        return mix((of_epoch << np.uint64(32)) + labels.astype(np.uint64))
