"""The ``model.width`` and ``model.min_depth`` that explain the filter counts of a file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from trainer.models.inception_v3_units import PUBLISHED

SHARE = 0.8  # of the units; a width must explain as many to be the cause of the difference
# people choose multiples of 1/100, then of 1/16 to 1/64, then any number
SCALES = (1, 10, 100, 16, 32, 64, 1000, 10**4, 10**5, 10**6)


@dataclasses.dataclass(frozen=True)
class Width:
    """``filters = max(int(published × width), min_depth)``, as in trainer/models/inception_v3.py and TF-Slim."""

    width: float
    min_depth: int

    def filters(self, unit: str) -> int:
        return max(int(PUBLISHED[unit] * self.width), self.min_depth)

    def fitting(self, filters: Mapping[str, int]) -> set[str]:
        """The units whose filter count this width explains."""
        return {unit for unit, count in filters.items() if self.filters(unit) == count}


def infer(filters: Mapping[str, int], current: Width) -> Width:
    """The width that explains the most of ``filters`` (unit → count); ``current`` when no other explains more.

    Among equally good widths the one closest to ``current`` wins, then the roundest.
    """
    best, best_count = current, len(current.fitting(filters))
    # current.min_depth, Slim's default, no minimum, and the smallest count in the file
    floors = dict.fromkeys((current.min_depth, 16, 1, min(filters.values())))
    for floor in floors:
        for unit, count in filters.items():
            if count <= floor and count != min(filters.values()):
                continue
            start = count / PUBLISHED[unit]
            fitting = Width(_up(start), floor).fitting(filters)
            candidate = _rounded({name: filters[name] for name in fitting}, floor)
            score = len(candidate.fitting(filters)) if candidate is not None else 0
            if candidate is not None and score > best_count:
                best, best_count = candidate, score
    return best


def _up(value: float) -> float:
    # int(published × (count / published)) can fall one short of count
    return value * (1.0 + 1e-12)


def _rounded(filters: Mapping[str, int], floor: int) -> Width | None:
    """The width with the roundest value that explains all of ``filters``."""
    if not filters:
        return None
    above = [count / PUBLISHED[unit] for unit, count in filters.items() if count > floor]
    low = max(above, default=0.0)
    high = min((count + 1) / PUBLISHED[unit] for unit, count in filters.items())
    for scale in SCALES:
        # without a count above the floor any small width fits: the largest is the least surprising
        number = math.ceil(low * scale - 1e-9) if above else math.ceil(high * scale - 1e-9) - 1
        candidate = Width(number / scale, floor)
        if number > 0 and candidate.fitting(filters) == set(filters):
            return candidate
    return None
