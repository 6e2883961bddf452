"""Inception V3 as TF-Slim and torchvision define it: outputs from the tensors of their files, without the package.

Written from tensorflow/models research/slim/nets/inception_v3.py and pytorch/vision torchvision/models/inception.py.
Padding and pooling are done by hand, because they are where the two differ.

A branch is a chain of steps: convolutions by their names, ``average`` and ``max`` pools. ``a|b`` runs two on the same
input, ``!`` means without padding, ``/2`` without padding and every other position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from foreign_files import Arrays

Blocks = Mapping[str, Sequence[str]]
EPSILON = 0.001  # both: inception_utils.py batch_norm_epsilon, BasicConv2d

_SLIM_5 = ("Conv2d_0a_1x1", "Conv2d_0a_1x1 Conv2d_0b_5x5", "Conv2d_0a_1x1 Conv2d_0b_3x3 Conv2d_0c_3x3")
_SLIM_6 = (
    "Conv2d_0a_1x1",
    "Conv2d_0a_1x1 Conv2d_0b_1x7 Conv2d_0c_7x1",
    "Conv2d_0a_1x1 Conv2d_0b_7x1 Conv2d_0c_1x7 Conv2d_0d_7x1 Conv2d_0e_1x7",
    "average Conv2d_0b_1x1",
)
SLIM: Blocks = {
    "Mixed_5b": (*_SLIM_5, "average Conv2d_0b_1x1"),
    "Mixed_5c": (_SLIM_5[0], "Conv2d_0b_1x1 Conv_1_0c_5x5", _SLIM_5[2], "average Conv2d_0b_1x1"),
    "Mixed_5d": (*_SLIM_5, "average Conv2d_0b_1x1"),
    "Mixed_6a": ("Conv2d_1a_1x1/2", "Conv2d_0a_1x1 Conv2d_0b_3x3 Conv2d_1a_1x1/2", "max"),
    **{f"Mixed_6{letter}": _SLIM_6 for letter in "bcde"},
    "Mixed_7a": (
        "Conv2d_0a_1x1 Conv2d_1a_3x3/2",
        "Conv2d_0a_1x1 Conv2d_0b_1x7 Conv2d_0c_7x1 Conv2d_1a_3x3/2",
        "max",
    ),
    **{
        f"Mixed_7{letter}": (
            "Conv2d_0a_1x1",
            f"Conv2d_0a_1x1 Conv2d_0b_1x3|{tall}",
            "Conv2d_0a_1x1 Conv2d_0b_3x3 Conv2d_0c_1x3|Conv2d_0d_3x1",
            "average Conv2d_0b_1x1",
        )
        for letter, tall in (("b", "Conv2d_0b_3x1"), ("c", "Conv2d_0c_3x1"))
    },
}
_TORCH_A = (
    "branch1x1",
    "branch5x5_1 branch5x5_2",
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "average branch_pool",
)
_TORCH_C = (
    "branch1x1",
    "branch7x7_1 branch7x7_2 branch7x7_3",
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5",
    "average branch_pool",
)
_TORCH_E = (
    "branch1x1",
    "branch3x3_1 branch3x3_2a|branch3x3_2b",
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a|branch3x3dbl_3b",
    "average branch_pool",
)
TORCH: Blocks = {
    **{f"Mixed_5{letter}": _TORCH_A for letter in "bcd"},
    "Mixed_6a": ("branch3x3/2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3/2", "max"),
    **{f"Mixed_6{letter}": _TORCH_C for letter in "bcde"},
    "Mixed_7a": ("branch3x3_1 branch3x3_2/2", "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4/2", "max"),
    "Mixed_7b": _TORCH_E,
    "Mixed_7c": _TORCH_E,
}
STEM = "Conv2d_1a_3x3/2 Conv2d_2a_3x3! Conv2d_2b_3x3 max Conv2d_3b_1x1 Conv2d_4a_3x3! max"


@dataclasses.dataclass(frozen=True)
class Definition:
    """``place`` joins the names of a block, the number of a branch in it, and a convolution."""

    blocks: Blocks
    place: Callable[[str, int, str], str]
    convolution: Callable[[tf.Tensor, str, int, bool], tf.Tensor]  # its name, stride, and whether it is padded
    average: Callable[[tf.Tensor], tf.Tensor]

    def run(self, x: tf.Tensor, until: str) -> tf.Tensor:
        """The output of block ``until``."""
        x = self._chain(x, STEM, lambda name: name)
        for block, branches in self.blocks.items():
            x = tf.concat([self._branch(x, block, number, chain) for number, chain in enumerate(branches)], -1)
            if block == until:
                return x
        raise AssertionError(until)

    def _branch(self, x: tf.Tensor, block: str, number: int, chain: str) -> tf.Tensor:
        return self._chain(x, chain, lambda name: self.place(block, number, name))

    def _chain(self, x: tf.Tensor, chain: str, full: Callable[[str], str]) -> tf.Tensor:
        for step in chain.split():
            x = tf.concat([self._step(x, part, full) for part in step.split("|")], -1)
        return x

    def _step(self, x: tf.Tensor, step: str, full: Callable[[str], str]) -> tf.Tensor:
        if step == "average":
            return self.average(x)
        if step == "max":
            return tf.nn.max_pool2d(x, 3, 2, "VALID")
        name = step.removesuffix("!").removesuffix("/2")
        return self.convolution(x, full(name), 2 if step.endswith("/2") else 1, step == name)


def slim_outputs(file: Arrays, images: np.ndarray) -> dict[str, np.ndarray]:
    """``logits`` and ``aux_logits`` of the variables in a TF-Slim checkpoint, in inference."""

    def convolution(x: tf.Tensor, name: str, stride: int, padded: bool) -> tf.Tensor:
        kernel, norm = file[f"InceptionV3/{name}/weights"], f"InceptionV3/{name}/BatchNorm"
        gamma = file[f"{norm}/gamma"] if f"{norm}/gamma" in file else 1.0
        x = _convolution(x, kernel, stride, padded)
        return _normalized(x, file[f"{norm}/moving_mean"], file[f"{norm}/moving_variance"], gamma, file[f"{norm}/beta"])

    def average(x: tf.Tensor) -> tf.Tensor:
        return _window_sums(x) / _window_sums(tf.ones_like(x))  # SAME: the mean of what lies within the image

    def classifier(x: tf.Tensor, name: str) -> np.ndarray:
        kernel, bias = file[f"InceptionV3/{name}/weights"], file[f"InceptionV3/{name}/biases"]
        return (tf.reduce_mean(x, (1, 2)) @ kernel[0, 0] + bias).numpy()

    network = Definition(SLIM, lambda block, number, name: f"{block}/Branch_{number}/{name}", convolution, average)
    aux = tf.nn.avg_pool2d(network.run(images, "Mixed_6e"), 5, 3, "VALID")
    aux = convolution(aux, "AuxLogits/Conv2d_1b_1x1", 1, False)
    aux = convolution(aux, f"AuxLogits/Conv2d_2a_{aux.shape[1]}x{aux.shape[2]}", 1, False)
    return {
        "logits": classifier(network.run(images, "Mixed_7c"), "Logits/Conv2d_1c_1x1"),
        "aux_logits": classifier(aux, "AuxLogits/Conv2d_2b_1x1"),
    }


def torch_outputs(file: Arrays, images: np.ndarray) -> dict[str, np.ndarray]:
    """``logits`` and ``aux_logits`` of a state dict of torchvision's network, in evaluation.

    ``images`` are as everywhere here, channels last and as the first convolution takes them.
    """

    def convolution(x: tf.Tensor, name: str, stride: int, padded: bool) -> tf.Tensor:
        kernel = file[f"{name}.conv.weight"].transpose(2, 3, 1, 0)
        norm = [file[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return _normalized(_convolution(x, kernel, stride, padded), *norm)

    def average(x: tf.Tensor) -> tf.Tensor:
        return _window_sums(x) / 9.0  # F.avg_pool2d: count_include_pad=True

    def classifier(x: tf.Tensor, name: str) -> np.ndarray:
        return (tf.reduce_mean(x, (1, 2)) @ file[f"{name}.weight"].T + file[f"{name}.bias"]).numpy()

    network = Definition(TORCH, lambda block, number, name: f"{block}.{name}", convolution, average)
    aux = tf.nn.avg_pool2d(network.run(images, "Mixed_6e"), 5, 3, "VALID")
    aux = convolution(convolution(aux, "AuxLogits.conv0", 1, False), "AuxLogits.conv1", 1, False)
    return {"logits": classifier(network.run(images, "Mixed_7c"), "fc"), "aux_logits": classifier(aux, "AuxLogits.fc")}


def _convolution(x: tf.Tensor, kernel: np.ndarray, stride: int, padded: bool) -> tf.Tensor:
    rows, columns = (size // 2 if padded else 0 for size in kernel.shape[:2])
    return tf.nn.conv2d(tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]]), kernel, stride, "VALID")


def _normalized(x: tf.Tensor, mean: Any, variance: Any, gamma: Any, beta: Any) -> tf.Tensor:
    return tf.nn.relu((x - mean) / np.sqrt(variance + EPSILON) * gamma + beta)


def _window_sums(x: tf.Tensor) -> tf.Tensor:
    """The sum over 3×3 around every position, with zeros around the image."""
    height, width = x.shape[1:3]
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return tf.add_n([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])
