"""Bitwise comparison of the tensors of two checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from trainer.checkpoint.tensors import StoredValues, stored_tensors


@dataclasses.dataclass(frozen=True)
class Difference:
    """One tensor that is not bitwise equal on both sides, and how it differs."""

    name: str
    how: str

    def __str__(self) -> str:
        return f"{self.name}: {self.how}"


def differing_tensors(left: Path, right: Path) -> list[Difference]:
    """Every difference between the states of two checkpoint directories, in name order; NaNs compare by bits."""
    left_tensors, right_tensors = stored_tensors(left), stored_tensors(right)
    left_values, right_values = StoredValues(left), StoredValues(right)
    differences = []
    for name in sorted(left_tensors.keys() | right_tensors.keys()):
        if name not in left_tensors or name not in right_tensors:
            differences.append(Difference(name, f"only in {left if name in left_tensors else right}"))
        elif left_tensors[name] != right_tensors[name]:
            differences.append(Difference(name, f"{left_tensors[name]} against {right_tensors[name]}"))
        else:
            how = _how_values_differ(np.asarray(left_values[name]), np.asarray(right_values[name]))
            if how is not None:
                differences.append(Difference(name, how))
    return differences


def _how_values_differ(left: np.ndarray, right: np.ndarray) -> str | None:
    """None for equal bits; otherwise the count, the first differing index, both values and the largest differences."""
    if left.tobytes() == right.tobytes():
        return None
    itemsize = f"V{left.dtype.itemsize}"
    unequal = np.ascontiguousarray(left).view(itemsize) != np.ascontiguousarray(right).view(itemsize)
    unequal = unequal.reshape(left.shape)
    first = tuple(int(index) for index in np.argwhere(unequal)[0])
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        absolute = np.abs(wide_left - wide_right)
        relative = absolute / np.maximum(np.abs(wide_left), np.abs(wide_right))
    return (
        f"{int(unequal.sum())} of {left.size} values differ, first at {list(first)}: {left[first]} against "
        f"{right[first]}; largest difference {np.nanmax(absolute):.3g}, relative {np.nanmax(relative):.3g}"
    )
