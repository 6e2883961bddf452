"""A network's definition as text, where it has one: layers of Keras and of this program, and how they are joined."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import keras

LAYERS = ("keras.src.", "trainer.models.")  # modules, whose versions or code are known
# What objects of these are made of: themselves, TensorFlow's, and Python's. ``inspect`` has the signature of ``call``.
PARTS = ("keras", "trainer", "tensorflow", "builtins", "inspect")


def definition(model: keras.Model) -> str | None:
    """What decides the graph that ``model`` is traced to, apart from the code of Keras and of this program; None where
    something of other origin has a part in it: a layer, a function, or an object that a layer holds.

    How weights are drawn is left out: a network that is restored draws none. So are the numbers that Keras gives to
    operations, which count what else the process has built.
    """
    for operation in model.operations:
        if not type(operation).__module__.startswith(LAYERS):
            return None
        if any(_origin(part).partition(".")[0] not in PARTS for part in vars(operation).values()):
            return None
    try:
        return json.dumps(_described(model.get_config(), _numbered(model)), sort_keys=True)
    except (NotImplementedError, TypeError, ValueError):  # an operation that cannot be described
        return None


def _origin(part: Any) -> str:
    """The module that a function or class, or the class of any other object, comes from."""
    own = isinstance(part, FunctionType | BuiltinFunctionType | MethodType | type)
    return str((part if own else type(part)).__module__)


def _numbered(model: keras.Model) -> dict[str, str]:
    """Names of the operations without variables by those that they have in this process."""
    operations = [operation for operation in model.operations if not isinstance(operation, keras.Layer)]
    return {operation.name: f"operation {number}" for number, operation in enumerate(operations)}


def _described(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, dict):
        kept = {name: _described(value, names) for name, value in config.items() if not name.endswith("_initializer")}
        if isinstance(kept.get("name"), str):
            kept["name"] = names.get(kept["name"], kept["name"])
        return kept
    if isinstance(config, list | tuple):  # such as an operation with the numbers of its call and of its result
        return [names.get(each, each) if isinstance(each, str) else _described(each, names) for each in config]
    return config
