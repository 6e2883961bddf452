"""Building a dataclass from the value of a JSON document, by its annotations and nothing else.

msgspec 0.22 was tried in its place: it ignores unknown fields of a dataclass, accepts integers beyond 64 bits, and lets
the last of two equal keys win.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar, Union

from trainer.storage.documents import shown
from trainer.storage.unacceptable import Unacceptable

T = TypeVar("T")

INTEGER_LIMIT = 2**63  # what an int64 variable holds
NAMES = {int: "an integer of 64 bits", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def build(cls: type[T], value: object, where: str) -> T:
    """Build a dataclass from a JSON object that has exactly its fields.

    Annotations may be ``int``, ``float``, ``bool``, ``str``, a dataclass, ``dict[str, …]``, ``tuple[…, ...]``, and any
    of them ``| None``.

    Raises:
        Unacceptable: names the field, the value and the type it should have.
    """
    if not isinstance(value, dict):
        raise Unacceptable(f"{where} is {shown(value)}, but must be an object")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
    missing = [name for name in names if name not in value]
    unknown = [name for name in value if name not in names]
    if missing:
        raise Unacceptable(f"{where} lacks {missing[0]}")
    if unknown:
        raise Unacceptable(f"{where} has {shown(unknown[0])}, which is not one of its fields")
    return cls(**{name: _value(hints[name], value[name], f"{where}.{name}") for name in names})


def _value(hint: Any, value: object, where: str) -> Any:
    if typing.get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = [option for option in typing.get_args(hint) if option is not type(None)]
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(Any, hint), value, where)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise Unacceptable(f"{where} is {shown(value)}, but must be an object")
        return {name: _value(typing.get_args(hint)[1], entry, f"{where}.{name}") for name, entry in value.items()}
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise Unacceptable(f"{where} is {shown(value)}, but must be a list")
        entry_hint = typing.get_args(hint)[0]
        return tuple(_value(entry_hint, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if hint is float and type(value) is int and abs(value) < INTEGER_LIMIT:
        return float(value)
    fits = type(value) is hint and (type(value) is not int or -INTEGER_LIMIT <= value < INTEGER_LIMIT)
    if not fits:
        raise Unacceptable(f"{where} is {shown(value)}, but must be {NAMES[hint]}")
    return value
