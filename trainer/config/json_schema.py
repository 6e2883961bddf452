"""The configuration as a JSON Schema, with which an editor completes and checks YAML: stored configurations, and the
files of ``conf/``, which have some of the keys.

Hydra's own keys (``defaults``) are allowed at the top. A text may be an interpolation wherever a value is expected.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any, Literal

from trainer.config import registry
from trainer.config.described import alternatives, hint, sections_of
from trainer.config.keys import KeyFacts, facts
from trainer.config.plugins import TRANSFORMS
from trainer.config.schema import Config, Invocation

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS = {type(None): "null", int: "integer", float: "number", bool: "boolean", str: "string"}
BOUNDS = {"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}
INTERPOLATION = {"type": "string", "pattern": r"^\$\{.*\}$"}
RESUME = {
    "free": "a resume may change it",
    "consent": "a resume may change it, where allow= names it",
    "fixed": "never changes",
}
HYDRA = {"defaults": {"type": "array"}, "hydra": {"type": "object"}}

Schema = dict[str, Any]


def document() -> Schema:
    """The schema of a whole configuration; of plug-ins' sections it knows the name alone."""
    properties = {**HYDRA, **_properties(Invocation), **_properties(Config)}
    return {
        "$schema": DIALECT,
        "title": "Configuration of a run",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _properties(cls: Any) -> Schema:
    return {field.name: _key(cls, field) for field in dataclasses.fields(cls)}


def _key(cls: Any, field: dataclasses.Field[Any]) -> Schema:
    fact = facts(field)
    described = {"description": f"{fact.doc} ({RESUME[fact.resume]})"}
    variants = sections_of(cls, field.name)
    if not variants:
        return {**described, **_value(hint(cls, field.name), fact)}
    schemas = [_plugin(variants) if inspect.isabstract(each) else _section(each) for each in variants]
    return {**described, **(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})}


def _section(cls: Any) -> Schema:
    return {"type": "object", "properties": _properties(cls), "additionalProperties": False}


def _plugin(variants: list[type]) -> Schema:
    """The section of an installed plug-in: it has a name that is none of the program's own."""
    own = [name for each in variants for name in typing.get_args(typing.get_type_hints(each).get("name"))]
    named = {"type": "string", "not": {"enum": own}}
    return {"type": "object", "properties": {"name": named}, "required": ["name"]}


def _value(annotation: Any, fact: KeyFacts) -> Schema:
    return {"anyOf": [*(_one(each, fact) for each in alternatives(annotation)), INTERPOLATION]}


def _one(annotation: Any, fact: KeyFacts) -> Schema:
    origin = typing.get_origin(annotation)
    if origin is tuple:
        length = {} if fact.length is None else {"minItems": fact.length, "maxItems": fact.length}
        entries = [_one(each, fact) for each in alternatives(typing.get_args(annotation)[0])]
        return {"type": "array", "items": entries[0] if len(entries) == 1 else {"anyOf": entries}, **length}
    if origin is Mapping:
        sections = {name: _section(keys) for name in registry.own_names(TRANSFORMS) if (keys := _keys_of(name))}
        return {"type": "object", "properties": sections, "additionalProperties": {"type": "object"}}
    if origin is Literal:
        return {"enum": list(typing.get_args(annotation))}
    kind = getattr(annotation, "__supertype__", annotation)  # the name of a plug-in is a text
    numbers = kind in (int, float)
    bounds = {word: getattr(fact, name) for name, word in BOUNDS.items() if numbers and getattr(fact, name) is not None}
    return {"type": KINDS[kind], **bounds}


def _keys_of(name: str) -> type | None:
    return registry.keys_of(TRANSFORMS, name)
