"""A range test suggests a rate where the losses tell one, and none where they do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.training.rate_range import Tried, judge, rates

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100


def curve(best: float, *, noise: float, fall: float = 2.0, seed: int = 0) -> list[Tried]:
    """Losses that fall towards the rate ``best`` by ``fall`` and rise beyond it, as those of a range test do."""
    generator = np.random.default_rng(seed)
    found = []
    for rate in rates(LOWEST, HIGHEST, STEPS):
        decades = math.log10(rate / best)
        loss = 4.0 - fall / (1.0 + math.exp(-3.0 * (decades + 1.0))) + (math.exp(4.0 * decades) if decades > 0 else 0.0)
        found.append(Tried(rate, min(loss, 50.0) + generator.normal(0.0, noise)))
    return found


def test_the_rates_rise_by_one_factor_from_the_lowest_to_the_highest() -> None:
    found = rates(LOWEST, HIGHEST, STEPS)
    assert found[0] == LOWEST
    assert found[-1] == pytest.approx(HIGHEST)
    assert np.ptp(np.diff(np.log(found))) < 1e-9


@pytest.mark.parametrize("best", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_tenth_of_the_rate_of_the_lowest_loss_is_suggested(best: float, noise: float) -> None:
    for seed in range(5):
        found = judge(curve(best, noise=noise, seed=seed))
        assert found.rate is not None
        assert best / 40 < found.rate < best / 2.5


def test_no_rate_is_suggested_where_the_losses_differ_as_much_without_one() -> None:
    suggested = [judge(curve(1e-2, noise=0.3, fall=0.0, seed=seed)[:70]).rate for seed in range(100)]
    assert sum(rate is not None for rate in suggested) <= 2


def test_a_reason_says_what_the_test_lacked() -> None:
    steps = [Tried(rate, 4.0 - number / 50) for number, rate in enumerate(rates(LOWEST, HIGHEST, STEPS))]
    still = judge(steps)
    assert still.rate is None
    assert "still falls at the highest rate that was tried, 10; try a higher highest=" in still.reason
    rises = judge([Tried(each.rate, 8.0 - each.loss) for each in steps])
    assert rises.rate is None
    assert "rises from the lowest rate on, 1e-07; try a lower lowest=" in rises.reason
    broken = judge([Tried(each.rate, math.nan if number > 3 else each.loss) for number, each in enumerate(steps)])
    assert broken.rate is None
    assert "finite for 4 steps only" in broken.reason
