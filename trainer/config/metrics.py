"""Which value of a validation metric is the better one. Nothing else in the program compares them."""

from __future__ import annotations

LOWER_IS_BETTER = frozenset({"loss"})


def is_better(value: float, reference: float, metric: str, min_change: float = 0.0) -> bool:
    """Whether ``value`` is better than ``reference`` by more than ``min_change``. A NaN is never better."""
    gain = reference - value if metric in LOWER_IS_BETTER else value - reference
    return gain > min_change


def rank(value: float, metric: str) -> float:
    """What to sort by: the best value has the lowest rank."""
    return value if metric in LOWER_IS_BETTER else -value
