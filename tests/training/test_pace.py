"""What a run says about its speed: without the first step, which is traced, and no time left before it is known."""

from __future__ import annotations

import pytest
import tensorflow as tf

from trainer.training import loop
from trainer.training.pace import Pace
from trainer.training.step import Told


def test_no_time_is_said_before_ten_steps_are_known() -> None:
    pace = Pace()
    for _ in range(9):
        pace.add(1, 2.0)
        assert pace.seconds_for(100) is None
    pace.add(1, 2.0)
    assert pace.seconds_for(100) == 200.0


def test_the_latest_ten_steps_decide_whatever_number_each_record_covers() -> None:
    pace = Pace()
    pace.add(5, 500.0)
    for _ in range(10):
        pace.add(1, 2.0)
    assert pace.seconds_for(100) == 200.0
    pace.add(50, 50.0)
    assert pace.seconds_for(100) == 100.0


def test_the_first_step_of_a_process_is_in_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    told = Told(tf.constant(0.0), tf.constant(0.0), ())
    stretch = loop._Stretch()
    now[0] += 500.0  # tracing
    stretch.add(told)
    assert stretch.end(8) == {}, "its only step was traced"
    for _ in range(10):
        now[0] += 2.0
        stretch.add(told)
    assert stretch.end(8) == {"images_per_second": 4.0, "input_wait": 0.0}
    assert stretch.seconds_for(100) == 200.0


def test_a_record_that_covers_the_first_step_and_others_has_the_rate_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    told = Told(tf.constant(0.0), tf.constant(0.0), ())
    stretch = loop._Stretch()
    for seconds in (500.0, 2.0, 2.0):
        now[0] += seconds
        stretch.add(told)
    assert stretch.end(8)["images_per_second"] == 4.0
    assert stretch.seconds_for(100) is None
