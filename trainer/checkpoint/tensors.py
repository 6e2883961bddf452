"""The tensors of a checkpoint: a tree of named variables in TensorFlow's own format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.checkpoint.layout import PREFIX
from trainer.errors import RestoreRefused

ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"  # what tf.train.Checkpoint appends to a variable's path
SHOWN = 8


class StateFile:
    """Writes and restores one tree. The tree's variables stay the same for the life of the object."""

    def __init__(self, tree: Mapping[str, Any], flat: Mapping[str, tf.Variable]) -> None:
        self._flat = flat
        self._checkpoint = tf.train.Checkpoint(**tree)

    def write(self, directory: Path) -> None:
        """Write ``state.index`` and ``state.data-00000-of-00001``; nothing is synced."""
        self._checkpoint.write(str(directory / PREFIX))

    def non_finite(self) -> list[str]:
        """Names of variables that hold a NaN or an infinity."""
        return [
            name
            for name, variable in self._flat.items()
            if variable.dtype.is_floating and not np.isfinite(variable.numpy()).all()
        ]

    def restore(self, directory: Path) -> None:
        """Assign every variable of the tree from the checkpoint.

        Raises:
            RestoreRefused: names, shapes or types differ in either direction; nothing was assigned.
        """
        stored = stored_tensors(directory)
        differences = []
        for name in [*self._flat, *(name for name in stored if name not in self._flat)]:
            wanted = _describe(self._flat[name]) if name in self._flat else "absent"
            found = stored[name] if name in stored else "absent"
            if wanted != found:
                differences.append(f"  {name}: checkpoint {found}, program {wanted}")
        if differences:
            more = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise RestoreRefused(
                f"{directory} does not hold the state that its configuration builds\n"
                + "\n".join(differences[:SHOWN])
                + more
            )
        status = self._checkpoint.read(str(directory / PREFIX))
        status.assert_consumed()
        status.assert_existing_objects_matched()


def _describe(variable: tf.Variable) -> str:
    return f"{variable.dtype.name}{list(variable.shape)}"


def stored_tensors(directory: Path) -> dict[str, str]:
    """Name in the state tree → type and shape, as ``float32[3, 3, 3, 32]``, of every tensor in a checkpoint."""
    reader = tf.train.load_checkpoint(str(directory / PREFIX))
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    return {
        key.removesuffix(ATTRIBUTE): f"{types[key].name}{list(shapes[key])}"
        for key in sorted(shapes)
        if key.endswith(ATTRIBUTE)
    }


def read_tensor(directory: Path, name: str) -> Any:
    """The value of one tensor as a NumPy array (a scalar for rank 0)."""
    return tf.train.load_checkpoint(str(directory / PREFIX)).get_tensor(name + ATTRIBUTE)
