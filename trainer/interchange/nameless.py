"""Keras files that do not name their layers: ``.weights.h5`` and ``.keras`` of Keras 2.13 to 2.15 and of early Keras 3.

They store a layer under its class and a running number, in the order of ``model.layers``: that of the data flow, which
is not the order in which the layers were made and numbered. ``keras.applications`` itself says which is which.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from trainer.config.schema.networks import SMALLEST_IMAGE, SMALLEST_IMAGES
from trainer.interchange.contents import Contents, Tensor
from trainer.interchange.hdf5_files import CONTAINERS, leaves_of
from trainer.models.keras_application import BUILDERS

KEY = re.compile(r"(?P<scope>(?:.*/)?)(?P<kind>[a-z][a-z0-9_]*?)(?:_(?P<number>\d+))?/vars/(?P<variable>\d+)")
DENSE = "dense"


def with_names(contents: Contents, application: str) -> Contents:
    """``contents`` with the layers' names of ``application`` in the labels of tensors that have no better one.

    What was put on top of the network keeps its label. So do dense layers if there are more or fewer than the network
    has: they are somebody's own head.
    """
    keys = {tensor.key: match for tensor in contents.tensors if (match := _nameless(tensor))}
    if not keys:
        return contents
    order = _order(application)
    shares: dict[str, set[int]] = {}  # the numbers of the variables of a layer
    dense: dict[str, set[str]] = {}  # the dense layers of a model
    for key, match in keys.items():
        shares.setdefault(key.rpartition("/")[0], set()).add(int(match["variable"]))
        if match["kind"] == DENSE:
            dense.setdefault(match["scope"], set()).add(match["number"] or "0")

    def named(tensor: Tensor) -> Tensor:
        if tensor.key not in keys:
            return tensor
        match = keys[tensor.key]
        kind, number, scope = match["kind"], int(match["number"] or 0), match["scope"]
        outer = [name for name in scope.split("/") if name and name not in CONTAINERS]
        stack = outer[-1] if outer and outer[-1] in order else ""
        layers = order[stack][kind] if kind in order[stack] else ()
        if number >= len(layers) or (kind == DENSE and len(dense[scope]) != len(layers)):
            return tensor
        leaves, variable = leaves_of(kind, len(shares[tensor.key.rpartition("/")[0]])), int(match["variable"])
        leaf = leaves[variable] if variable < len(leaves) else str(variable)
        return dataclasses.replace(tensor, label="/".join([*outer, layers[number], leaf]))

    return dataclasses.replace(contents, tensors=tuple(map(named, contents.tensors)))


def _nameless(tensor: Tensor) -> re.Match[str] | None:
    return KEY.fullmatch(tensor.key) if tensor.label == tensor.key else None


@functools.cache
def _order(application: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The names of the layers of each class, in the order of ``model.layers``; classes as files spell them. Of the
    network itself under the empty name, and of the stacks in it (``sequential_1``).
    """
    size = SMALLEST_IMAGES.get(application, SMALLEST_IMAGE)
    with tf.Graph().as_default():
        model = BUILDERS[application](weights=None, input_shape=(size, size, 3), classes=2)
    stacks = [layer for layer in model.layers if isinstance(layer, keras.Sequential)]
    names = [f"sequential_{number}" if number else "sequential" for number in range(len(stacks))]
    return {"": _by_class(model), **{name: _by_class(stack) for name, stack in zip(names, stacks, strict=True)}}


def _by_class(model: keras.Model) -> dict[str, list[str]]:
    order: dict[str, list[str]] = {}
    for layer in model.layers:
        order.setdefault(_spelled(type(layer).__name__), []).append(layer.name)
    return order


def _spelled(kind: str) -> str:
    """``batch_normalization`` for ``BatchNormalization``, as keras/src/utils/naming.py makes it."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
