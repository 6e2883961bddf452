"""Less loss and more accuracy are better, and one module says so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from trainer.config.metrics import counts, is_better, rank

PACKAGE = Path(__file__).resolve().parents[2] / "trainer"


@pytest.mark.parametrize(("metric", "better", "worse"), [("loss", 0.1, 0.2), ("accuracy", 0.2, 0.1)])
def test_the_better_value_wins_and_has_the_lower_rank(metric: str, better: float, worse: float) -> None:
    assert is_better(better, worse, metric)
    assert not is_better(worse, better, metric)
    assert not is_better(better, better, metric)
    assert sorted([worse, better], key=lambda value: rank(value, metric)) == [better, worse]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_a_change_that_is_too_small_is_not_better(metric: str) -> None:
    sign = -1.0 if metric == "loss" else 1.0
    assert not is_better(sign * 0.5, 0.0, metric, min_change=0.5)
    assert is_better(sign * 0.75, 0.0, metric, min_change=0.5)


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
def test_any_finite_value_is_better_than_one_that_is_not(metric: str, other: float) -> None:
    assert is_better(1e30, other, metric, min_change=5.0)
    assert not is_better(other, 1e30, metric)
    assert not is_better(other, math.nan, metric)
    for values in ([other, 1.0, 2.0], [1.0, other, 2.0], [2.0, 1.0, other]):
        ordered = sorted(values, key=lambda value: rank(value, metric))
        assert ordered == ([1.0, 2.0, other] if metric == "loss" else [2.0, 1.0, other]) or math.isnan(other)
        assert math.isfinite(ordered[0])
        assert not math.isfinite(ordered[2])


def test_a_validation_with_a_loss_that_is_not_finite_does_not_count_whatever_its_accuracy() -> None:
    assert counts({"loss": 1.0, "accuracy": 0.0})
    assert not counts({"loss": math.nan, "accuracy": 0.9})
    assert not counts({"loss": math.inf, "accuracy": 0.9})


def test_no_other_module_decides_by_the_name_of_the_metric() -> None:
    deciding = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if 'metric == "loss"' in path.read_text()
    }
    assert deciding == set()
