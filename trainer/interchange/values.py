"""The values of a file as weights: in float32, or refused by the tensor's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.interchange.contents import Contents, Tensor
from trainer.interchange.findings import DAMAGE, MISMATCH, Finding, Unusable, listed

# by NumPy's names; numpy.longdouble is called float96 or float128
PLAIN = ("float16", "bfloat16", "float32", "float64", "float96", "float128")
# Weights behind batch norm are of the order of one. Values read with a wrong type, or unscaled, are far beyond these.
LARGEST, LARGEST_VARIANCE = 1e4, 1e8
VARIANCE = "moving_variance"


@dataclasses.dataclass(frozen=True)
class Values:
    """Float32 arrays by variable, in the file's layout, and remarks about those that are hardly weights."""

    arrays: Mapping[str, np.ndarray]
    remarks: tuple[str, ...]


def read_values(contents: Contents, wanted: Mapping[str, Tensor]) -> Values:
    """Read the tensor of each variable in ``wanted`` and convert it to float32.

    Raises:
        Unusable: a tensor is damaged, is of a type that holds no plain weights (integers, 8-bit floats, which need
            scales that are stored elsewhere), is not finite, or is a negative variance. It names every such tensor.
    """
    arrays: dict[str, np.ndarray] = {}
    faults: dict[str, list[str]] = {}
    remarks: dict[str, list[str]] = {}
    for name, tensor in wanted.items():
        try:
            value = _plain(contents.read(tensor), tensor)
        except Unusable as error:
            if error.finding.status == DAMAGE:
                raise
            faults.setdefault(error.finding.title, []).append(_label(tensor))
            continue
        arrays[name] = value
        if fault := _fault(name, value):
            faults.setdefault(fault, []).append(_label(tensor))
        elif remark := _remark(name, value):
            remarks.setdefault(remark, []).append(_label(tensor))
    if faults:
        count = sum(map(len, faults.values()))
        title = f"{count} of {len(wanted)} tensors cannot be weights"
        details = (*_lines(faults), "take another file, or write this one again with float32 values")
        raise Unusable(Finding("values", MISMATCH, title, details))
    return Values(arrays, tuple(_lines(remarks)))


def _lines(reasons: Mapping[str, Iterable[str]]) -> list[str]:
    return [f"{reason}: {listed(labels)}" for reason, labels in reasons.items()]


def _label(tensor: Tensor) -> str:
    return f"{tensor.label} {list(tensor.shape)}"


def _plain(value: Any, tensor: Tensor) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.name not in PLAIN:
        raise Unusable(not_plain(tensor.dtype))
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, and is found as such
        return array.astype(np.float32)


def not_plain(dtype: str) -> Finding:
    """The refusal of a type. ``dtype`` is the file's name for it."""
    return Finding("dtype", MISMATCH, f"are of type {dtype}, which is not read")


def _of_type(reason: str, labels: Sequence[str]) -> Finding:
    """The finding about all tensors that are refused for one type. ``reason`` is the title of ``not_plain``."""
    return Finding("dtype", MISMATCH, f"{len(labels)} tensors {reason}: {listed(labels)}")


def unreadable(contents: Contents, tensors: Iterable[Tensor]) -> tuple[dict[str, list[str]], list[Finding]]:
    """Read every one of ``tensors``: the labels of the damaged ones by reason, and a finding about each type that is
    not read.
    """
    damaged: dict[str, list[str]] = {}
    types: dict[str, list[str]] = {}
    for tensor in tensors:
        try:
            contents.read(tensor)
        except Unusable as error:
            reasons = damaged if error.finding.status == DAMAGE else types
            reasons.setdefault(error.finding.title, []).append(tensor.label)
    return damaged, [_of_type(reason, labels) for reason, labels in types.items()]


def from_bfloat16(pairs: np.ndarray) -> np.ndarray:
    """Pairs of bytes that are the upper halves of float32 values, little-endian, as those values, of the same shape."""
    return (pairs.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _fault(name: str, value: np.ndarray) -> str:
    if not np.isfinite(value).all():
        return "NaN or infinite, or too large for float32"
    if name.endswith(VARIANCE) and value.size and value.min() < 0:
        return "a negative variance"
    return ""


def _remark(name: str, value: np.ndarray) -> str:
    limit = LARGEST_VARIANCE if name.endswith(VARIANCE) else LARGEST
    if value.size and np.abs(value).max() > limit:
        return f"beyond {limit:g}, which weights hardly ever are"
    if name.endswith("kernel") and value.size > 1 and value.min() == value.max():
        return "one value throughout, so that it has learned nothing"
    return ""
