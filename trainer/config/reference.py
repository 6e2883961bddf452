"""Every key with its type, meaning and resume policy, from the schema: what ``help`` explains."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.config import options, registry
from trainer.config.compose import configuration_places
from trainer.config.described import hint, kind, sections_of
from trainer.config.keys import KeyFacts, facts
from trainer.config.plugins import TRANSFORM_VALUES, TRANSFORMS
from trainer.config.schema import Config, Invocation


@dataclasses.dataclass(frozen=True)
class Entry:
    """One key. ``options`` are those of its group that have it, ``optimizer=sgd``; empty for a key that is always
    there. A key of several options has several entries where type or meaning differ. ``stored`` is false for a key of
    one command line.
    """

    path: str
    kind: str
    fact: KeyFacts
    options: tuple[str, ...]
    stored: bool


def entries() -> list[Entry]:
    """Every key, in the order of the schema; those of installed plug-ins too.

    Raises:
        UsageError: a plug-in cannot be imported.
    """
    found = [*_below(Invocation, "", (), stored=False), *_below(Config, "", (), stored=True)]
    for name in registry.names(TRANSFORMS):
        keys = registry.keys_of(TRANSFORMS, name)
        if keys is not None:
            found += _below(keys, f"{TRANSFORM_VALUES.replace('/', '.')}.{name}", (), stored=True)
    merged: dict[tuple[str, str, str], Entry] = {}
    for each in found:
        same = (each.path, each.kind, each.fact.doc)
        before = merged[same].options if same in merged else ()
        merged[same] = dataclasses.replace(each, options=(*before, *each.options))
    return list(merged.values())


def sections() -> dict[str, str]:
    """Every section of keys with its meaning; ``batch_norm`` and the like have none of their own."""
    found = {field.name: facts(field).doc for field in dataclasses.fields(Config) if sections_of(Config, field.name)}
    for each in entries():
        parts = each.path.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            found.setdefault(".".join(parts[:depth]), "")
    return found


def _below(cls: Any, prefix: str, chosen: Sequence[str], *, stored: bool) -> Iterator[Entry]:
    for field in dataclasses.fields(cls):
        path = f"{prefix}.{field.name}" if prefix else field.name
        if path in options.GROUPS:
            for keys in options.types_of(path):
                yield from _below(keys, path, _options(path, keys), stored=stored)
        elif variants := sections_of(cls, field.name):
            yield from _below(variants[0], path, chosen, stored=stored)
        else:
            yield Entry(path, kind(hint(cls, field.name), facts(field)), facts(field), tuple(chosen), stored)


def _options(group: str, keys: type) -> list[str]:
    """The options of ``group`` that bring these keys; several types may share one, as those of keras.applications."""
    names = typing.get_args(typing.get_type_hints(keys)["name"]) or [
        name for name in registry.names(options.REGISTRIES[group]) if options.keys_of(group, name) is keys
    ]
    found = dict.fromkeys(options.option_of(group, name, configuration_places()) or name for name in names)
    return [f"{group}={name}" for name in found]
