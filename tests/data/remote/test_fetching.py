"""Blocks ahead of their use: each is fetched once, by whoever comes first, and what fails is left to the reader."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from trainer.data.remote import bucket
from trainer.data.remote import fetching as module
from trainer.data.remote.block_cache import BlockCache
from trainer.data.remote.bucket import Bucket, State
from trainer.data.remote.fetching import BLOCK, Fetching, Remote


class Store:
    """A bucket of one file, whose block ``n`` is filled with the byte ``n``."""

    def __init__(self) -> None:
        self.fetched: Counter[int] = Counter()
        self.failing: set[int] = set()
        self.open = threading.Event()
        self.open.set()
        self.at_once = 0

    def fetch(self, name: str, state: State, begin: int, end: int) -> bytes:
        number = begin // BLOCK
        self.fetched[number] += 1
        self.at_once += 1
        self.open.wait(120)
        if number in self.failing:
            self.failing.remove(number)
            raise ConnectionError("gone")
        return bytes([number]) * (end - begin)


@pytest.fixture
def store() -> Store:
    return Store()


def remote(store: Store, place: Path) -> Remote:
    return Remote(cast(Bucket, store), "one", State(20 * BLOCK - 1, "v"), BlockCache(place, 10**9), "key")


def test_blocks_that_were_announced_are_fetched_together_and_once(store: Store, tmp_path: Path) -> None:
    fetching, file = Fetching(), remote(store, tmp_path)
    store.open.clear()
    for number in range(20):
        fetching.announce(file.block(number))
        fetching.announce(file.block(number))
    deadline = threading.Event()
    for _ in range(1000):
        if store.at_once >= 16:
            break
        deadline.wait(0.01)
    assert store.at_once == 16, "latency is hidden"
    with ThreadPoolExecutor(4) as pool:
        read: Any = pool.map(lambda number: fetching.read(file.block(number), 5, 9), [*range(20), *range(20)])
        store.open.set()
        assert list(read) == [bytes([number]) * 4 for number in [*range(20), *range(20)]]
    assert store.fetched == Counter(range(20))
    assert fetching.read(file.block(19), 0, BLOCK - 1) == bytes([19]) * (BLOCK - 1)


def test_what_could_not_be_fetched_ahead_is_fetched_by_the_one_that_reads(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "DELAYS", (0.01,))
    fetching, file = Fetching(), remote(store, tmp_path)
    store.failing = {3}
    store.open.clear()
    fetching.announce(file.block(3))
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(fetching.read, file.block(3), 0, 2)
        store.open.set()
        assert read.result() == b"\3\3"
    assert store.fetched[3] == 2


def test_a_range_that_was_announced_is_fetched_once_and_given_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching, file = Fetching(), remote(store, tmp_path)
    ranges = [file.part(number * BLOCK + 7, number * BLOCK + 1007) for number in range(10)]
    for piece in ranges:
        fetching.announce(piece)
    for number, piece in enumerate(ranges):
        assert fetching.read(piece, 3, 9) == bytes([number]) * 6
    assert store.fetched == Counter(range(10))
    assert fetching._ready_bytes == 0
    assert not list(tmp_path.glob("*/*")), "nothing of it is kept"
    assert fetching.read(ranges[0], 0, 1) == b"\0"
    assert store.fetched[0] == 2
    monkeypatch.setattr(module, "MOST_READY", 2500)
    for piece in ranges[:5]:
        fetching.announce(piece)
    for _ in range(1000):
        if store.fetched[4] == 2:
            break
        threading.Event().wait(0.01)
    assert fetching._ready_bytes <= 2500
    assert [fetching.read(piece, 0, 1) for piece in ranges[:5]] == [bytes([number]) for number in range(5)]
    assert fetching._ready_bytes <= 2500


def test_without_a_cache_each_read_is_right(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fetching, file = Fetching(), remote(store, tmp_path / "file")
    assert fetching.read(file.block(2), 0, 2) == fetching.read(file.block(2), 0, 2) == b"\2\2"
    assert store.fetched[2] == 2
