"""What a plug-in and the program agree on: the records of a split, and an optimizer's update rule.

Nothing here imports TensorFlow, so that a plug-in's keys are read in a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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
