"""Less loss and more accuracy are better, and one module says so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from trainer.config.metrics import is_better, rank

PACKAGE = Path(__file__).resolve().parents[2] / "trainer"


@pytest.mark.parametrize(("metric", "better", "worse"), [("loss", 0.1, 0.2), ("accuracy", 0.2, 0.1)])
def test_the_better_value_wins_and_has_the_lower_rank(metric: str, better: float, worse: float) -> None:
    assert is_better(better, worse, metric)
    assert not is_better(worse, better, metric)
    assert not is_better(better, better, metric)
    assert sorted([worse, better], key=lambda value: rank(value, metric)) == [better, worse]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_a_change_that_is_too_small_and_a_nan_are_not_better(metric: str) -> None:
    sign = -1.0 if metric == "loss" else 1.0
    assert not is_better(sign * 0.5, 0.0, metric, min_change=0.5)
    assert is_better(sign * 0.75, 0.0, metric, min_change=0.5)
    assert not is_better(math.nan, 0.0, metric)


def test_no_other_module_decides_by_the_name_of_the_metric() -> None:
    deciding = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if 'metric == "loss"' in path.read_text()
    }
    assert deciding == set()
