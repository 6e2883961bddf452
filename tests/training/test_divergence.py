"""Which steps count as diverged: the judgement alone, over made-up losses and gradient norms."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from composing import compose

from trainer.config.complete import complete, with_leaves
from trainer.errors import Diverged
from trainer.training.divergence import LEAST_DEVIATION, Watch, make_judge
from trainer.training.schedules import learning_rate, learning_rate_at
from trainer.training.state import rolling_statistics

FACTOR, WINDOW = 6.0, 20
CONFIG = compose("train.on_divergence=rollback", f"divergence.factor={FACTOR}", f"divergence.window={WINDOW}")


class Judging:
    """A judge with statistics of its own. ``diverged`` has the answers so far."""

    def __init__(self, *overrides: str, loss_scale: float = 1.0) -> None:
        config = dataclasses.replace(CONFIG, runtime=compose(*overrides).runtime)
        self.statistics = rolling_statistics(config)
        progress = SimpleNamespace(loss_scale=tf.constant(loss_scale))
        state = SimpleNamespace(divergence=self.statistics, progress=progress)
        self._judge = tf.function(make_judge(state, config), autograph=False)  # type: ignore[arg-type]
        self.diverged: list[bool] = []

    def __call__(self, loss: float, norm: float, *, made: bool = True, sound: bool = True) -> bool:
        judged = self._judge(tf.constant(loss), tf.constant(norm), tf.constant(made), tf.constant(sound))
        self.diverged.append(bool(judged.diverged.numpy()))
        return self.diverged[-1]

    def values(self) -> dict[str, float]:
        return {name: float(variable.numpy()) for name, variable in self.statistics.items()}


def healthy(steps: int) -> list[tuple[float, float]]:
    draw = np.random.default_rng(0)
    return [(3.0 * math.exp(0.3 * draw.normal()), 20.0 * math.exp(draw.normal())) for _ in range(steps)]


def test_the_statistics_are_those_of_all_steps_until_the_window_is_full() -> None:
    judge, steps = Judging(), healthy(WINDOW)
    for loss, norm in steps:
        judge(loss, norm)
    logarithms = np.log(np.array(steps, np.float32).astype(np.float64))
    found = judge.values()
    assert [found["loss_mean"], found["norm_mean"]] == pytest.approx(logarithms.mean(0).tolist())
    assert [found["loss_variance"], found["norm_variance"]] == pytest.approx(logarithms.var(0).tolist())
    assert found["steps"] == WINDOW


def test_healthy_steps_do_not_diverge_and_ones_far_above_them_do() -> None:
    judge = Judging()
    for loss, norm in healthy(200):
        assert not judge(loss, norm)
    known = judge.values()
    for name, other in (("loss", 20.0), ("norm", 3.0)):
        limit = math.exp(known[f"{name}_mean"] + FACTOR * max(math.sqrt(known[f"{name}_variance"]), LEAST_DEVIATION))
        for share, expected in ((0.99, False), (1.01, True)):
            fresh = Judging()
            for variable, value in zip(fresh.statistics.values(), known.values(), strict=True):
                variable.assign(tf.cast(value, variable.dtype))
            pair = (share * limit, other) if name == "loss" else (other, share * limit)
            assert fresh(*pair) is expected, (name, share)


@pytest.mark.parametrize("values", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite_diverges_from_the_first_step_on_and_leaves_the_statistics(
    values: tuple[float, float],
) -> None:
    judge = Judging()
    assert judge(*values)
    assert set(judge.values().values()) == {0.0}
    assert judge(1.0, 1.0, sound=False), "a variable is not finite"


def test_only_what_is_not_finite_diverges_before_the_window_is_full() -> None:
    judge = Judging()
    for _ in range(WINDOW - 1):
        assert not judge(1.0, 1.0)
    assert not judge(1e6, 1e6)
    assert judge(1e30, 1.0)


def test_a_loss_of_nothing_is_no_special_case() -> None:
    judge = Judging()
    for _ in range(2 * WINDOW):
        assert not judge(0.0, 0.0)
    assert all(map(math.isfinite, judge.values().values()))
    assert judge(1.0, 0.0)


def test_a_step_that_a_loss_scale_skips_diverges_only_at_the_lowest_scale() -> None:
    for scale, expected in ((1024.0, False), (1.0, True)):
        judge = Judging("runtime.precision=mixed_float16", loss_scale=scale)
        assert judge(1.0, math.inf, made=False) is expected
        assert judge.values()["steps"] == 0


def test_the_host_reads_the_last_step_only_where_it_has_to_and_tells_the_first_that_diverged() -> None:
    judge = make_judge(
        SimpleNamespace(divergence=rolling_statistics(CONFIG)),  # type: ignore[arg-type]
        CONFIG,
    )
    watch = Watch(position=80, batch_size=8)
    for number, loss in ((11, 1.0), (12, math.nan), (13, math.nan)):
        tensors = tf.constant(loss), tf.constant(1.0)
        watch.add(number, *tensors, judge(*tensors, tf.constant(True), tf.constant(True)))
        if number == 12:
            watch.look(newest=False)
            assert not watch.is_sound()
    with pytest.raises(
        Diverged, match=r"^the training loss is nan at step 12, of training examples 88 to 95$"
    ) as found:
        watch.look(newest=False)
    assert (found.value.step, found.value.first, found.value.end) == (12, 88, 96)


def test_the_rate_is_lower_from_the_first_example_of_each_entry_on() -> None:
    config = complete(
        compose(
            "train.global_batch_size=8", "divergence.learning_rate_factor=0.5", "train.skip_examples=[20-23,60-80]"
        ),
        100,
        10,
    )
    for step in range(12):
        number = tf.constant(step, tf.int64)
        usual = learning_rate_at(number, config.optimizer.learning_rate, config.schedule)
        entries = (step >= 2) + (step >= 7)  # of examples 16 to 23, and 56 to 63
        assert float(learning_rate(number, number * 8, config)) == pytest.approx(float(usual) * 0.5**entries)
    same = with_leaves(config, {"divergence.learning_rate_factor": 1.0})
    number = tf.constant(9, tf.int64)
    usual = learning_rate_at(number, config.optimizer.learning_rate, config.schedule)
    assert float(learning_rate(number, number * 8, same)) == float(usual)
