"""The data that a configuration names, and which of its records the configuration uses."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split, StoredSplit
from trainer.config.registry import builder_of
from trainer.config.schema.sources import DataConfig
from trainer.data.sources.labels import UNKNOWN
from trainer.errors import BadRecord, UsageError, nearest

Numbers = npt.NDArray[np.int64]

LEAVE_OUT = "such records are left out, and counted, with data.on_bad_record=skip"


class Source:
    """The records of one split that a configuration uses, numbered from 0 in the order they are stored in.

    ``class_names`` are in label order; ``listing`` is the split's for the records used; ``skip_bad`` says whether a
    record that cannot be used is replaced. ``whole`` is the number of all records where those of the split are stored.
    ``ahead`` is how many records are announced before they are read, 0 where that has no use.
    """

    def __init__(
        self, stored: StoredSplit, config: DataConfig, split: Split, known: tuple[str, ...] | None = None
    ) -> None:
        """``known`` are the class names that labels mean, instead of the data's; any of them may have no record."""
        self._stored = stored
        self._stored_labels: Numbers | None = None
        self.whole: int = getattr(stored, "whole", stored.count)  # only a split that is a part of a folder has it
        self.ahead: int = getattr(stored, "ahead", 0)  # only a split of files on another machine has it
        self._every = known is None
        self.skip_bad = config.on_bad_record == "skip"
        self.class_names = known or (stored.class_names if config.classes is None else config.classes)
        self._new_label = _new_labels(stored.class_names, self.class_names, config.classes, every=self._every)
        self._chosen = self._choose(config, split)
        self.count = len(self._chosen)
        self.listing = stored.listing(self._chosen)

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        """Encoded images and labels (int64 ``[n]``, each in [0, len(class_names))) of ``records`` (int64 ``[n]``).

        Raises:
            BadRecord: a record cannot be read or has no usable image or label; names file and record.
        """
        if len(records) > 1:
            self.expect(records)
        try:
            images, labels = self._stored.read(self._chosen[records])
        except BadRecord as error:
            raise self._with_advice(error) from error
        return images, self._new_label[labels]

    def expect(self, records: Numbers) -> None:
        """``records`` (int64 ``[n]``) are read soon, in this order. ``ahead`` of them may be announced at a time."""
        if self.ahead:
            self._stored.expect(self._chosen[records])  # type: ignore[attr-defined]

    def spread(self, count: int) -> Source:
        """The same split with at most ``count`` of its records, evenly spread over it: all classes, however sorted."""
        part = copy.copy(self)
        part._chosen = self._chosen[np.arange(0, self.count, max(1, -(-self.count // count)))]
        part.count = len(part._chosen)
        part.listing = part._stored.listing(part._chosen)
        return part

    def labels(self) -> Numbers:
        """The labels of all records, int64 ``[count]``. Reads all records if only they hold the labels.

        Raises:
            BadRecord: as ``read``.
        """
        return self._new_label[self._all_labels()[self._chosen]]

    def place(self, record: int) -> str:
        """Where a record lies, for messages."""
        return self._stored.place(int(self._chosen[record]))

    def _all_labels(self) -> Numbers:
        if self._stored_labels is None:
            try:
                self._stored_labels = self._stored.labels()
            except BadRecord as error:
                raise self._with_advice(error) from error
        return self._stored_labels

    def _with_advice(self, error: BadRecord) -> BadRecord:
        return error if self.skip_bad else BadRecord(f"{error}\n{LEAVE_OUT}")

    def _choose(self, config: DataConfig, split: Split) -> Numbers:
        """The stored numbers of the records used, ascending."""
        chosen = np.arange(self._stored.count, dtype=np.int64)
        left_out = bool((self._new_label == UNKNOWN).any())
        if left_out or config.classes is not None or config.class_weights is not None:
            labels = self._all_labels()
            readable = labels != UNKNOWN
            if not readable.all():
                bad = np.flatnonzero(~readable)
                print(
                    f"warning: {len(bad)} records for {split} have no class that can be read and are left out, the "
                    f"first {self._stored.place(int(bad[0]))}"
                )
            chosen = chosen[readable & (self._new_label[labels] != UNKNOWN)]
            self._check_every_class(config, split, labels[chosen])
        wanted = {"train": config.train_examples, "validation": config.validation_examples, "test": None}[split]
        if wanted is None:
            return chosen
        if wanted > len(chosen):
            of_them = "" if config.classes is None else " of data.classes"
            raise UsageError(f"data.{split}_examples is {wanted}, but {split} has {len(chosen)} records{of_them}")
        return self._stored.part(chosen, wanted)

    def _check_every_class(self, config: DataConfig, split: Split, labels: Numbers) -> None:
        found = np.bincount(self._new_label[labels], minlength=len(self.class_names))
        if self._every and config.classes is not None and not found.all():
            raise UsageError(
                f"data.classes has {self.class_names[int(np.argmin(found))]}, which has no record for {split}; "
                "leave it out, or add records"
            )


def _new_labels(
    stored: tuple[str, ...], used: tuple[str, ...], chosen: tuple[str, ...] | None, *, every: bool
) -> Numbers:
    """Stored label → label, the place in ``used``; ``UNKNOWN`` for classes that are not used, or not ``chosen``. With
    ``every``, all that are used must exist.
    """
    there = set(stored)
    missing = [name for name in used if name not in there]
    if missing and every:
        raise UsageError(
            f"data.classes has {missing[0]}, which is not a class of the data{nearest(missing[0], stored)}"
        )
    wanted = None if chosen is None else set(chosen)
    place = {name: label for label, name in enumerate(used) if wanted is None or name in wanted}
    return np.array([place.get(name, UNKNOWN) for name in stored], np.int64)


def open_source(config: DataConfig, split: Split) -> Source:
    """Open one split of the configured data; its builder makes a ``StoredSplit`` from the keys and the split's name.

    Raises:
        UsageError: the data is missing or not what its source expects; names the file or folder.
        BadRecord: the classes of all records are needed, and one cannot be read.
        NoValidCheckpoint: the embedded data is damaged.
    """
    return Source(builder_of(config)(config, split), config, split)


def open_whole_split(config: DataConfig, split: Split) -> Source:
    """All records of one split, whatever ``config`` chooses, and records that cannot be used too. Where it chooses
    classes, faults that concern other classes only are no obstacle.

    Raises:
        As ``open_source``.
    """
    stored = builder_of(config)(dataclasses.replace(config, on_bad_record="skip"), split)
    everything = dataclasses.replace(
        config, classes=None, class_weights=None, train_examples=None, validation_examples=None, on_bad_record="skip"
    )
    return Source(stored, everything, split)
