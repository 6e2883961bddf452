"""What a plug-in and the program agree on: the records of a split, an optimizer's update rule, and a tracker.

Nothing here imports TensorFlow, so that a plug-in's keys are read in a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tensorflow as tf

Split = Literal["train", "validation", "test"]  # the parts of a data set; not every one has a test set
Numbers: TypeAlias = "npt.NDArray[np.int64]"
Slots: TypeAlias = "Mapping[str, tf.Variable]"
# (variable, gradient, the variable's slots)
Update: TypeAlias = "Callable[[tf.Variable, tf.Tensor, Slots], None]"


class StoredSplit(Protocol):
    """All records of one split as they are stored, with random access. Reads may come from several threads."""

    count: int
    class_names: tuple[str, ...]

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        """Encoded images and labels (int64 ``[n]``, each in [0, len(class_names))) of ``records`` (int64 ``[n]``).

        Raises:
            BadRecord: a record cannot be read or has no usable image or label; names file and record.
        """

    def labels(self) -> Numbers:
        """The labels of all records, int64 ``[count]``; -1 where the record is bad and ``data.on_bad_record=skip``.

        Raises:
            BadRecord: as ``read``.
        """

    def place(self, record: int) -> str:
        """Where a record lies, for messages: the file and, where it holds several, the record's number in it."""

    def listing(self, records: Numbers) -> str | None:
        """A digest of what is known about these records without reading them (names, sizes); None for data that is part
        of the program.
        """

    def part(self, records: Numbers, count: int) -> Numbers:
        """The ``count`` of ``records``, in their order, that a run uses when it wants only so many."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """An update rule: the slots each variable has, with their initial value, and what a step does.

    ``begin`` makes the update of one step from its learning rate float32 ``[]`` and its number float32 ``[]``, 1 for
    the first. It computes what all variables share, which saves thousands of operations in the graph of a step.
    """

    slots: Mapping[str, float]
    begin: Callable[[tf.Tensor, tf.Tensor], Update]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before its records.

    ``key`` is made once for each run in a tracker, of letters and digits. ``id`` is what the tracker called it, None
    until ``Tracker.open`` has returned for the first time. ``sent`` is the number of the run's first records that the
    tracker keeps. ``parent`` is the ``id`` of the run that this one has branched off. ``group`` is the sweep that the
    run belongs to. ``directory`` is for files of the tracker alone.
    """

    key: str
    id: str | None
    sent: int
    name: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    group: str | None
    parent: str | None
    directory: Path


@dataclasses.dataclass(frozen=True)
class Point:
    """The numbers of one record, by ``train/loss`` and so on; NaN for those that are not finite. ``record`` counts the
    run's records from 0. ``time`` is when they were committed, milliseconds since the epoch.
    """

    record: int
    step: int
    values: Mapping[str, float]
    time: int


How = Literal["finished", "stopped", "failed"]  # how a run has ended; a stopped one is to be resumed


class Tracker(Protocol):
    """One run in a tracker of experiments. The entry point is called without arguments for each process that tells it.

    It works in a process of its own, so it may take its time, and whatever it raises is said once and tried again,
    with another object. The process may be killed at any moment. Then it is told again what it may have been told.
    """

    def open(self, run: TrackedRun) -> str:
        """Make the run that has this key, or go on with it where it is there already. Returns its ``id``. What was
        sent of the records from number ``run.sent`` on will come again.
        """

    def send(self, points: Sequence[Point]) -> bool:
        """Take points, the first for the first time or again: a point that comes twice must count once. Returns whether
        they are kept, whatever becomes of this process; False where only ``close`` can say so.
        """

    def upload(self, checkpoint: Path, model: str | None) -> None:
        """Take the last checkpoint of a finished run, a directory, and make it a version of ``model`` in a registry. It
        may come again.
        """

    def close(self, how: How | None) -> None:
        """Return when everything is kept. ``how`` the run has ended, None when it has not, or nobody knows."""
