"""The values of a column of bytes in several Parquet files, as one sequence with random access.

A value that is stored as it is, is read by itself, as a record of a TFRecord file is. Where values are compressed, or
in a dictionary, their whole row group is read, and kept for a while.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.reads import reading
from trainer.data.sources import parquet_file
from trainer.data.sources.cache import Arrays
from trainer.data.sources.open_files import AnyPath, OpenFiles, allow_open_files
from trainer.data.sources.parquet_file import NOT_THERE, ValueIndex
from trainer.data.sources.parquet_pages import LENGTH
from trainer.data.sources.progress import tracked
from trainer.data.sources.record_index import CONCURRENT_FILES
from trainer.data.sources.row_groups import Key, RowGroupCache
from trainer.errors import BadRecord, UsageError
from trainer.storage.filesystems import RemoteError
from trainer.storage.unreadable import unusable_record

Numbers = npt.NDArray[np.int64]

MUCH = 4  # times the bytes of an image


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of the values that are read with their row groups: bytes and number of all; bytes and number in the largest; the
    mean bytes of the row group of a value; how many bytes are kept.
    """

    bytes: int
    count: int
    largest: int
    most: int
    mean: float
    kept: int

    def described(self, what: str) -> str:
        memory = max(self.kept, self.largest)
        return (
            f"{what} are compressed or in dictionaries, so they are read in row groups of up to {self.most} images and "
            f"{in_bytes(self.largest)}; up to {in_bytes(min(memory, self.bytes))} of {in_bytes(self.bytes)} are kept "
            "in memory"
        )

    def warning(self) -> str | None:
        """What a shuffled order costs, where that is much more than the images themselves."""
        missed = max(0.0, 1.0 - max(self.kept, self.largest) / self.bytes)
        if self.mean * missed <= MUCH * self.bytes / self.count:
            return None
        return (
            f"in a shuffled order about {in_bytes(self.mean * missed)} are read and unpacked for each image of "
            f"{in_bytes(self.bytes / self.count)}"
        )


def in_bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def index_rows(paths: Sequence[AnyPath], column: str, key: str, title: str) -> Arrays:
    """What ``ParquetRows`` needs to know of its files; ``title`` stands at a bar of progress.

    Raises:
        UsageError: as ``parquet_file.index_values``.
    """
    with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        walked = pool.map(lambda path: parquet_file.index_values(path, column, key), paths)
        found = list(tracked(walked, title, len(paths)))
    arrays = {
        name: np.concatenate(parts) for name, parts in zip(ValueIndex._fields, zip(*found, strict=True), strict=True)
    }
    arrays["file_rows"] = np.array([len(each.begin) for each in found], np.int64)
    arrays["file_groups"] = np.array([len(each.rows) for each in found], np.int64)
    return arrays


