"""Pieces of remote files, from the cache or else from where they lie; those that are wanted soon, ahead of their use.

A piece is a block, which is kept in the cache, or a range of bytes that is used once, because the cache has no room.

A thread that reads waits for a piece that is on its way, or fetches it itself, with patience. Threads of their own
fetch what was announced, in the order in which it was announced. What they cannot fetch they leave to the one that
reads.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import NamedTuple

from trainer.data.remote.block_cache import BlockCache
from trainer.data.remote.bucket import Bucket, State, patiently

BLOCK = 1 << 20  # bytes
THREADS = 16  # hide the latency of an object store: 16 blocks in 50 ms are 300 MB/s
WINDOW = 256  # pieces that are announced at most
MOST_READY = 256 << 20  # bytes of ranges that were announced and fetched, and wait for their use

Key = tuple[str, int, int]


class Remote(NamedTuple):
    """A file in a bucket, and where its blocks are kept: the cache, and their key in it."""

    bucket: Bucket
    name: str
    state: State
    cache: BlockCache
    key: str

    def block(self, number: int) -> Piece:
        begin = number * BLOCK
        return Piece(self, begin, min(begin + BLOCK, self.state.size), kept=True)

    def part(self, begin: int, end: int) -> Piece:
        return Piece(self, begin, end, kept=False)

    def numbers(self, begin: int, end: int) -> range:
        """The numbers of the blocks with the bytes from ``begin`` to ``end``."""
        return range(begin // BLOCK, max(begin, end - 1) // BLOCK + 1)


class Piece(NamedTuple):
    """Bytes ``begin`` to ``end`` of a file; with ``kept`` they are a block."""

    file: Remote
    begin: int
    end: int
    kept: bool

    @property
    def key(self) -> Key:
        return self.file.key, self.begin, self.end

    @property
    def is_there(self) -> bool:
        return self.kept and self.file.cache.has(self.file.key, self.begin // BLOCK)

    def from_cache(self, begin: int, end: int) -> bytes | None:
        """A part of the block; None where it is not there."""
        size = self.end - self.begin
        return self.file.cache.read(self.file.key, self.begin // BLOCK, size, begin, end)

    def fetch(self) -> bytes:
        """All of it, in one attempt."""
        return self.file.bucket.fetch(self.file.name, self.file.state, self.begin, self.end)


class _Flight:
    """A piece on its way. ``data`` is None where it did not come."""

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.data: bytes | None = None


class Fetching:
    """The pieces on their way of this process, those announced, and ranges that wait for their use."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._flights: dict[Key, _Flight] = {}
        self._announced: OrderedDict[Key, Piece] = OrderedDict()
        self._ready: OrderedDict[Key, bytes] = OrderedDict()
        self._ready_bytes = 0
        self._threads = 0

    def read(self, piece: Piece, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` of a piece, counted from its own begin.

        Raises:
            RemoteError: it cannot be had, or its file was changed.
        """
        found = piece.from_cache(begin, end) if piece.kept else None
        while found is None:
            with self._changed:
                self._announced.pop(piece.key, None)
                data = self._take(piece.key)
                other = self._flights.get(piece.key)
                own = self._flights.setdefault(piece.key, _Flight()) if data is None else None
            if data is None and other is not None:
                other.landed.wait()
                data = other.data
                with self._changed:
                    self._take(piece.key)
            elif own is not None:
                data = self._fly(piece, own, patient=True)
            found = None if data is None else data[begin:end]
        return found

    def knows(self, piece: Piece) -> bool:
        """Whether a piece was announced and has not been read."""
        return piece.key in self._announced or piece.key in self._flights or piece.key in self._ready

    def announce(self, piece: Piece) -> None:
        """A piece is wanted soon."""
        if self.knows(piece) or piece.is_there:
            return
        with self._changed:
            if len(self._announced) >= WINDOW:
                return
            self._announced[piece.key] = piece
            if self._threads < THREADS:
                self._threads += 1
                threading.Thread(target=self._work, name="fetching", daemon=True).start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._announced:
                    self._changed.wait()
                key, piece = self._announced.popitem(last=False)
                if key in self._flights:
                    continue
                flight = self._flights[key] = _Flight()
            self._fly(piece, flight, patient=False)

    def _fly(self, piece: Piece, flight: _Flight, *, patient: bool) -> bytes | None:
        try:
            if piece.kept:
                flight.data = piece.from_cache(0, piece.end - piece.begin)  # it may have landed in the meantime
            if flight.data is None:
                flight.data = patiently(piece.fetch) if patient else piece.fetch()
                if piece.kept:
                    piece.file.cache.keep(piece.file.key, piece.begin // BLOCK, flight.data)
        except Exception:  # of whatever network or library is behind the URL
            if patient:
                raise
        finally:
            with self._changed:
                del self._flights[piece.key]
                if not patient and not piece.kept and flight.data is not None:
                    self._put_ready(piece.key, flight.data)
            flight.landed.set()
        return flight.data

    def _put_ready(self, key: Key, data: bytes) -> None:
        self._ready[key] = data
        self._ready_bytes += len(data)
        while self._ready_bytes > MOST_READY:
            self._ready_bytes -= len(self._ready.popitem(last=False)[1])

    def _take(self, key: Key) -> bytes | None:
        data = self._ready.pop(key, None)
        self._ready_bytes -= len(data or b"")
        return data


class _OfThisProcess:
    """A forked process has no threads of its parent."""

    def __init__(self) -> None:
        self.fetching = Fetching()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.fetching = Fetching()


_OWN = _OfThisProcess()


def fetching() -> Fetching:
    return _OWN.fetching
