"""Which process is slow, from the time that each needs for its own work."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tensorflow as tf

from trainer.distributed.stragglers import STEPS, OwnWork, Stragglers, moment

NAMES = ("the chief, worker 0 at a:1", "worker 1 at b:1", "worker 2 at c:1")


def told(stragglers: Stragglers, seconds: Sequence[float], steps: int = STEPS) -> list[str]:
    return [line for _ in range(steps) for line in stragglers.add(seconds)]


def test_one_that_is_slower_than_one_and_a_half_medians_for_a_hundred_steps_is_named_once() -> None:
    stragglers = Stragglers(NAMES)
    assert told(stragglers, [0.1, 0.1, 0.2], STEPS - 1) == []
    assert stragglers.facts() == {}
    (line,) = told(stragglers, [0.1, 0.1, 0.2], 1)
    assert line == (
        "worker 2 at c:1 is slow: its own work takes 0.2 s a step, that of most processes 0.1 s (medians of 100 "
        "steps); all wait for it"
    )
    assert stragglers.facts() == {"straggler": NAMES[2], "straggler_ratio": 2.0}
    assert told(stragglers, [0.1, 0.1, 0.2], 5 * STEPS) == []
    assert told(stragglers, [0.1, 0.1, 0.1]) == ["worker 2 at c:1 is no longer slow"]
    assert stragglers.facts() == {}


@pytest.mark.parametrize("seconds", [[0.1, 0.1, 0.149], [0.1, 0.12, 0.14], [0.1, 0.1, 0.0], [], [0.0, 0.0, 0.0]])
def test_one_that_is_a_little_slower_or_not_measured_is_not_named(seconds: list[float]) -> None:
    assert told(Stragglers(NAMES), seconds, 3 * STEPS) == []


def test_of_two_processes_the_slower_is_named() -> None:
    assert [line.split(" is slow")[0] for line in told(Stragglers(NAMES[:2]), [0.3, 0.1])] == [NAMES[0]]
    assert [line.split(" is slow")[0] for line in told(Stragglers(NAMES[:2]), [0.1, 0.3])] == [NAMES[1]]


def test_a_few_long_steps_such_as_those_that_save_do_not_make_a_process_slow() -> None:
    stragglers = Stragglers(NAMES)
    for step in range(3 * STEPS):
        assert stragglers.add([60.0 if step % 10 == 0 else 0.1, 0.1, 0.1]) == []


def test_own_work_lasts_from_the_end_of_an_exchange_to_the_beginning_of_the_next() -> None:
    """Of the step two before the last. In each, 0.25 s of own work and 0.75 s of waiting for the others."""
    work = OwnWork()
    known = []
    for step in range(6):
        work.add((tf.constant(step + 0.25, tf.float64), tf.constant(step + 1.0, tf.float64)))
        known.append(work.seconds())
    assert known == [0.0, 0.0, 0.0, 0.25, 0.25, 0.25]


def test_a_process_that_is_alone_measures_nothing() -> None:
    work = OwnWork()
    for _ in range(6):
        work.add(())
    assert work.seconds() == 0.0


def test_marks_are_moments_before_and_after_what_lies_between() -> None:
    def slow(value: tf.Tensor) -> tf.Tensor:
        import time

        time.sleep(0.2)
        return value

    @tf.function(autograph=False)
    def step(value: tf.Tensor) -> tuple[tf.Tensor, ...]:
        begin = moment([value, value + 1.0])
        after = [tf.ensure_shape(tf.numpy_function(slow, [each], tf.float32), []) for each in (value, value + 1.0)]
        return begin, moment(after)

    begin, end = step(tf.constant(float("nan")))
    assert float(end - begin) >= 0.2
