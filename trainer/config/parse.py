"""From a plain container (dicts, lists, scalars) to frozen dataclasses, refusing everything that does not fit."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import shlex
import types
import typing
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union

from trainer.config import registry
from trainer.config.home import at_home
from trainer.config.keys import KeyFacts, facts
from trainer.config.urls import data_url, is_url
from trainer.errors import UsageError, nearest

T = TypeVar("T")

UNIONS = (Union, types.UnionType)
INTEGER_LIMIT = 2**63  # steps and examples are int64 variables
UNPRINTABLE = ("Cc", "Cs")  # Unicode categories: control characters and halves of surrogate pairs
KIND_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def parse(cls: type[T], container: object, path: str = "") -> T:
    """Build ``cls`` from ``container``.

    Raises:
        UsageError: for an unknown or missing key, a wrong type or a value out of range; names the key, the value,
            what is allowed and the nearest valid key.
    """
    if not isinstance(container, Mapping):
        raise UsageError(f"{path or 'the configuration'} is {_shown(container)}, but must be a section of keys")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for name, value in container.items():
        if name not in fields:
            # A leaf of the same section is the likeliest meaning, so the candidates carry this section's path.
            candidates = [_join(path, known) for known in fields]
            raise UsageError(
                f"unknown key {_join(path, str(name))}={value}{nearest(_join(path, str(name)), candidates)}"
            )
    values = {}
    for name, field in fields.items():
        if name not in container:
            raise UsageError(f"missing key {_join(path, name)}: {facts(field).doc}")
        values[name] = _value(hints[name], container[name], _join(path, name), facts(field))
    return cls(**values)


def leaves(config: object, path: str = "") -> Iterator[tuple[str, Any, KeyFacts]]:
    """Every ``(dotted key, value, facts)`` of a configuration, in declaration order."""
    for field in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, _join(path, field.name))
        elif isinstance(value, Mapping):
            for name, section in value.items():
                yield from leaves(section, _join(_join(path, field.name), name))
        else:
            yield _join(path, field.name), value, facts(field)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(hint: Any, value: object, path: str, fact: KeyFacts) -> Any:
    if typing.get_origin(hint) is Mapping:
        return _named_sections(value, path, fact)
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    if sections:
        keys = _variant(sections, value, path) if fact.plugins is None else _option(fact.plugins, value, path)
        return parse(keys, value, path)
    if value is None and type(None) in options:
        return None
    kinds = [option for option in options if option is not type(None)]
    if len(kinds) > 1 and fact.plugins is None:
        read = _name_or_number if int in kinds else _name_or_list
        return read(kinds, value, path, fact)
    (kind,) = kinds
    if typing.get_origin(kind) is tuple:
        return _sequence(typing.get_args(kind)[0], value, path, fact)
    return _scalar(kind, value, path, fact, optional=type(None) in options)


def _variant(sections: list[Any], value: object, path: str) -> Any:
    """The dataclass of a union whose ``name`` literal has the container's ``name``."""
    if len(sections) == 1:
        return sections[0]
    hints = {section: typing.get_type_hints(section)["name"] for section in sections}
    by_name = {name: section for section, hint in hints.items() for name in typing.get_args(hint)}
    name = _name(value)
    if name not in by_name:
        raise _no_such_name(path, name, list(by_name), "")
    return by_name[name]


def _option(group: str, value: object, path: str) -> Any:
    """The dataclass that is registered under the container's ``name``, the program's own or a plug-in's."""
    name = _name(value)
    keys = registry.keys_of(group, str(name))
    if keys is None:
        raise _no_such_name(path, name, registry.names(group), " which no installed plug-in has,")
    return keys


def _name(section: object) -> Any:
    return section["name"] if isinstance(section, Mapping) and "name" in section else None


def _no_such_name(path: str, name: object, allowed: list[str], hint: str) -> UsageError:
    return UsageError(
        f"{path}.name is {name!r},{hint} but must be one of {', '.join(allowed)}{nearest(str(name), allowed)}"
    )


