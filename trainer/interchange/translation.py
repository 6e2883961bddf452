"""Translate a file's names and layout into this trainer's: which tensor is which variable of Inception V3."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from trainer.interchange import keras_names, own_names, slim_names, torch_names
from trainer.interchange.contents import Contents, Tensor
from trainer.interchange.meanings import Meaning, NamingScheme
from trainer.interchange.nameless import with_names
from trainer.models.inception_v3_units import HEADS, PUBLISHED, unit_of, window

DENSE = re.compile(r"(?:kernel|weights?)$")
SCHEMES: tuple[NamingScheme, ...] = (own_names, slim_names, keras_names, torch_names)


@dataclasses.dataclass(frozen=True)
class Translation:
    """A file in this trainer's terms.

    ``variables`` and ``shadows`` map the model's variables (``mixed_5b/…/kernel``) to tensors whose shapes are in
    TensorFlow's layout, height×width×in×out and in×out. ``channels_first`` is True when the file has the other layout.
    ``slots`` counts the tensors of each optimizer slot. ``optimizer`` is the optimizer that the names of the slots
    suggest. ``unmatched`` are the tensors whose names mean nothing here. ``doubled`` maps a variable to the
    tensors that all mean it, as stored. ``mixed_layouts`` has the label of a kernel in each layout, where there are
    both.
    """

    scheme: str
    variables: Mapping[str, Tensor]
    shadows: Mapping[str, Tensor]
    slots: Mapping[str, int]
    optimizer: str | None
    counters: tuple[str, ...]
    unmatched: tuple[Tensor, ...]
    channels_first: bool
    doubled: Mapping[str, Sequence[Tensor]]
    mixed_layouts: tuple[str, ...]

    @property
    def own_head(self) -> tuple[Tensor, ...]:
        """Kernels of dense layers that the network does not have, as someone put them on top of it."""
        kernels = {t.label: t for t in self.unmatched if len(t.shape) == 2 and DENSE.search(t.label)}
        return tuple(kernels.values())

    def without(self, tensors: Iterable[Tensor]) -> Translation:
        """The same without ``tensors`` among the ``unmatched``."""
        keys = {tensor.key for tensor in tensors}
        return dataclasses.replace(self, unmatched=tuple(t for t in self.unmatched if t.key not in keys))

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(tensor.label for tensor in self.unmatched)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The variables, or their moving averages when the file has those only."""
        return self.variables or self.shadows

    @property
    def units(self) -> set[str]:
        return {unit_of(name) for name in self.weights} & PUBLISHED.keys()


def translate(contents: Contents) -> Translation:
    """Read the names with the scheme that understands most of them."""
    contents = with_names(contents, "InceptionV3")
    labels = {tensor.label: tensor.shape for tensor in contents.tensors}
    candidates = [(scheme, scheme.meanings(labels)) for scheme in SCHEMES]
    scheme, meanings = max(candidates, key=lambda candidate: _weight(candidate[1]))
    by_role: dict[str, dict[str, Tensor]] = {"variable": {}, "shadow": {}}
    slots: dict[str, int] = {}
    counters, unmatched = [], []
    doubled: dict[str, dict[str, list[Tensor]]] = {"variable": {}, "shadow": {}}
    for tensor in contents.tensors:
        if tensor.label not in meanings:
            unmatched.append(tensor)
            continue
        meaning = meanings[tensor.label]
        if meaning.role == "slot":
            slots[meaning.slot] = slots[meaning.slot] + 1 if meaning.slot in slots else 1
        elif meaning.role == "counter":
            counters.append(tensor.label)
        else:
            there = by_role[meaning.role]
            if meaning.name in there:
                doubled[meaning.role].setdefault(meaning.name, [there[meaning.name]]).append(tensor)
            there[meaning.name] = tensor
    used = "variable" if by_role["variable"] else "shadow"
    first, last = _layouts(by_role[used])
    channels_first = len(first) > len(last)
    if channels_first:
        by_role = {role: {n: _channels_last(t) for n, t in found.items()} for role, found in by_role.items()}
    known = frozenset(slots)
    optimizer = contents.optimizer or (scheme.OPTIMIZERS[known] if known in scheme.OPTIMIZERS else None)
    return Translation(
        scheme=scheme.TITLE,
        variables=by_role["variable"],
        shadows=by_role["shadow"],
        slots=slots,
        optimizer=optimizer,
        counters=tuple(counters),
        unmatched=tuple(unmatched),
        channels_first=channels_first,
        doubled=doubled[used],
        mixed_layouts=(first[0], last[0]) if first and last else (),
    )


def _weight(meanings: Mapping[str, Meaning]) -> int:
    return sum(meaning.role in ("variable", "shadow") for meaning in meanings.values())


def _layouts(variables: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The labels of kernels whose window is in the last two dimensions (out×in×height×width), and in the first two."""
    first, last = [], []
    for name, tensor in variables.items():
        unit = unit_of(name)
        # a 1×1 kernel with few channels, or a window whose size depends on the image size, decides nothing
        if name.endswith("conv/kernel") and len(tensor.shape) == 4 and unit.rpartition("_")[2] not in ("1x1",):
            leading, trailing = tensor.shape[:2] == window(unit), tensor.shape[2:] == window(unit)
            first += [tensor.label] if trailing and not leading else []
            last += [tensor.label] if leading and not trailing else []
    return first, last


def _channels_last(tensor: Tensor) -> Tensor:
    shape = tensor.shape
    if len(shape) == 4:
        shape = (shape[2], shape[3], shape[1], shape[0])
    elif len(shape) == 2:
        shape = shape[::-1]
    return dataclasses.replace(tensor, shape=shape)


def head_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a classifier's kernel as a dense layer's: Slim writes it as a 1×1 convolution."""
    if unit_of(name) in HEADS and len(shape) == 4 and shape[:2] == (1, 1):
        return shape[2:]
    return shape
