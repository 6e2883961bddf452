"""What Inception V3 looks like at its published width, under this trainer's names.

A *unit* is a convolution with its batch norm, ``mixed_5b/branch_1/conv2d_0b_5x5``. Filter counts are those of
TF-Slim research/slim/nets/inception_v3.py; a test holds them equal to what the builder makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

AUX = "aux_logits"
AUX_KERNEL_UNIT = "aux_logits/conv2d_2a_5x5"  # the one unit whose window follows the image size
HEADS = ("logits/logits", "aux_logits/logits")
NORM_LEAVES = ("beta", "gamma", "moving_mean", "moving_variance")


def _stem() -> Iterator[tuple[str, int]]:
    yield from (("conv2d_1a_3x3", 32), ("conv2d_2a_3x3", 32), ("conv2d_2b_3x3", 64))
    yield from (("conv2d_3b_1x1", 80), ("conv2d_4a_3x3", 192))


def _inception_a(pool_filters: int) -> Iterator[tuple[str, int]]:
    yield "branch_0/conv2d_0a_1x1", 64
    yield from (("branch_1/conv2d_0a_1x1", 48), ("branch_1/conv2d_0b_5x5", 64))
    yield from (("branch_2/conv2d_0a_1x1", 64), ("branch_2/conv2d_0b_3x3", 96), ("branch_2/conv2d_0c_3x3", 96))
    yield "branch_3/conv2d_0b_1x1", pool_filters


def _reduction_a() -> Iterator[tuple[str, int]]:
    yield "branch_0/conv2d_1a_3x3", 384
    yield from (("branch_1/conv2d_0a_1x1", 64), ("branch_1/conv2d_0b_3x3", 96), ("branch_1/conv2d_1a_3x3", 96))


def _inception_b(filters: int) -> Iterator[tuple[str, int]]:
    yield "branch_0/conv2d_0a_1x1", 192
    yield from (("branch_1/conv2d_0a_1x1", filters), ("branch_1/conv2d_0b_1x7", filters))
    yield "branch_1/conv2d_0c_7x1", 192
    yield from (("branch_2/conv2d_0a_1x1", filters), ("branch_2/conv2d_0b_7x1", filters))
    yield from (("branch_2/conv2d_0c_1x7", filters), ("branch_2/conv2d_0d_7x1", filters))
    yield "branch_2/conv2d_0e_1x7", 192
    yield "branch_3/conv2d_0b_1x1", 192


def _reduction_b() -> Iterator[tuple[str, int]]:
    yield from (("branch_0/conv2d_0a_1x1", 192), ("branch_0/conv2d_1a_3x3", 320))
    yield from (("branch_1/conv2d_0a_1x1", 192), ("branch_1/conv2d_0b_1x7", 192))
    yield from (("branch_1/conv2d_0c_7x1", 192), ("branch_1/conv2d_1a_3x3", 192))


def _inception_c() -> Iterator[tuple[str, int]]:
    yield "branch_0/conv2d_0a_1x1", 320
    yield from (("branch_1/conv2d_0a_1x1", 384), ("branch_1/conv2d_0b_1x3", 384), ("branch_1/conv2d_0c_3x1", 384))
    yield from (("branch_2/conv2d_0a_1x1", 448), ("branch_2/conv2d_0b_3x3", 384))
    yield from (("branch_2/conv2d_0c_1x3", 384), ("branch_2/conv2d_0d_3x1", 384))
    yield "branch_3/conv2d_0b_1x1", 192


def _body() -> Iterator[tuple[str, int]]:
    yield from _stem()
    blocks = {
        **{f"mixed_5{letter}": _inception_a(filters) for letter, filters in (("b", 32), ("c", 64), ("d", 64))},
        "mixed_6a": _reduction_a(),
        **{f"mixed_6{letter}": _inception_b(f) for letter, f in (("b", 128), ("c", 160), ("d", 160), ("e", 192))},
        "mixed_7a": _reduction_b(),
        **{f"mixed_7{letter}": _inception_c() for letter in "bc"},
    }
    for block, units in blocks.items():
        yield from ((f"{block}/{unit}", filters) for unit, filters in units)


# unit -> filters at width 1, in the order in which every implementation creates them, without the auxiliary head
BODY = dict(_body())
PUBLISHED = {**BODY, "aux_logits/conv2d_1b_1x1": 128, AUX_KERNEL_UNIT: 768}


def window(unit: str) -> tuple[int, int]:
    """Height and width of a unit's kernel, which its name states (not so for ``AUX_KERNEL_UNIT``)."""
    match = re.search(r"_(\d)x(\d)$", unit)
    assert match is not None
    return int(match.group(1)), int(match.group(2))


def unit_of(name: str) -> str:
    """The unit or head of a variable: ``mixed_5b/…/conv2d_0b_5x5`` of ``mixed_5b/…/conv2d_0b_5x5/conv/kernel``."""
    head = name.rpartition("/")[0]
    return head if head in HEADS else head.rpartition("/")[0]


def is_variable(name: str) -> bool:
    """Whether ``name`` is a variable that some Inception V3 has: with biases, with gamma, with either head."""
    head, _, leaf = name.rpartition("/")
    if head in HEADS:
        return leaf in ("kernel", "bias")
    unit, _, layer = head.rpartition("/")
    leaves = {"conv": ("kernel", "bias"), "batch_norm": NORM_LEAVES}
    return unit in PUBLISHED and layer in leaves and leaf in leaves[layer]
