"""What a checkpoint file holds, whatever its format."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# the facts in which our own files record their origin, see trainer/interchange/origin.py
OURS = "trainer/"
ORIGIN_CONFIG = f"{OURS}config.yaml"
ORIGIN = f"{OURS}origin.json"
STATE = f"{OURS}manifest.json"  # in files of format=state, see trainer/interchange/state_files.py
NETWORKS = "networks"  # a fact: what the models in a Keras file are called


class Kind(enum.Enum):
    """The formats that the trainer recognises by their content."""

    OWN = "checkpoint of this trainer"
    BUNDLE = "TensorFlow checkpoint"
    V1 = "TensorFlow V1 checkpoint, one file written by tf.compat.v1.train.Saver"
    WEIGHTS_H5 = "Keras 3 weights (.weights.h5)"
    KERAS = "Keras 3 model (.keras)"
    LEGACY_H5 = "legacy Keras model or weights (.h5)"
    SAFETENSORS = "safetensors"
    STATE = "the whole state of a run of this trainer (format=state)"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    ``key`` is its name in the file. ``label`` is its most informative name: the variable's full name where keys are
    positional, otherwise the key itself.
    """

    key: str
    label: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Contents:
    """The tensors of a file. Values stay in the file until ``read(tensor)`` returns one as a NumPy array.

    ``name_based`` is True for files of ``tf.compat.v1.train.Saver``. ``facts`` holds what else the file says about
    itself. ``optimizer`` is the class of the optimizer whose state is stored, where the file names it outside the
    tensors. ``read`` raises ``Unusable`` for a damaged tensor.
    """

    kind: Kind
    path: Path
    tensors: tuple[Tensor, ...]
    read: Callable[[Tensor], Any]
    name_based: bool = False
    optimizer: str | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def description(self) -> str:
        if self.kind is not Kind.BUNDLE:
            return self.kind.value
        return f"{self.kind.value}, " + (
            "name-based (tf.compat.v1.train.Saver)" if self.name_based else "object-based (tf.train.Checkpoint)"
        )

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.tensors)
