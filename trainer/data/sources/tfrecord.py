"""Random access to TFRecord files: where every record lies, and reading a batch of them with ``pread``.

Layout of a record (tensorflow/core/lib/io/record_writer.h): uint64 length, uint32 masked CRC of the length, the
data, uint32 masked CRC of the data; little-endian.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.data.reads import reading
from trainer.data.sources.open_files import AnyPath, OpenFiles, open_file
from trainer.errors import BadRecord, UsageError
from trainer.storage.checksums import masked_crc32c
from trainer.storage.unreadable import unusable_record

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
LENGTH_BYTES = 8

# how a compressed file begins (RFC 1952; RFC 1950 at zlib's levels)
COMPRESSED = {b"\x1f\x8b": "GZIP", b"\x78\x01": "ZLIB", b"\x78\x9c": "ZLIB", b"\x78\xda": "ZLIB"}

Index = npt.NDArray[np.int64]


def index_records(path: AnyPath) -> Index:
    """Where every record begins, and where the last one ends, int64 ``[records + 1]``; reads the headers only.

    Raises:
        UsageError: the file cannot be read, is compressed, ends inside a record, or a length is damaged; names
            record and byte.
    """
    begins = array("q", [0])
    file = open_file(path, in_order=True)
    try:
        size = file.size
        while (offset := begins[-1]) < size:
            record = len(begins) - 1
            header = file.pread(HEADER.size, offset)
            if len(header) < HEADER.size:
                raise _truncated(path, record, offset)
            length, crc = HEADER.unpack(header)
            expected = masked_crc32c(header[:LENGTH_BYTES])
            if crc != expected:
                raise _damaged(path, record, offset, header, expected)
            end = offset + HEADER.size + length + FOOTER.size
            if end > size:
                raise _truncated(path, record, offset)
            begins.append(end)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        file.close()
    return np.array(begins, np.int64)


def _truncated(path: AnyPath, record: int, offset: int) -> UsageError:
    return UsageError(
        f"{path} ends inside record {record}, which begins at byte {offset}; it was cut off, or is still being "
        "written: write or copy it again"
    )


def _damaged(path: AnyPath, record: int, offset: int, header: bytes, expected: int) -> UsageError:
    if record == 0 and header[:2] in COMPRESSED:
        kind = COMPRESSED[header[:2]]
        return UsageError(
            f"{path} is compressed with {kind}: a record inside cannot be read without all before it, so there is no "
            "exact order to resume; write it again without compression"
        )
    crc = HEADER.unpack(header)[1]
    what = "is not a TFRecord file, or" if record == 0 else "is damaged:"
    return UsageError(
        f"{path} {what} the length of record {record} at byte {offset} is wrong: "
        f"its CRC is {crc:08x}, but the bytes there have {expected:08x}\nwrite or copy it again"
    )


class TFRecordReader:
    """The records of several files as one sequence. Safe to use from several threads."""

    def __init__(self, paths: Sequence[AnyPath], indices: Sequence[Index], verify_crc: bool) -> None:
        """``indices`` are those of ``index_records``; ``verify_crc`` compares the CRC of all data that is read."""
        self._paths = list(paths)
        self._files = OpenFiles(paths)
        self._begins = np.concatenate(indices)
        self._first = np.cumsum([0, *(len(index) - 1 for index in indices)])
        self._verify_crc = verify_crc

    def __len__(self) -> int:
        return int(self._first[-1])

    def lengths(self, records: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The sizes of the given records' data in bytes, int64 ``[n]``."""
        entries = records + np.searchsorted(self._first, records, side="right") - 1
        return self._begins[entries + 1] - self._begins[entries] - HEADER.size - FOOTER.size

    def read(self, record: int) -> bytes:
        """The data of one record.

        Raises:
            BadRecord: it cannot be read, its file became shorter, or its CRC is wrong.
        """
        file = self._file_of(record)
        begin, end = self._begins[record + file : record + file + 2]
        wanted = int(end - begin) - HEADER.size
        try:
            with reading(lambda: self.place(record)):
                data = self._files[file].pread(wanted, int(begin) + HEADER.size)
        except OSError as error:
            raise unusable_record(self.place(record), error) from error
        if len(data) != wanted:
            raise BadRecord(
                f"{self.place(record)} ends after {len(data)} of {wanted} bytes, although its file was longer when it "
                "was indexed; data must not change while it is in use"
            )
        data, footer = data[: -FOOTER.size], data[-FOOTER.size :]
        if self._verify_crc:
            (stored,), found = FOOTER.unpack(footer), masked_crc32c(data)
            if stored != found:
                raise BadRecord(
                    f"{self.place(record)} is damaged: its CRC is {stored:08x}, but the data there has {found:08x}"
                )
        return data

    def expect(self, records: npt.NDArray[np.int64]) -> None:
        """The given records are read soon."""
        files = np.searchsorted(self._first, records, side="right") - 1
        begins, ends = self._begins[records + files], self._begins[records + files + 1]
        for file, begin, end in zip(files.tolist(), begins.tolist(), ends.tolist(), strict=True):
            self._files[file].expect(begin + HEADER.size, end)

    def place(self, record: int) -> str:
        """The file and the record's number in it, for messages."""
        file = self._file_of(record)
        return f"{self._paths[file]} record {record - self._first[file]}"

    def _file_of(self, record: int) -> int:
        return int(np.searchsorted(self._first, record, side="right")) - 1

    def close(self) -> None:
        for file in self._files:
            file.close()