def _named_sections(value: object, path: str, fact: KeyFacts) -> dict[str, Any]:
    """Sections of options, each under the name of its option."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{path} is {_shown(value)}, but must be sections of keys, by name: {fact.doc}")
    assert fact.plugins is not None
    sections = {}
    for name, section in value.items():
        keys = registry.keys_of(fact.plugins, str(name))
        if keys is None:
            hint = nearest(str(name), registry.names(fact.plugins))
            raise UsageError(f"{path} has {name}, which no installed plug-in has{hint}")
        parsed: Any = parse(keys, section, _join(path, str(name)))
        if parsed.name != name:
            raise UsageError(f"{_join(path, str(name))}.name is {parsed.name!r}, but must be {name}, as its section")
        sections[str(name)] = parsed
    return sections


def _name_or_number(kinds: list[Any], value: object, path: str, fact: KeyFacts) -> Any:
    """One of a few names, or an integer."""
    (names,) = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal]
    if isinstance(value, str) and value in names:
        return value
    if type(value) is int:
        return _scalar(int, value, path, fact, optional=False)
    listed = ", ".join(map(str, names))
    raise UsageError(
        f"{path} is {value!r}, but must be an integer, or {listed}: {fact.doc}{nearest(str(value), names)}"
    )


def _name_or_list(kinds: list[Any], value: object, path: str, fact: KeyFacts) -> Any:
    """One of a few names, or a list."""
    (entries,) = [typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple]
    if isinstance(value, list | tuple):
        return _sequence(entries, value, path, fact)
    (names,) = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal]
    if value not in names:
        listed = ", ".join(map(str, names))
        hint = nearest(str(value), names)
        raise UsageError(f"{path} is {_shown(value)}, but must be one of {listed}, or a list: {fact.doc}{hint}")
    return value


def _sequence(kind: Any, value: object, path: str, fact: KeyFacts) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{path} is {_shown(value)}, but must be a list: {fact.doc}")
    if fact.length is not None and len(value) != fact.length:
        raise UsageError(f"{path} has {len(value)} entries, but must have {fact.length}: {fact.doc}")
    return tuple(_scalar(kind, entry, f"{path}[{index}]", fact, optional=False) for index, entry in enumerate(value))


def _scalar(kind: Any, value: object, path: str, fact: KeyFacts, *, optional: bool) -> Any:
    others: list[str] = []
    if typing.get_origin(kind) in UNIONS:  # the program's own names, and those of plug-ins
        assert fact.plugins is not None
        kind, others = typing.get_args(kind)[0], registry.names(fact.plugins)
    if typing.get_origin(kind) is Literal:
        allowed = (*typing.get_args(kind), *others)
        if value not in allowed or type(value) is not type(allowed[0]):
            listed = ", ".join(map(str, allowed))
            raise UsageError(
                f"{path} is {_shown(value)}, but must be one of {listed}{nearest(str(value), map(str, allowed))}"
            )
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        null = " or null" if optional else ""
        quoted = _quoted(path, value) if kind is str else ""
        if value is None and not optional and "[" not in path:  # most often a value that was never given
            raise UsageError(f"{path} is not set: {fact.doc}\nset it: {path}=…{quoted}")
        raise UsageError(f"{path} is {_shown(value)}, but must be {KIND_NAMES[kind]}{null}: {fact.doc}{quoted}")
    if kind in (int, float):
        _check_range(typing.cast(float, value), path, fact)
    if isinstance(value, str):
        _check_text(value, path)
    if fact.path:
        if not value:
            raise UsageError(f"{path} is empty, but must be a path: {fact.doc}")
        if is_url(str(value)):
            return data_url(path, str(value))
        place = os.path.abspath(at_home(path, str(value)))
        _check_text(place, path)  # the current directory may have a name that the text has not
        return place
    return value


def _shown(value: object) -> str:
    """A value as a command line writes null and truth values, and else as Python does."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(path: str, value: object) -> str:
    """How to write what was read as a number, a truth value or null where it is meant as text."""
    if not isinstance(value, bool | int | float | None):
        return ""
    text = "null" if value is None else str(value).lower()
    name, _, index = path.partition("[")
    written = f'{name}=["{text}",…]' if index else f'{name}="{text}"'
    what = "the text null" if value is None else "as a text it"
    return f"\n{what} is quoted, within the quotes of the shell: {shlex.quote(written)}"


def _check_text(value: str, path: str) -> None:
    """Refuse text that a stored configuration must not hold, so that every written one can be read."""
    if "${" in value:
        raise UsageError(
            f"{path} is {_shown(value)}, but a stored configuration has no interpolations: ${{…}} stays unresolved"
        )
    unprintable = {unicodedata.category(character) for character in value} & set(UNPRINTABLE)
    if "Cs" in unprintable:
        raise UsageError(f"{path} is {value!r}, but must be UTF-8\nrename it, or make a link to it and give the link")
    if unprintable:
        raise UsageError(f"{path} is {_shown(value)}, but must not have control characters")


def _check_range(value: float, path: str, fact: KeyFacts) -> None:
    if type(value) is int and not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise UsageError(f"{path} is an integer of {value.bit_length()} bits, but must fit in 64: {fact.doc}")
    if not math.isfinite(value):
        raise UsageError(f"{path} is {value}, but must be finite: {fact.doc}")
    bounds = [
        (fact.minimum, "at least", operator.ge),
        (fact.above, "above", operator.gt),
        (fact.maximum, "at most", operator.le),
        (fact.below, "below", operator.lt),
    ]
    stated = [(bound, words, holds) for bound, words, holds in bounds if bound is not None]
    if not all(holds(value, bound) for bound, _, holds in stated):
        allowed = " and ".join(f"{words} {bound:g}" for bound, words, _ in stated)
        raise UsageError(f"{path} is {_shown(value)}, but must be {allowed}: {fact.doc}")
