"""torchvision and timm: ``Mixed_7c.branch3x3dbl_3b.conv.weight``, channels first.

Names: pytorch/vision torchvision/models/inception.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer.interchange.meanings import Meaning
from trainer.models.inception_v3_units import AUX_KERNEL_UNIT, is_variable

TITLE = "torchvision or timm"
OPTIMIZERS: Mapping[frozenset[str], str] = {}
LEAVES = {
    "conv.weight": "conv/kernel",
    "conv.bias": "conv/bias",
    "bn.weight": "batch_norm/gamma",
    "bn.bias": "batch_norm/beta",
    "bn.running_mean": "batch_norm/moving_mean",
    "bn.running_var": "batch_norm/moving_variance",
}
# torch.compile, FullyShardedDataParallel, checkpoint_wrapper, DataParallel: around the network or around layers of it
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"})
AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|averaged?)(?:$|[._])", re.IGNORECASE)  # state_dict_ema, model_ema.module
HEADS = {"fc": "logits/logits", "AuxLogits.fc": "aux_logits/logits"}
AUX = {"AuxLogits.conv0": "aux_logits/conv2d_1b_1x1", "AuxLogits.conv1": AUX_KERNEL_UNIT}
_INCEPTION_A = {
    "branch1x1": "branch_0/conv2d_0a_1x1",
    "branch5x5_1": "branch_1/conv2d_0a_1x1",
    "branch5x5_2": "branch_1/conv2d_0b_5x5",
    "branch3x3dbl_1": "branch_2/conv2d_0a_1x1",
    "branch3x3dbl_2": "branch_2/conv2d_0b_3x3",
    "branch3x3dbl_3": "branch_2/conv2d_0c_3x3",
    "branch_pool": "branch_3/conv2d_0b_1x1",
}
_INCEPTION_B = {
    "branch1x1": "branch_0/conv2d_0a_1x1",
    "branch7x7_1": "branch_1/conv2d_0a_1x1",
    "branch7x7_2": "branch_1/conv2d_0b_1x7",
    "branch7x7_3": "branch_1/conv2d_0c_7x1",
    "branch7x7dbl_1": "branch_2/conv2d_0a_1x1",
    "branch7x7dbl_2": "branch_2/conv2d_0b_7x1",
    "branch7x7dbl_3": "branch_2/conv2d_0c_1x7",
    "branch7x7dbl_4": "branch_2/conv2d_0d_7x1",
    "branch7x7dbl_5": "branch_2/conv2d_0e_1x7",
    "branch_pool": "branch_3/conv2d_0b_1x1",
}
_INCEPTION_C = {
    "branch1x1": "branch_0/conv2d_0a_1x1",
    "branch3x3_1": "branch_1/conv2d_0a_1x1",
    "branch3x3_2a": "branch_1/conv2d_0b_1x3",
    "branch3x3_2b": "branch_1/conv2d_0c_3x1",
    "branch3x3dbl_1": "branch_2/conv2d_0a_1x1",
    "branch3x3dbl_2": "branch_2/conv2d_0b_3x3",
    "branch3x3dbl_3a": "branch_2/conv2d_0c_1x3",
    "branch3x3dbl_3b": "branch_2/conv2d_0d_3x1",
    "branch_pool": "branch_3/conv2d_0b_1x1",
}
BRANCHES = {
    **{f"Mixed_5{letter}": _INCEPTION_A for letter in "bcd"},
    "Mixed_6a": {
        "branch3x3": "branch_0/conv2d_1a_3x3",
        "branch3x3dbl_1": "branch_1/conv2d_0a_1x1",
        "branch3x3dbl_2": "branch_1/conv2d_0b_3x3",
        "branch3x3dbl_3": "branch_1/conv2d_1a_3x3",
    },
    **{f"Mixed_6{letter}": _INCEPTION_B for letter in "bcde"},
    "Mixed_7a": {
        "branch3x3_1": "branch_0/conv2d_0a_1x1",
        "branch3x3_2": "branch_0/conv2d_1a_3x3",
        "branch7x7x3_1": "branch_1/conv2d_0a_1x1",
        "branch7x7x3_2": "branch_1/conv2d_0b_1x7",
        "branch7x7x3_3": "branch_1/conv2d_0c_7x1",
        "branch7x7x3_4": "branch_1/conv2d_1a_3x3",
    },
    **{f"Mixed_7{letter}": _INCEPTION_C for letter in "bc"},
}


def meanings(labels: Mapping[str, tuple[int, ...]]) -> dict[str, Meaning]:
    """Names below the prefix that most of the network's tensors have: programs put ``model.``, ``state_dict.`` and
    others in front. A prefix that speaks of an average holds moving averages. Wrappers are no part of a name, wherever
    they are in it.
    """
    found: dict[str, Meaning] = {}
    prefixes: dict[str, dict[str, Meaning]] = {}
    for label in labels:
        if label.endswith(".num_batches_tracked") or label.rpartition(".")[2] == "n_averaged":
            found[label] = Meaning("counter", label)
            continue
        prefix, name = _split(label)
        if name:
            average = AVERAGE.search(prefix) is not None
            prefixes.setdefault(prefix, {})[label] = Meaning("shadow" if average else "variable", name)
    for role in ("variable", "shadow"):
        groups = [group for group in prefixes.values() if next(iter(group.values())).role == role]
        largest = max(map(len, groups), default=0)
        for group in groups:
            if len(group) == largest:  # two of one size are two networks, and what reads this refuses that
                found |= group
    if any(label not in found and label.endswith(".weight") and len(shape) > 1 for label, shape in labels.items()):
        # With layers of another program below it, fc is not the network's classifier. One dimension is no layer: a loss
        # with a weight for each class is stored as ``criterion.weight``.
        found = {label: meaning for label, meaning in found.items() if not meaning.name.startswith(f"{HEADS['fc']}/")}
    return found


def _split(label: str) -> tuple[str, str]:
    """The prefix of a label, and our variable of what follows it; empty when no end of the label is a name."""
    parts = [part for part in label.split(".") if part not in WRAPPERS]
    for start in range(len(parts)):
        name = _variable(".".join(parts[start:]))
        if name is not None:
            return ".".join(parts[:start]), name
    return "", ""


def _variable(path: str) -> str | None:
    head, _, leaf = path.rpartition(".")
    if head in HEADS and leaf in ("weight", "bias"):
        return f"{HEADS[head]}/{'kernel' if leaf == 'weight' else 'bias'}"
    for suffix, ours in LEAVES.items():
        unit = _unit(path.removesuffix(f".{suffix}"))
        if path.endswith(f".{suffix}") and unit is not None and is_variable(f"{unit}/{ours}"):
            return f"{unit}/{ours}"
    return None


def _unit(path: str) -> str | None:
    if path in AUX:
        return AUX[path]
    block, _, branch = path.partition(".")
    if block in BRANCHES and branch in BRANCHES[block]:
        return f"{block.lower()}/{BRANCHES[block][branch]}"
    return path.lower() if not branch else None
