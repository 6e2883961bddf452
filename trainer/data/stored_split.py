"""What a source of images brings: the records of a split, as they are stored."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


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
        """A digest of what is known of these records without reading them (names, sizes); None for data that is
        part of the program.
        """

    def part(self, records: Numbers, count: int) -> Numbers:
        """Which ``count`` of ``records``, in their order, are used when only so many are wanted."""
