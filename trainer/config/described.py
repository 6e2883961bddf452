"""Configuration keys in words: type, range and value as a person reads them. For the reference and for ``help``."""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from trainer.config import registry
from trainer.config.keys import KeyFacts, facts

KINDS = {int: "integer", float: "number", bool: "true or false", str: "text"}


def heading(path: Path) -> tuple[str, str]:
    """The comment lines at the beginning of a file of values: the arguments that choose it, and what it is."""
    comments = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    command, *rest = [line[1:].strip() for line in comments if "@package" not in line]
    return command, " ".join(rest)


def hint(cls: type, name: str) -> Any:
    """The annotation of a key."""
    return typing.get_type_hints(cls)[name]


def alternatives(annotation: Any) -> list[Any]:
    """The types that a key may have."""
    united = typing.get_origin(annotation) in (Union, types.UnionType)
    return list(typing.get_args(annotation)) if united else [annotation]


def sections_of(cls: type, name: str) -> list[type]:
    """The dataclasses that a key may be a section of, the base of plug-ins last; none for a key with a value."""
    (fact,) = [facts(field) for field in dataclasses.fields(typing.cast(Any, cls)) if field.name == name]
    if fact.plugins is not None and dataclasses.is_dataclass(hint(cls, name)):
        return registry.variants(fact.plugins)
    options = alternatives(hint(cls, name))
    return [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]


def plain(value: Any) -> str:
    """The value as a command line writes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def kind(annotation: Any, fact: KeyFacts) -> str:
    """Type and range."""
    options = alternatives(annotation)
    text = " or ".join(_one(option, fact) for option in options if option is not type(None))
    bounds = [
        ("≥", fact.minimum),
        (">", fact.above),
        ("≤", fact.maximum),
        ("<", fact.below),
    ]
    ranges = " ".join(f"{sign} {bound:,}" for sign, bound in bounds if bound is not None)
    return ", ".join(part for part in (text, ranges, "null" if type(None) in options else "") if part)


def _one(annotation: Any, fact: KeyFacts) -> str:
    if typing.get_origin(annotation) is tuple:
        length = "" if fact.length is None else f"{fact.length} "
        entry = typing.get_args(annotation)[0]
        return f"list of {length}({_one(entry, fact)})"
    if typing.get_origin(annotation) is Mapping:
        return "section for each name"
    if fact.plugins is not None:
        return f"{_one(alternatives(annotation)[0], dataclasses.replace(fact, plugins=None))} or a plug-in's"
    if typing.get_origin(annotation) is Literal:
        return " ".join(f"`{option}`" for option in typing.get_args(annotation))
    return "path" if fact.path else KINDS[annotation]
