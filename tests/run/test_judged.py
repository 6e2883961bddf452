"""Who is judged: time and processes are what the test says. Real processes that hang are in
tests/proofs/test_watchdog.py.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, cast

import pytest

from trainer.config.compose import compose
from trainer.distributed import exchange
from trainer.distributed.exchange import Exchange
from trainer.distributed.membership import Process
from trainer.run import watchdog as module
from trainer.run.stacks import stacks, where
from trainer.run.watchdog import Watchdog
from trainer.runtime.counted_time import CountedTime
from trainer.runtime.signals import StopRequest
from trainer.storage.going_on import COPIES, WRITES

CONFIG = compose(["train.log_every_steps=1", "runtime.watchdog.starting=100", "runtime.watchdog.saving=50"])


@dataclasses.dataclass
class Others:
    """Takes the place of Peers, in the chief of three."""

    waiting: float = 0.0  # seconds, all others
    waited: float = 0.0
    reports: list[str] = dataclasses.field(default_factory=list)

    class cluster:  # noqa: N801
        workers = ("a:1", "b:1", "c:1")

    def report(self, text: str) -> None:
        self.reports.append(text)

    def all_have_waited(self, seconds: float) -> bool:
        return self.waiting >= seconds


class Watch:
    """A watchdog that looks when it is told to, and what it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: Others | None = None) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.others = others
        process = Process(StopRequest(), cast(Any, others))
        self._watchdog = Watchdog(process, None, ends_process=False)
        self._watchdog.follow(CONFIG)
        self._watchdog._time = CountedTime(1e9, lambda: self.now)
        monkeypatch.setattr(module, "_to_stderr", self.said.append)

    def look(self, now: float) -> list[str]:
        self.now = now
        self._watchdog._time.read()
        self._watchdog._look(CONFIG.runtime.watchdog)
        return self.said


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> Exchange:
    monkeypatch.setattr(exchange, "OWN", Exchange())
    return exchange.OWN


@pytest.fixture
def others() -> Others:
    return Others()


def test_a_process_without_progress_is_reported_once_with_its_phase_and_all_stacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    assert watch.look(0) == watch.look(100) == []
    (said,) = watch.look(101)
    assert "hangs: no progress for 101 s while starting (runtime.watchdog.starting allows 100 s): the main" in said
    assert "what all threads do, innermost calls last:" in said
    assert len(watch.look(500)) == 1


def test_one_that_waits_for_others_is_not_judged_unless_all_do(
    own: Exchange, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch, others)
    with own.waiting():
        assert watch.look(0) == watch.look(5000) == []
        assert others.waited == 5000
        others.waiting = 99.0
        assert watch.look(5001) == []
        others.waiting = 101.0
        (said,) = watch.look(5002)
    assert "all 3 processes wait for each other" in said


def test_an_exchange_that_several_devices_have_come_to_ends_once(own: Exchange) -> None:
    own.arrive(exchange.STEP)
    own.arrive(exchange.STEP)
    assert own.is_waited_for
    own.leave(exchange.STEP)
    assert not own.is_waited_for
    own.leave(exchange.STEP)
    assert own.changes == 4


@pytest.mark.parametrize(("kind", "hangs"), [(WRITES, True), (COPIES, False)])
def test_a_save_in_the_background_hangs_by_itself_and_a_mirror_is_no_reason_to_end_a_run(
    kind: Any, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    begun, end = threading.Event(), threading.Event()

    def background() -> None:
        with kind.doing(lambda: "a file"):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=background)
    thread.start()
    begun.wait(60)
    try:
        watch.look(0)
        assert watch.look(50) == []
        (said,) = watch.look(51)
        assert "a file has taken" in said
        assert ("while saving" in said) is hangs
        assert ("warning: a file has taken 0 s so far; the mirror is not up to date, and the run goes on" in said) is (
            not hangs
        )
        assert len(watch.look(52)) == 1
    finally:
        end.set()
        thread.join()


def test_stacks_have_every_thread_and_what_it_does() -> None:
    here = threading.Event()
    thread = threading.Thread(target=here.wait, name="one that waits")
    thread.start()
    found: list[str] = []
    main = threading.get_ident()
    looking = threading.Thread(target=lambda: found.extend([stacks(main), where(main)]))
    looking.start()
    looking.join()
    here.set()
    thread.join()
    assert "thread one that waits" in found[0]
    assert found[0].index("thread MainThread") == 0
    assert "test_stacks_have_every_thread_and_what_it_does" in found[0]
    assert found[1].startswith("the main thread is in ")
