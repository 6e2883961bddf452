"""When a process without progress hangs: plain numbers, without TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest

from trainer.config.additions import ADDITIONS, with_additions
from trainer.config.compose import compose
from trainer.config.schema.training import WatchdogConfig
from trainer.run.hang import Hang, Idle, judge, limit
from trainer.run_directory.phases import PHASES
from trainer.runtime.counted_time import CountedTime

ADDED = dict(ADDITIONS)
LIMITS = WatchdogConfig(starting=1800, tracing=3600, training=60, waiting=600, validating=600, saving=1200)


def test_every_phase_has_a_limit_of_its_own() -> None:
    assert list(get_type_hints(WatchdogConfig)) == list(PHASES)


@pytest.mark.parametrize(
    ("durations", "allowed"),
    [
        ([0.1] * 100, 60.0),  # quick steps: never less than the key says
        ([30.0] * 100, 150.0),  # slow ones: five medians
        ([1.0] * 99 + [100.0], 200.0),  # one that was longer may come again
        ([0.001] * 90 + [70.0] * 10, 140.0),  # an accelerator works off ten steps at the record of each tenth
    ],
)
def test_a_step_may_take_longer_than_the_key_says_where_steps_are_slow(durations: list[float], allowed: float) -> None:
    assert limit("training", LIMITS, durations, 11) == allowed
    assert judge("training", allowed, LIMITS, durations, 11) is None
    assert judge("training", allowed + 1, LIMITS, durations, 11) == Hang("training", allowed + 1, allowed)


def test_as_long_as_few_steps_are_known_one_may_take_as_long_as_tracing() -> None:
    assert limit("training", LIMITS, [0.1] * 10, 11) == 3600
    assert limit("validating", LIMITS, [], 1) == 3600
    assert limit("validating", LIMITS, [300.0], 1) == 1500
    untraced = dataclasses.replace(LIMITS, tracing=None)
    assert limit("training", untraced, [], 11) is None


@pytest.mark.parametrize("phase", ["starting", "tracing", "waiting", "saving"])
def test_other_phases_have_the_limit_of_their_key(phase: str) -> None:
    allowed = getattr(LIMITS, phase)
    assert limit(phase, LIMITS, [1000.0] * 100, 11) == allowed  # type: ignore[arg-type]
    assert judge(phase, allowed + 1, LIMITS, (), 11) == Hang(phase, allowed + 1, allowed)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", PHASES)
def test_null_means_that_any_time_may_pass(phase: str) -> None:
    off = dataclasses.replace(LIMITS, **{phase: None})
    assert judge(phase, 1e9, off, [0.1] * 100, 11) is None  # type: ignore[arg-type]


def test_progress_begins_the_count_anew() -> None:
    idle = Idle()
    assert [idle.at(now, mark) for now, mark in [(5, "a"), (9, "a"), (10, "b"), (70, "b"), (71, "c")]] == [
        0,
        4,
        0,
        60,
        0,
    ]


def test_time_in_which_a_process_was_stopped_does_not_count() -> None:
    """Read every second, stopped for eight hours, read every second again."""
    moments = iter([0.0, *map(float, range(1, 11)), *(28800.0 + second for second in range(11, 21))])
    counted = CountedTime(1.0, lambda: next(moments))
    idle = Idle()
    seen = [idle.at(counted.read(), "no progress") for _ in range(20)]
    assert seen[9] == 9.0
    assert seen[-1] == pytest.approx(20.0), "two seconds at the most for the eight hours"
    assert judge("training", seen[-1], LIMITS, [0.1] * 100, 11) is None


def test_a_clock_that_goes_back_counts_nothing() -> None:
    moments = iter([10.0, 11.0, 5.0, 6.0])
    counted = CountedTime(1.0, lambda: next(moments))
    assert [counted.read() for _ in range(3)] == [1.0, 1.0, 2.0]


def test_a_configuration_stored_before_the_keys_is_not_watched() -> None:
    stored = dataclasses.asdict(compose([]))
    assert None not in stored["runtime"].pop("watchdog").values(), "a new one is"
    assert with_additions(stored)["runtime"]["watchdog"] == dict.fromkeys(PHASES)
    assert ADDED["runtime.watchdog"] == {}, "the table is not changed by what it is applied to"
