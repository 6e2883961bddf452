"""Which value of a validation metric is the better one. Nothing else in the program compares them."""

from __future__ import annotations

import math
from collections.abc import Mapping

COMPARED = ("loss", "accuracy")
OF_CLASSES = ("macro_f1", "balanced_accuracy", "auroc")  # NaN where they are not defined; older validations lack them
LOWER_IS_BETTER = frozenset({"loss"})


def is_better(value: float, reference: float, metric: str, min_change: float = 0.0) -> bool:
    """Whether ``value`` is better than ``reference`` by more than ``min_change``.

    Any finite value is better than one that is not finite, and nothing else is better than that.
    """
    if not (math.isfinite(value) and math.isfinite(reference)):
        return math.isfinite(value)
    gain = reference - value if metric in LOWER_IS_BETTER else value - reference
    return gain > min_change


def rank(value: float, metric: str) -> float:
    """What to sort by: the best value has the lowest rank, and a value that is not finite the highest, infinity."""
    if not math.isfinite(value):
        return math.inf
    return value if metric in LOWER_IS_BETTER else -value


def counts_by(validation: Mapping[str, float], metric: str) -> bool:
    """Whether a validation can be the best one by ``metric``: it counts, and has this metric."""
    return counts(validation) and metric in validation and math.isfinite(validation[metric])


def counts(validation: Mapping[str, float]) -> bool:
    """Whether a validation can be the best one. It cannot when its loss is not finite: such a network predicts nothing,
    whatever accuracy was counted.
    """
    return all(math.isfinite(validation[metric]) for metric in COMPARED)
