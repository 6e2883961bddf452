"""Waiting for batches: in order, until a stop is asked for, with a word about what is read when it takes long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trainer.data import reads, supply
from trainer.data.ahead import Ahead
from trainer.data.supply import Supply, WaitEnded
from trainer.errors import UsageError

Numbered = dict[str, Any]


class Blocked:
    """Batches, of which the one after ``there`` comes when it is let go."""

    def __init__(self, there: int) -> None:
        self._there = there
        self.go_on = threading.Event()

    def __iter__(self) -> Iterator[Numbered]:
        for number in range(10):
            if number == self._there:
                with reads.reading(lambda: "a batch"), reads.reading(lambda: f"/data/{self._there}.jpg"):
                    self.go_on.wait(60)
            yield {"number": number}


def test_batches_come_in_order_with_their_error_and_their_end() -> None:
    assert [batch["number"] for batch in Supply([{"number": 0}, {"number": 1}], lambda: True, print)] == [0, 1]  # type: ignore[list-item]

    def failing() -> Iterator[Numbered]:
        yield {"number": 0}
        raise UsageError("the disk is gone")

    batches = Supply(failing(), lambda: False, print)
    assert next(batches) == {"number": 0}
    with pytest.raises(UsageError, match="the disk is gone"):
        next(batches)


def test_a_wait_ends_when_a_stop_is_asked_for_and_the_batch_is_not_lost() -> None:
    blocked, asked = Blocked(1), [False]
    batches = Supply(blocked, lambda: asked[0], print)
    assert next(batches) == {"number": 0}
    threading.Timer(0.5, lambda: asked.__setitem__(0, True)).start()
    with pytest.raises(WaitEnded):
        next(batches)
    blocked.go_on.set()
    asked[0] = False
    assert [next(batches)["number"] for _ in range(9)] == list(range(1, 10))


def test_a_stop_does_not_take_away_a_batch_that_is_there() -> None:
    batches = Supply(Blocked(5), lambda: True, print)
    assert [next(batches)["number"] for _ in range(5)] == list(range(5))


@pytest.mark.parametrize("depth", [1, 2])
def test_what_was_read_ahead_is_used_before_a_wait_ends(depth: int) -> None:
    blocked = Blocked(4)
    ahead = Ahead(Supply(blocked, lambda: True, print), depth, lambda error: None)
    ahead.look()
    assert [next(ahead)["number"] for _ in range(4)] == list(range(4))
    with pytest.raises(WaitEnded):
        next(ahead)
    blocked.go_on.set()


def test_a_long_wait_names_what_is_read_and_says_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "STALLED_SECONDS", 0.3)
    blocked = Blocked(0)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:  # again after twice the time
            blocked.go_on.set()

    assert next(Supply(blocked, lambda: False, say)) == {"number": 0}
    assert all("reading /data/0.jpg has taken" in text for text in said[:2]), said
    assert said[2].startswith("the data came after"), said
    assert reads.longest() is None
