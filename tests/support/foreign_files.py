"""Inception V3 as other programs write it, at any width: names, layouts and the files themselves.

The names are written out from the published sources and not taken from the package, which has to understand them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]

SLIM_UNITS = {  # where TF-Slim's names are not ours with capitals
    "mixed_5c/branch_1/conv2d_0a_1x1": "Mixed_5c/Branch_1/Conv2d_0b_1x1",
    "mixed_5c/branch_1/conv2d_0b_5x5": "Mixed_5c/Branch_1/Conv_1_0c_5x5",
    "mixed_6a/branch_0/conv2d_1a_3x3": "Mixed_6a/Branch_0/Conv2d_1a_1x1",
    "mixed_6a/branch_1/conv2d_1a_3x3": "Mixed_6a/Branch_1/Conv2d_1a_1x1",
    "mixed_7b/branch_1/conv2d_0c_3x1": "Mixed_7b/Branch_1/Conv2d_0b_3x1",
    "aux_logits/conv2d_1b_1x1": "AuxLogits/Conv2d_1b_1x1",
    "aux_logits/conv2d_2a_5x5": "AuxLogits/Conv2d_2a_1x1",  # 5x5 for images of 299
    "aux_logits/logits": "AuxLogits/Conv2d_2b_1x1",
    "logits/logits": "Logits/Conv2d_1c_1x1",
}
TORCH_BRANCHES = {
    "5": (
        "branch1x1",
        "branch5x5_1",
        "branch5x5_2",
        "branch3x3dbl_1",
        "branch3x3dbl_2",
        "branch3x3dbl_3",
        "branch_pool",
    ),
    "6a": ("branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    "6": ("branch1x1", *(f"branch7x7_{n}" for n in "123"), *(f"branch7x7dbl_{n}" for n in "12345"), "branch_pool"),
    "7a": ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{n}" for n in "1234")),
    "7": (
        *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
        *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
    ),
}
TORCH_LEAVES = {
    "conv/kernel": "conv.weight",
    "batch_norm/gamma": "bn.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}


def random_arrays(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Normal values; those of variances are not negative."""
    generator = np.random.default_rng(7)
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: np.abs(value) if name.endswith("variance") else value for name, value in arrays.items()}


def slim(arrays: Arrays) -> Arrays:
    """Our variables under TF-Slim's names and with its 1×1 convolutions for classifiers."""
    found = {}
    for name, value in arrays.items():
        head, _, leaf = name.rpartition("/")
        layer = head if head.endswith("/logits") else head.rpartition("/")[0]
        unit = SLIM_UNITS[layer] if layer in SLIM_UNITS else re.sub(r"(^|/)([a-z])", lambda m: m[0].upper(), layer)
        leaf = {"kernel": "weights", "bias": "biases"}.get(leaf, f"BatchNorm/{leaf}")
        found[f"InceptionV3/{unit}/{leaf}"] = value[None, None] if value.ndim == 2 else value
    return found


def torch(arrays: Arrays) -> Arrays:
    """Our variables under torchvision's names, channels first; ``arrays`` must be in the network's order."""
    numbers: dict[str, int] = {}
    found = {}
    units: dict[str, str] = {}
    for name, value in arrays.items():
        head, _, leaf = name.rpartition("/")
        if head.endswith("logits/logits"):
            prefix = "AuxLogits.fc" if head.startswith("aux") else "fc"
            found[f"{prefix}.{'weight' if leaf == 'kernel' else 'bias'}"] = value.T
            continue
        unit, _, layer = head.rpartition("/")
        if unit not in units:
            block = unit.split("/")[0]
            numbers[block] = numbers[block] + 1 if block in numbers else 0
            units[unit] = _torch_unit(unit, block, numbers[block])
        label = f"{units[unit]}.{TORCH_LEAVES[f'{layer}/{leaf}']}"
        found[label] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return found


def _torch_unit(unit: str, block: str, number: int) -> str:
    if block == "aux_logits":
        return f"AuxLogits.conv{number}"
    if not block.startswith("mixed"):
        return unit.capitalize()
    grid = block.removeprefix("mixed_")
    return f"{block.capitalize()}.{TORCH_BRANCHES[grid if grid in TORCH_BRANCHES else grid[0]][number]}"


def save_with_saver(prefix: Path, arrays: Arrays, devices: int = 1, **options: Any) -> Path:
    """Write ``arrays`` with ``tf.compat.v1.train.Saver``, spread over ``devices`` for a file of several shards."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if devices == 1:  # eagerly, which is ten times faster than a session
        variables = {name: tf.Variable(value) for name, value in arrays.items()}
        tf.compat.v1.train.Saver(variables, **options).save(None, str(prefix), write_meta_graph=False)
        return prefix
    with tf.Graph().as_default():
        for number, (name, value) in enumerate(arrays.items()):
            with tf.device(f"/cpu:{number % devices}"):
                tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
        config = tf.compat.v1.ConfigProto(device_count={"CPU": devices})
        with tf.compat.v1.Session(config=config) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver(sharded=True, **options).save(session, str(prefix), write_meta_graph=False)
    return prefix


def save_safetensors(path: Path, arrays: Arrays) -> Path:
    header, start = {}, 0
    for name, value in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [start, start + value.nbytes]}
        start += value.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    values = b"".join(np.ascontiguousarray(value).tobytes() for value in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)
    return path


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
