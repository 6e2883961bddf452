"""Random access to TFRecord files: where every record lies, and reading a batch of them with ``pread``.

Layout of a record (tensorflow/core/lib/io/record_writer.h): uint64 length, uint32 masked CRC of the length, the
data, uint32 masked CRC of the data; little-endian.
"""

from __future__ import annotations

import os
import resource
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.errors import UsageError

HEADER = struct.Struct("<QI")
LENGTH_BYTES = 8
FOOTER_BYTES = 4

# how a compressed file begins (RFC 1952; RFC 1950 at zlib's levels)
COMPRESSED = {b"\x1f\x8b": "GZIP", b"\x78\x01": "ZLIB", b"\x78\x9c": "ZLIB", b"\x78\xda": "ZLIB"}

CRC_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
CRC_MASK = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (CRC_POLYNOMIAL if value & 1 else 0)
    return value


CRC_TABLE = tuple(_crc_of_byte(value) for value in range(256))


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of ``data``, rotated and shifted as in TFRecord files. A byte at a time: for headers, not images."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + CRC_MASK) & 0xFFFFFFFF


def index_records(path: Path) -> npt.NDArray[np.int64]:
    """Offset and length of the data of every record, int64 ``[records, 2]``; reads the headers only.

    Raises:
        UsageError: the file cannot be read, is compressed, ends inside a record, or a length is damaged; names
            record and byte.
    """
    entries = array("q")
    descriptor = _open(path)
    try:
        size = os.fstat(descriptor).st_size
        offset = 0
        while offset < size:
            record = len(entries) // 2
            header = os.pread(descriptor, HEADER.size, offset)
            if len(header) < HEADER.size:
                raise _truncated(path, record, offset)
            length, crc = HEADER.unpack(header)
            expected = masked_crc32c(header[:LENGTH_BYTES])
            if crc != expected:
                raise _damaged(path, record, offset, header, expected)
            end = offset + HEADER.size + length + FOOTER_BYTES
            if end > size:
                raise _truncated(path, record, offset)
            entries.extend((offset + HEADER.size, length))
            offset = end
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return np.array(entries, np.int64).reshape(-1, 2)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _truncated(path: Path, record: int, offset: int) -> UsageError:
    return UsageError(f"{path} ends inside record {record}, which begins at byte {offset}")


def _damaged(path: Path, record: int, offset: int, header: bytes, expected: int) -> UsageError:
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
        f"its CRC is {crc:08x}, but the bytes there have {expected:08x}"
    )


class TFRecordReader:
    """The records of several files as one sequence. Safe to use from several threads."""

    def __init__(self, paths: Sequence[Path], indices: Sequence[npt.NDArray[np.int64]] | None = None) -> None:
        """``indices`` are those of ``index_records``, if they are known already."""
        _allow_open_files(len(paths))
        self._paths = list(paths)
        self._files = [_open(path) for path in paths]
        known = [index_records(path) for path in paths] if indices is None else indices
        self._spans = np.concatenate(known)
        self._first = np.cumsum([0, *(len(index) for index in known)])

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The size of every record's data in bytes, int64 ``[records]``."""
        return self._spans[:, 1]

    def read(self, records: npt.NDArray[np.int64]) -> list[bytes]:
        """The data of the given record numbers, in their order.

        Raises:
            UsageError: a file cannot be read or became shorter.
        """
        return [self._read(int(record)) for record in records]

    def _read(self, record: int) -> bytes:
        offset, length = self._spans[record]
        try:
            data = os.pread(self._files[self._file_of(record)], int(length), int(offset))
        except OSError as error:
            raise UsageError(f"{self.place(record)} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise UsageError(
                f"{self.place(record)} has {len(data)} bytes, but had {length} when the file was indexed; "
                "data must not change while it is in use"
            )
        return data

    def place(self, record: int) -> str:
        """The file and the record's number in it, for messages."""
        file = self._file_of(record)
        return f"{self._paths[file]} record {record - self._first[file]}"

    def _file_of(self, record: int) -> int:
        return int(np.searchsorted(self._first, record, side="right")) - 1

    def close(self) -> None:
        for file in self._files:
            os.close(file)


def _allow_open_files(count: int) -> None:
    """Raise this process's soft limit by ``count``: a thousand shards are common, and so is a limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        allowed = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
