"""Random access to TFRecord files: where every record lies, and reading a batch of them with ``pread``.

Layout of a record (tensorflow/core/lib/io/record_writer.h): uint64 length, uint32 masked CRC of the length, the
data, uint32 masked CRC of the data; little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.errors import UsageError

HEADER = struct.Struct("<QI")
FOOTER_BYTES = 4


def index_records(path: Path) -> npt.NDArray[np.int64]:
    """Offset and length of the data of every record, int64 ``[records, 2]``; reads the headers only.

    Raises:
        UsageError: the file ends inside a record.
    """
    size = path.stat().st_size
    entries: list[tuple[int, int]] = []
    with path.open("rb") as file:
        offset = 0
        while offset < size:
            header = file.read(HEADER.size)
            length = HEADER.unpack(header)[0] if len(header) == HEADER.size else size
            start, end = offset + HEADER.size, offset + HEADER.size + length + FOOTER_BYTES
            if end > size:
                raise UsageError(f"{path} ends inside record {len(entries)}, which begins at byte {offset}")
            entries.append((start, length))
            offset = end
            file.seek(offset)
    return np.array(entries, np.int64).reshape(-1, 2)


class TFRecordReader:
    """The records of several files as one sequence. Safe to use from several threads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [os.open(path, os.O_RDONLY) for path in paths]
        indices = [index_records(path) for path in paths]
        self._spans = np.concatenate(indices)
        self._file_of = np.repeat(np.arange(len(paths)), [len(index) for index in indices])

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, records: npt.NDArray[np.int64]) -> list[bytes]:
        """The data of the given record numbers, in their order."""
        return [
            os.pread(self._files[self._file_of[record]], int(length), int(offset))
            for record, (offset, length) in zip(records, self._spans[records], strict=True)
        ]

    def close(self) -> None:
        for file in self._files:
            os.close(file)