class ParquetRows:
    """The rows of ``paths``, numbered from 0. Safe to use from several threads."""

    def __init__(self, paths: Sequence[AnyPath], column: str, key: str, index: Arrays, most_bytes: int) -> None:
        """``index`` is that of ``index_rows``; ``most_bytes`` of row groups are kept in memory. ``key`` is the key
        of the configuration that names the column.
        """
        self._paths, self._column, self._key = list(paths), column, key
        self._index = ValueIndex(*(index[name] for name in ValueIndex._fields))
        self.first = np.cumsum([0, *index["file_rows"]])  # of each file
        self._first_group = np.cumsum([0, *index["file_groups"]])
        self._group_begin = np.cumsum([0, *self._index.rows])  # the first row of each row group
        self._most_bytes = most_bytes
        self._files = OpenFiles(self._paths)
        allow_open_files(len(self._paths))
        self._opened: dict[int, Any] = {}  # files of which row groups are read
        self._locks = [threading.Lock() for _ in self._paths]
        self.kept = RowGroupCache(most_bytes, self._load)

    def __len__(self) -> int:
        return int(self.first[-1])

    def read(self, row: int) -> bytes | None:
        """The value of one row; None where it is null.

        Raises:
            BadRecord: it cannot be read, or is not where it was when its file was indexed.
        """
        with reading(lambda: self.place(row)):
            return self._single(row) if self._index.begin[row] != NOT_THERE else self._of_group(row)

    def expect(self, rows: Numbers) -> None:
        """The values of these rows are read soon. Row groups are not read ahead: they are large."""
        for row in rows[self._index.begin[rows] != NOT_THERE].tolist():
            begin = int(self._index.begin[row])
            self._files[self.file_of(row)].expect(begin - LENGTH.size, begin + int(self._index.size[row]))

    def place(self, row: int) -> str:
        """The file and the row's number in it, for messages."""
        file = self.file_of(row)
        return f"{self._paths[file]} row {row - self.first[file]}"

    def file_of(self, row: int) -> int:
        return int(np.searchsorted(self.first, row, side="right")) - 1

    def sizes(self, rows: Numbers) -> Numbers:
        """The bytes of each value, int64 ``[n]``; where they are not known, those of its row group, below zero."""
        groups = np.searchsorted(self._group_begin, rows, side="right") - 1
        known = self._index.begin[rows] != NOT_THERE
        return np.where(known, self._index.size[rows].astype(np.int64), -self._index.unpacked[groups])

    def cost(self) -> Cost | None:
        """What values cost that are read with their row groups; None where all are read by themselves."""
        there = self._index.rows > 0
        packed = self._index.begin[self._group_begin[:-1][there]] == NOT_THERE
        sizes, rows = self._index.unpacked[there][packed], self._index.rows[there][packed]
        if not len(sizes) or rows.max() == 1:
            return None
        mean = float((sizes * rows).sum() / rows.sum())  # of the row group of a value
        return Cost(int(sizes.sum()), int(rows.sum()), int(sizes.max()), int(rows.max()), mean, self._most_bytes)

    def _single(self, row: int) -> bytes:
        """A value that is read by itself: its length, then its bytes."""
        begin, size = int(self._index.begin[row]) - LENGTH.size, int(self._index.size[row])
        try:
            data = self._files[self.file_of(row)].pread(LENGTH.size + size, begin)
        except OSError as error:
            raise unusable_record(self.place(row), error) from error
        if len(data) != LENGTH.size + size or LENGTH.unpack_from(data)[0] != size:
            raise BadRecord(
                f"{self.place(row)} is not at byte {begin} with {size} bytes, where it was when its file was indexed: "
                "it is damaged, or was changed or replaced; data must not change while it is in use"
            )
        return data[LENGTH.size :]

    def _of_group(self, row: int) -> bytes | None:
        group = int(np.searchsorted(self._group_begin, row, side="right")) - 1
        file = self.file_of(row)
        try:
            value: bytes | None = self.kept.get((file, group))[row - int(self._group_begin[group])].as_py()
        except UsageError as error:
            kind = UsageError if isinstance(error.__cause__, RemoteError) else BadRecord
            raise kind(f"{self.place(row)} cannot be read: {error}") from error
        except parquet_file.failures() as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise unusable_record(self.place(row), error) from error
            within = group - int(self._first_group[file])
            reason = parquet_file.reason_of(error)
            raise BadRecord(f"{self.place(row)} cannot be read, nor its row group {within}: {reason}") from error
        return value

    def _load(self, key: Key) -> tuple[Any, int]:
        """The values of a row group, as an array of pyarrow, and their bytes."""
        file, group = key
        with self._locks[file]:
            if file not in self._opened:
                self._opened[file] = parquet_file.open_parquet(self._paths[file])
            opened = self._opened[file]
            path = parquet_file.bytes_path(self._paths[file], opened, self._column, self._key)
            within = group - int(self._first_group[file])
            values = opened.read_row_group(within, columns=[path], use_threads=False).column(0).combine_chunks()
        if path != self._column:
            values = parquet_file.pyarrow().compute.struct_field(values, parquet_file.BYTES)
        rows = int(self._index.rows[group])
        if len(values) != rows:
            raise ValueError(f"it has {len(values)} values, and should have {rows}")
        return values, int(values.nbytes)
