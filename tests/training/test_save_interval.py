"""When a save is due by time. Time here is what the test says it is."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import pytest
from composing import compose

from trainer.config.schema.training import CheckpointConfig
from trainer.run_directory.costs import Costs, SaveCost
from trainer.training import save_interval
from trainer.training.save_interval import SaveInterval, interval, seconds_between_failures

HOUR = 3600.0


def policy(*overrides: str) -> CheckpointConfig:
    return compose(*overrides).checkpoint


class Clock:
    """The account of a run whose start takes eight seconds."""

    def __init__(self, earlier: Costs) -> None:
        self.earlier = earlier
        self.told: list[SaveCost] = []

    def start_seconds(self) -> float:
        return 8.0

    def measured(self, cost: SaveCost) -> None:
        self.told.append(cost)


class Training:
    """A loop whose steps take a second, and ``beside`` where a save is being written; a save blocks it for ``blocked``
    seconds and is written in ``written``.
    """

    def __init__(self, patch: pytest.MonkeyPatch, policy: CheckpointConfig, earlier: Costs | None = None) -> None:
        self.now, self.blocked, self.beside, self.written = 0.0, 0.25, 1.0, 2.5
        patch.setattr(save_interval.time, "monotonic", lambda: self.now)
        self.said: list[str] = []
        self.saves: list[float] = []
        self._until = -math.inf  # a save is being written
        self.clock = Clock(earlier or Costs())
        self.interval = SaveInterval(policy, cast(Any, self.clock), self.said.append)
        self.interval.step(writing=False)
        self.now += 30.0  # the first step is traced
        self.began = self.now
        self.interval.step(writing=False)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        if self.interval.is_over():
            self.save()
        self.now += self.beside if self.now < self._until else 1.0
        self.interval.step(writing=self.now < self._until)

    def save(self) -> None:
        self.saves.append(self.now - self.began)
        with self.interval.saving():
            self.now += self.blocked
        self._until = self.now + self.written

    @property
    def cost(self) -> SaveCost:
        assert self.interval.cost is not None
        return self.interval.cost


def goodput(every: float, save: float, start: float, failure: float) -> float:
    """The share of time that becomes kept steps where failures come at random (exponentially): an interval is tried
    until it is over without a failure.
    """
    return (every - save) / ((failure + start) * math.expm1(every / failure))


@pytest.mark.parametrize("failure", [60.0, 300.0, HOUR, 24 * HOUR])
@pytest.mark.parametrize("save", [0.03, 0.5, 5.0])
def test_no_fixed_interval_is_more_than_three_percent_better(save: float, failure: float) -> None:
    chosen = interval(SaveCost(save, 0.0), 10.0, failure)
    tried = [save * 1.1**power for power in range(1, 150)]
    best = max(goodput(every, save, 10.0, failure) for every in tried if every < 20 * failure)
    assert goodput(chosen, save, 10.0, failure) >= 0.97 * best


def test_a_save_costs_what_blocks_the_loop_and_what_steps_beside_it_take_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training(monkeypatch, policy())
    training.beside = 1.5
    training.steps(100)
    # three steps of half a second more each: the last begins before the save is committed and ends after it
    assert training.cost.stall == pytest.approx(0.25 + 2 * 0.5)
    assert training.cost.written == pytest.approx(0.25 + 3.0)
    assert training.clock.told[-1] == training.cost, "for the account, and for the next life"
    with training.interval.paused():
        training.now += 500.0  # a validation
    training.steps(100)
    assert training.cost.stall == pytest.approx(0.25 + 2 * 0.5)


def test_the_first_save_of_a_process_and_a_hiccup_are_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(monkeypatch, policy("checkpoint.every_steps=1000000", "checkpoint.every_minutes=0.5"))
    training.blocked = 20.0  # it builds what later saves use
    training.steps(10)
    assert (len(training.saves), training.cost.stall) == (1, pytest.approx(20.0))
    training.blocked = 0.25
    training.steps(35)
    assert (len(training.saves), training.cost.stall) == (2, pytest.approx(0.25))
    training.steps(100)
    training.blocked = 60.0
    training.steps(35)
    training.blocked = 0.25
    training.steps(100)
    assert training.cost.stall == pytest.approx(0.25)


def test_before_a_save_was_measured_the_interval_is_short_and_grows_by_doubling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training(monkeypatch, policy())
    training.steps(9)
    assert (training.saves, training.said) == ([], [])
    training.steps(400)
    gaps = [later - earlier for earlier, later in zip([0.0, *training.saves], training.saves, strict=False)]
    assert gaps[:3] == pytest.approx([10, 20, 40], abs=1.5)
    best = interval(training.cost, 8.0, HOUR)
    assert gaps[3:] == pytest.approx([best] * len(gaps[3:]), abs=1.5)
    assert best == pytest.approx(0.25 + math.sqrt(2 * (HOUR + 8) * 0.25 + 0.25**2))
    (line,) = training.said
    assert line.startswith(f"checkpoint.every_steps=auto: a checkpoint every {best:.3g} s, about {best:.0f} steps; ")
    assert "a save costs 0.25 s" in line
    assert line.endswith("a start takes 8 s; assumed: checkpoint.mean_minutes_between_failures=60")


def test_a_life_begins_with_what_earlier_ones_have_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(monkeypatch, policy(), Costs(600.0, 9, (8.0,) * 10, SaveCost(0.25, 2.5)))
    failure = seconds_between_failures(HOUR, 600.0, 9)
    (line,) = training.said
    assert "seen: 9 failures in 10.5 minutes, with checkpoint.mean_minutes_between_failures=60 one in" in line
    training.steps(50)
    assert training.saves[0] == pytest.approx(interval(SaveCost(0.25, 2.5), 8.0, failure), abs=1.5)
    in_peace = Training(monkeypatch, policy(), Costs(600.0, 0, (8.0,), SaveCost(0.25, 2.5)))
    in_peace.steps(50)
    assert in_peace.saves == pytest.approx([interval(SaveCost(0.25, 2.5), 8.0, HOUR)], abs=1.5)


def test_a_change_of_the_interval_is_said_when_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(monkeypatch, policy())
    training.steps(300)
    training.blocked = 0.3
    training.steps(600)
    assert len(training.said) == 1
    training.blocked = 2.0
    training.steps(1000)
    assert len(training.said) == 2


def test_a_save_never_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(monkeypatch, policy("checkpoint.mean_minutes_between_failures=0.1"))
    training.blocked, training.written = 0.01, 40.5
    training.steps(600)
    gaps = [later - earlier for earlier, later in zip(training.saves, training.saves[1:], strict=False)]
    assert min(gaps) >= 40.5
    assert min(gaps[2:]) >= 2 * 40.5 - 1, "half of the steps have no save beside them"


def test_failures_that_were_seen_shorten_what_is_assumed_and_peace_lengthens_nothing() -> None:
    assert seconds_between_failures(HOUR, 100 * HOUR, 0) == HOUR
    assert seconds_between_failures(HOUR, 100 * HOUR, 2) == HOUR
    after = [seconds_between_failures(HOUR, 60.0 * count, count) for count in (0, 1, 3, 10, 1000)]
    assert after == sorted(after, reverse=True)
    assert after[2] < 0.1 * HOUR
    assert after[-1] == pytest.approx(60, rel=0.05)


def test_with_a_number_nothing_is_due_by_time_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(monkeypatch, policy("checkpoint.every_steps=100"))
    training.steps(5000)
    training.save()
    training.steps(5000)
    assert (len(training.saves), training.said) == (1, [])
    assert training.cost.stall == pytest.approx(0.25), "measured nevertheless: a resume may ask for auto"


STEP, START = 1 / 17, 5.0  # seconds


def simulated(patch: pytest.MonkeyPatch, every: int | str, between: float, minutes: float) -> float:
    """The goodput of a run that is killed at seeded random moments, ``between`` seconds apart in the mean."""
    chosen = policy(f"checkpoint.every_steps={every}")
    moments, now = random.Random(5), [0.0]
    patch.setattr(save_interval.time, "monotonic", lambda: now[0])
    kept, lives, cost = 0, 0, None
    while now[0] < 60 * minutes:
        dies = now[0] + moments.expovariate(1 / between)
        clock = Clock(Costs(now[0], lives, (START,) * lives, cost))
        saves = SaveInterval(chosen, cast(Any, clock), lambda line: None)
        saves.step(writing=False)
        now[0] += START
        step, saved, writes, until = kept, kept, 0, -1.0
        while now[0] < dies:
            if saves.is_over() or (isinstance(every, int) and step % every == 0 and step > saved):
                with saves.saving():
                    now[0] += max(0.0, until - now[0]) + 0.01
                writes, saved, until = step, step, now[0] + 0.4
            now[0] += STEP * (1.1 if now[0] < until else 1.0)
            step += 1
            if 0.0 < until <= now[0] < dies:
                kept = max(kept, writes)
            saves.step(writing=now[0] < until)
        now[0] = dies
        lives, cost = lives + 1, clock.told[-1] if clock.told else cost
    return STEP * kept / now[0]


@pytest.mark.parametrize(("between", "minutes"), [(60.0, 15.0), (300.0, 45.0)])
def test_a_run_without_a_key_keeps_nearly_as_much_as_with_the_best_number_of_steps(
    between: float, minutes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {every: simulated(monkeypatch, every, between, minutes) for every in (10, 25, 50, 100, 200, 400)}
    assert simulated(monkeypatch, "auto", between, minutes) >= 0.97 * max(fixed.values()), fixed
