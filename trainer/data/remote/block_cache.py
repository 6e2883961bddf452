"""Blocks of remote files on local disk, no more than a number of bytes, the least recently used ones gone first.

A block is a file of its own: its bytes, then a CRC-32C for each ``CHUNK`` of them. The CRC begins with the name of the
block, so that a block in the place of another is noticed, too. It is written under another name and then renamed. What
a kill or a power failure leaves is therefore no block, or fails its CRC, and is fetched again.

The blocks of a file lie in a folder named by its key. A file of one block has a key of folder and name (``0a1/…``):
small files share folders, because a folder takes as much of a disk as a small image. Every block counts as the pages of
a disk that it takes.

Several processes may share a directory. ``used`` has the number of bytes in it, is locked while it changes, and is
raised before anything is written: a process that is killed leaves it too high at worst, and whoever counts next
corrects it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from trainer.errors import warn

CHUNK = 64 << 10
PAGE = 4096  # bytes: a file of one byte takes as many on most disks
CRC = struct.Struct("<I")
Size = TypeVar("Size", int, npt.NDArray[np.int64])
FREED = 0.1  # of the bound, when room is made: it takes a look at all blocks
TOUCHED_SECONDS = 60.0  # a block's last use is noted to this accuracy
USED, TEMPORARY = "used", ".new-"


class BlockCache:
    """The blocks in ``directory``, at most ``most_bytes``. Safe to use from several threads and processes."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._counted = False
        self._touched: set[tuple[str, int]] = set()
        self._touched_since = time.monotonic()
        self._said: set[str] = set()

    def has(self, key: str, number: int) -> bool:
        return self._place(key, number).exists()

    def read(self, key: str, number: int, size: int, begin: int, end: int) -> bytes | None:
        """Bytes ``begin`` to ``end`` of a block of ``size`` bytes; None where it is not there, or damaged."""
        place = self._place(key, number)
        try:
            descriptor = os.open(place, os.O_RDONLY)
        except OSError:
            return None
        try:
            found = _checked(descriptor, f"{key}/{number}", size, begin, end)
            if found is not None:
                self._touch(descriptor, (key, number))
                return found
        except OSError:
            pass
        finally:
            os.close(descriptor)
        self._say(f"a damaged block in {self._directory} is fetched again: {place.relative_to(self._directory)}")
        with contextlib.suppress(OSError):
            place.unlink()
        return None

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes more can be kept without removing others."""
        try:
            with self._account() as used:
                if not self._counted:
                    total = sum(each for _, each, _ in self._blocks())
                    os.pwrite(used, f"{total:020d}".encode(), 0)
                    self._counted = True
                return (_number(used) or 0) + size <= self._most_bytes
        except OSError:
            return False

    def keep(self, key: str, number: int, data: bytes) -> bool:
        """Keep a block; whether it could be kept."""
        place = self._place(key, number)
        table = b"".join(
            CRC.pack(_crc(f"{key}/{number}", chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK]))
            for chunk in range(-(-len(data) // CHUNK))
        )
        try:
            descriptor, temporary = self._begin(place, len(data) + len(table))
        except OSError as error:
            self._say(f"nothing can be kept in {self._directory}, so data is fetched again and again: {error.strerror}")
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.write(table)
            with self._account():  # who counts meanwhile would see it under neither name
                os.replace(temporary, place)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if not isinstance(error, FileNotFoundError):  # it had to make room for others
                self._say(f"a block cannot be kept in {self._directory}, and is fetched again: {error.strerror}")
            return False
        return True

    def _begin(self, place: Path, size: int) -> tuple[int, str]:
        """A new file of ``size`` bytes, for which there is room: it counts from now on.

        Raises:
            OSError: the disk or the bound refuses it.
        """
        counted = taken(size)
        with self._account() as used:
            before = _number(used)
            if not self._counted or before is None or before + counted > self._most_bytes:
                before = self._make_room(counted)
                self._counted = True
            os.pwrite(used, f"{before + counted:020d}".encode(), 0)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=place.parent)
            os.ftruncate(descriptor, size)  # so that another process that counts sees all of it
            return descriptor, temporary

    def _make_room(self, size: int) -> int:
        """The bytes that are there, after the least recently used blocks have gone, as far as they had to."""
        if size > self._most_bytes:
            raise OSError(0, f"a block has {size:,} bytes, and data.disk_cache_gigabytes allows {self._most_bytes:,}")
        found = sorted(self._blocks())
        total = sum(each for _, each, _ in found)
        if total + size <= self._most_bytes:
            return total
        wanted = max(0, int(self._most_bytes * (1.0 - FREED)) - size)
        for _, each, path in found:
            if total <= wanted:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))  # if that was the last one
            total -= each
        return total

    def _blocks(self) -> Iterator[tuple[int, int, str]]:
        """Last use, bytes and path of every block, and of every file that is to become one."""
        with os.scandir(self._directory) as folders:
            for folder in folders:
                if not folder.is_dir(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
                    for file in files:
                        with contextlib.suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            yield status.st_mtime_ns, taken(status.st_size), file.path

    @contextlib.contextmanager
    def _account(self) -> Iterator[int]:
        with self._lock:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield descriptor
            finally:
                os.close(descriptor)

    def _touch(self, descriptor: int, block: tuple[str, int]) -> None:
        now = time.monotonic()
        if now - self._touched_since > TOUCHED_SECONDS:
            self._touched, self._touched_since = set(), now
        if block not in self._touched:
            self._touched.add(block)
            with contextlib.suppress(OSError):
                os.utime(descriptor)

    def _say(self, text: str) -> None:
        """Warn, once for each kind of trouble."""
        kind = text.partition(":")[0]
        if kind not in self._said:
            self._said.add(kind)
            warn(text)

    def _place(self, key: str, number: int) -> Path:
        return self._directory / (key if "/" in key else f"{key}/{number}")


def taken(size: Size) -> Size:
    """The bytes of a disk that a file of ``size`` bytes takes, or each of several files."""
    return -(-size // PAGE) * PAGE


def _number(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0)
    return int(text) if text.isdigit() else None


def _crc(name: str, chunk: int, data: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.value(f"{name}/{chunk}".encode()), data))


def _checked(descriptor: int, name: str, size: int, begin: int, end: int) -> bytes | None:
    """Bytes ``begin`` to ``end``, if the chunks that have them are whole."""
    first, last = begin // CHUNK, -(-end // CHUNK)
    if os.fstat(descriptor).st_size != size + CRC.size * -(-size // CHUNK):
        return None
    data = os.pread(descriptor, min(last * CHUNK, size) - first * CHUNK, first * CHUNK)
    table = os.pread(descriptor, CRC.size * (last - first), size + CRC.size * first)
    if len(data) != min(last * CHUNK, size) - first * CHUNK or len(table) != CRC.size * (last - first):
        return None
    for chunk in range(first, last):
        part = data[(chunk - first) * CHUNK : (chunk - first + 1) * CHUNK]
        if CRC.unpack_from(table, CRC.size * (chunk - first))[0] != _crc(name, chunk, part):
            return None
    return data[begin - first * CHUNK : end - first * CHUNK]
