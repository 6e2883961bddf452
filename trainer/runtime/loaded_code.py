"""A digest of code as this process has loaded it, which a file on disk may no longer be.

Files are not asked: an edit that is saved between an import and a look at the file would give old code the digest of
the new one, and a function that another program has replaced is in no file.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

PLAIN = (type(None), bool, int, float, complex, str, bytes)
# what methods, properties, caches and compiled functions are made of
INNER = ("__func__", "__wrapped__", "fget", "func", "python_function")
# what Python adds to a class, and what decides nothing
ADDED = ("__dict__", "__weakref__", "__doc__", "_abc_impl")


def digest(packages: Collection[str]) -> str:
    """SHA-256 of all functions, classes and plain values of the loaded modules in ``packages``, in hexadecimal digits.

    It is the same in every process that has loaded the same code, wherever the files lie. Values are plain ones, and
    arrays, patterns, enumerations, dataclasses and containers of them. Objects of other kinds, such as locks, are told
    apart by their type alone.
    """
    found = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            for line in _lines(name, module):
                found.update(line.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _lines(name: str, module: ModuleType) -> Iterator[str]:
    yield f"module {name}\n"
    for attribute, value in sorted(vars(module).items()):
        if not attribute.startswith("__"):
            yield f"{attribute} = {_described(value, name, ())}\n"


def _described(value: Any, module: str, inside: tuple[int, ...]) -> str:
    """``value`` as text, seen from ``module``. ``inside`` are the objects that it is a part of."""
    if isinstance(value, PLAIN):
        return repr(value)
    if id(value) in inside:
        return "itself"

    def described(part: Any) -> str:
        return _described(part, module, (*inside, id(value)))

    if isinstance(value, type) and value.__module__ != module and _is_its_modules(value):
        return f"class {value.__module__}.{value.__qualname__}"  # described there, or of a package with a version
    for kind, describe in KINDS:
        if isinstance(value, kind):
            return describe(value, described)
    if dataclasses.is_dataclass(value):
        return _dataclass(value, described)
    inner = (getattr(value, attribute, None) for attribute in INNER)
    parts = [described(each) for each in inner if each is not None]
    return f"a {type(value).__module__}.{type(value).__qualname__} {parts}"


Described = Callable[[Any], str]


def _function(function: FunctionType, described: Described) -> str:
    closed_over = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    return f"function {described([function.__code__, function.__defaults__, function.__kwdefaults__, closed_over])}"


def _code(code: CodeType, described: Described) -> str:
    counts = (code.co_flags, code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return f"code {counts} {code.co_code.hex()} {names} {described(code.co_consts)}"


def _class(cls: type, described: Described) -> str:
    own = sorted((name, described(value)) for name, value in vars(cls).items() if name not in ADDED)
    return f"class {cls.__module__}.{cls.__qualname__} {own} {[base.__qualname__ for base in cls.__mro__]}"


def _array(array: np.ndarray | np.generic, described: Described) -> str:
    if array.dtype.hasobject:
        return f"array {array.shape} {described(array.tolist())}"
    return f"array {array.dtype.str} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _dataclass(value: Any, described: Described) -> str:
    fields = [(field.name, described(getattr(value, field.name, None))) for field in dataclasses.fields(value)]
    return f"{described(type(value))} {fields}"


def _mapping(mapping: Mapping[Any, Any], described: Described) -> str:
    return f"mapping {sorted((described(key), described(value)) for key, value in mapping.items())}"


def _set(values: Iterable[Any], described: Described) -> str:
    return f"set {sorted(described(each) for each in values)}"


def _sequence(values: Iterable[Any], described: Described) -> str:
    return f"[{', '.join(described(each) for each in values)}]"


KINDS: tuple[tuple[Any, Callable[[Any, Described], str]], ...] = (
    (ModuleType, lambda module, described: f"module {module.__name__}"),
    (CodeType, _code),
    (FunctionType, _function),
    (BuiltinFunctionType, lambda function, described: f"builtin {function.__module__}.{function.__qualname__}"),
    (type, _class),
    (enum.Enum, lambda member, described: f"{type(member).__qualname__}.{member.name} {described(member.value)}"),
    (re.Pattern, lambda pattern, described: f"pattern {pattern.flags} {pattern.pattern!r}"),
    (tf.DType, lambda dtype, described: repr(dtype)),
    ((np.ndarray, np.generic), _array),
    (Mapping, _mapping),
    ((set, frozenset), _set),
    ((tuple, list), _sequence),
    (functools.partial, lambda made, described: f"partial {described([made.func, made.args, made.keywords])}"),
)


def _is_its_modules(cls: type) -> bool:
    """Whether its module has this very class under its name. A program that was given to Python is no such module, and
    one that was loaded again has another class of that name.
    """
    found: Any = None if cls.__module__ == "__main__" else sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
