"""Our writer of checkpoint files beside TensorFlow's kernel."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoint.bundle_writer import BLOCK_BYTES, BundleWriter
from trainer.checkpoint.tensors import StateFile, StoredValues
from trainer.training.state import Tree, flatten

TYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (3, 0, 2), (7,), (3, 3, 5, 2), (64, 1024))
MANY = 30_000  # fills several blocks of the table


def files(prefix: Path) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in prefix.parent.glob(f"{prefix.name}.*")}


def both(place: Path, values: dict[str, tf.Tensor], text: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What we write, and what the kernel writes."""
    writer = BundleWriter(place / "ours")
    for key, value in values.items():
        writer.add(key, value.numpy())
    writer.add_text("_TEXT", text)
    writer.finish()
    tf.raw_ops.SaveV2(
        prefix=str(place / "kernels"),
        tensor_names=[*values, "_TEXT"],
        shape_and_slices=[""] * (len(values) + 1),
        tensors=[*values.values(), tf.constant(text)],
    )
    return files(place / "ours"), files(place / "kernels")


@pytest.mark.parametrize("dtype", TYPES)
def test_values_of_every_type_and_shape_are_written_as_by_the_kernel(tmp_path: Path, dtype: str) -> None:
    random_values = np.random.default_rng(0)
    values = {
        f"model/{number}": tf.cast(random_values.integers(0, 2, shape), dtype) for number, shape in enumerate(SHAPES)
    }
    ours, kernels = both(tmp_path, values, b"the object graph" * 50)
    assert ours == kernels


def mixed(count: int) -> set[str]:
    draw = random.Random(count)
    parts = ["a", "b", "/", "model", "kernel", "é", "\u00ff", "~", "optimizer/velocity/", "0", "9"]
    return {"".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(count)}


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40, MANY])
@pytest.mark.parametrize("names", [mixed, lambda count: {f"{number:05d}" for number in range(count)}])
def test_the_index_of_any_number_of_names_is_that_of_the_kernel(
    tmp_path: Path, names: Callable[[int], set[str]], count: int
) -> None:
    ours, kernels = both(tmp_path, dict.fromkeys(names(count), tf.constant(1.0)), b"")
    assert len(kernels[".index"]) > 2 * BLOCK_BYTES or count < MANY
    is_same = ours == kernels  # pytest would look for the first difference for minutes
    assert is_same


def test_a_value_that_is_written_is_no_longer_held(tmp_path: Path) -> None:
    """So a step that changes a variable which is written already changes it in place."""
    tree: Tree = {"a": tf.Variable(tf.zeros([8])), "b": tf.Variable(tf.ones([8]))}
    file = StateFile(tree, flatten(tree))
    snapshot = file.snapshot()
    file.write(snapshot, tmp_path)
    assert not snapshot.values
    assert StoredValues(tmp_path)["b"].tolist() == [1] * 8
