"""The place of a file on another machine, for those who know only paths; and the file, read at random."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
from pathlib import Path
from typing import Any

from trainer.data.remote.block_cache import BlockCache
from trainer.data.remote.bucket import Bucket, State
from trainer.data.remote.fetching import BLOCK, WINDOW, Remote, fetching
from trainer.errors import UsageError
from trainer.runtime.user_cache import user_cache

READ_AHEAD = 8  # blocks, where a file is read from its begin to its end
SHARE = 4  # no more than this part of the cache is for what is announced
SHARED = 3  # hexadecimal digits that name a folder of small files: a million of them are 244 in each of 4,096
FOLDER = "blocks"  # in the user's cache directory


@dataclasses.dataclass(frozen=True)
class RemoteRoot:
    """A folder of another machine, and the cache of what is read from it."""

    bucket: Bucket
    cache: BlockCache
    most_bytes: int
    fits: bool = True  # whether the cache has room for all that is read at random

    def __str__(self) -> str:
        return self.bucket.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.bucket.url}/{name}", name, None, self)

    @property
    def pieces_ahead(self) -> int:
        """How many pieces may be announced before they are read."""
        return WINDOW if not self.fits else max(1, min(WINDOW, self.most_bytes // (SHARE * BLOCK)))


@dataclasses.dataclass(frozen=True)
class RemotePath:
    """A file at ``url``, which is ``below`` its root. ``found`` is its state when the files were listed."""

    url: str
    below: str = dataclasses.field(compare=False)
    found: State | None = dataclasses.field(compare=False, repr=False)
    root: RemoteRoot = dataclasses.field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.url.rpartition("/")[0]

    def state(self) -> State:
        """
        Raises:
            UsageError: it does not exist, or does not answer.
        """
        found = self.found or self.root.bucket.state(self.below)
        if found is None:
            raise UsageError(f"{self.url} does not exist")
        return found

    def read_bytes(self) -> bytes:
        """
        Raises:
            RemoteError: it cannot be read.
            UsageError: as ``state``.
        """
        file = RemoteFile(self)
        return file.pread(file.size, 0)


class RemoteFile:
    """A file of another machine, read at any place. Safe to use from several threads."""

    def __init__(self, path: RemotePath, *, in_order: bool = False) -> None:
        """``in_order``: it is read from its begin to its end, so the blocks that follow are fetched ahead.

        Raises:
            UsageError: as ``RemotePath.state``.
        """
        state = path.state()
        key = hashlib.sha256("\0".join((path.url, str(state.size), state.version)).encode()).hexdigest()[:32]
        if state.size <= BLOCK:
            key = f"{key[:SHARED]}/{key[SHARED:]}"
        self._remote = Remote(path.root.bucket, path.below, state, path.root.cache, key)
        self._ahead = min(READ_AHEAD, path.root.pieces_ahead) if in_order else 0
        self._fits = path.root.fits
        self._last = -1, b""  # the block that is being read in order, and its number
        self.size = state.size

    def pread(self, size: int, begin: int) -> bytes:
        """``size`` bytes from byte ``begin`` on; fewer at the end of the file.

        Raises:
            RemoteError: it cannot be read now, or was changed.
        """
        end = min(begin + size, self.size)
        if begin < 0 or begin >= end:
            return b""
        if self._is_used_once(begin, end):
            found = self._once(begin, end)
            if found is not None:
                return found
        numbers = self._remote.numbers(begin, end)
        if len(numbers) > 1:
            self.expect(begin, end)
        parts = []
        for number in numbers:
            first = number * BLOCK
            parts.append(self._part(number, max(begin - first, 0), min(end - first, BLOCK)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, number: int, begin: int, end: int) -> bytes:
        block = self._remote.block(number)
        if not self._ahead:
            return fetching().read(block, begin, end)
        last, data = self._last
        if last != number:
            self.expect(block.begin, min(block.begin + (1 + self._ahead) * BLOCK, self.size))
            data = fetching().read(block, 0, block.end - block.begin)
            self._last = number, data
        return data[begin:end]

    def _is_used_once(self, begin: int, end: int) -> bool:
        """Whether a range is not read by its blocks: the cache cannot keep all of them, so most would be gone before
        they are of use again. A large one is, because its blocks are fetched at the same time.
        """
        return not self._fits and not self._ahead and end - begin <= BLOCK

    def _once(self, begin: int, end: int) -> bytes | None:
        """Bytes ``begin`` to ``end``, from blocks that are there or else alone; None where there is room for blocks."""
        found = self.at_hand(end - begin, begin)
        if found:
            return found
        piece = self._remote.part(begin, end)
        if not fetching().knows(piece):
            blocks = [self._remote.block(number) for number in self._remote.numbers(begin, end)]
            if any(fetching().knows(block) for block in blocks) or self._has_room():
                return None
        return fetching().read(piece, 0, end - begin)

    def _has_room(self) -> bool:
        return self._remote.cache.has_room(SHARE * BLOCK)

    def at_hand(self, size: int, begin: int) -> bytes:
        """As ``pread``, of what is in the cache; nothing where some of it is not."""
        end = min(begin + size, self.size)
        parts: list[bytes] = []
        for number in self._remote.numbers(begin, end):
            first = number * BLOCK
            found = self._remote.block(number).from_cache(max(begin - first, 0), min(end - first, BLOCK))
            if found is None:
                return b""
            parts.append(found)
        return b"".join(parts)

    def expect(self, begin: int, end: int) -> None:
        """Bytes ``begin`` to ``end`` are read soon."""
        blocks = [self._remote.block(number) for number in self._remote.numbers(begin, min(end, self.size))]
        if not self._is_used_once(begin, end) or self._has_room():
            for block in blocks:
                fetching().announce(block)
        elif not all(block.is_there for block in blocks):
            fetching().announce(self._remote.part(begin, min(end, self.size)))

    def close(self) -> None:
        """Nothing is open: a request is one of its own."""


class RemoteStream(io.RawIOBase):
    """A file of another machine as libraries want it, with a place of its own."""

    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self._file, self._place = RemoteFile(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        if base + place < 0:
            raise OSError(errno.EINVAL, "a place before the begin of the file")
        self._place = base + place
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        found = self._file.pread(len(buffer), self._place)
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


def remote_root(url: str, gigabytes: float) -> RemoteRoot:
    """The folder at ``url``; blocks of it are kept on local disk, at most ``gigabytes`` (10^9 bytes) of all data there.

    Raises:
        UsageError: there is no such filesystem, or no place for a cache.
    """
    place = cache_directory()
    if place is None:
        raise UsageError(
            f"data.root={url} needs a place for a cache on local disk, and this user has no home directory\n"
            "name one: XDG_CACHE_HOME=DIR"
        )
    most_bytes = int(gigabytes * 1e9)
    return RemoteRoot(Bucket(url), BlockCache(place, most_bytes), most_bytes)


def cache_directory() -> Path | None:
    """Where blocks are kept; None for a user without a home."""
    cache = user_cache()
    return None if cache is None else cache / FOLDER
