"""This trainer's own files of networks other than Inception V3, checkpoints and exports: names of the state tree."""

from __future__ import annotations

from trainer.checkpoint.tensors import ATTRIBUTE
from trainer.interchange import own_names
from trainer.interchange.contents import Contents, Tensor
from trainer.interchange.keras_layers import Wanted
from trainer.interchange.translation import Translation

COUNTERS = ("progress", "divergence")


def translate_own(contents: Contents, wanted: Wanted) -> Translation:
    """``contents`` in this trainer's terms, as ``trainer.interchange.translation.translate`` does for Inception V3."""
    names = wanted.variables
    variables: dict[str, Tensor] = {}
    shadows: dict[str, Tensor] = {}
    slots: dict[str, int] = {}
    counters, unmatched = [], []
    for tensor in contents.tensors:
        label = tensor.label.removesuffix(ATTRIBUTE)
        section, _, name = label.partition("/")
        if label in names:
            variables[label] = tensor
        elif section == "model" and name in names:
            variables[name] = tensor
        elif section == "ema" and name in names:
            shadows[name] = tensor
        elif section == "optimizer" and name.partition("/")[2] in names:
            slot = name.partition("/")[0]
            slots[slot] = slots[slot] + 1 if slot in slots else 1
        elif section in COUNTERS:
            counters.append(label)
        else:
            unmatched.append(tensor)
    known = frozenset(slots)
    return Translation(
        scheme=own_names.TITLE,
        variables=variables,
        shadows=shadows,
        slots=slots,
        optimizer=contents.optimizer or own_names.OPTIMIZERS.get(known),
        counters=tuple(counters),
        unmatched=tuple(unmatched),
        channels_first=False,
        doubled={},
        mixed_layouts=(),
    )
