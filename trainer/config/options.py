"""The options of the groups ``model``, ``optimizer``, ``schedule``, ``data`` and ``mixing``: a type, and its keys.

An option is a file of values, ``conf/GROUP/OPTION.yaml``. The ``name`` in it is the type, whose dataclass has the keys.
Most options are called like their type; ``model=keras_application`` is one option for many.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.config import plugins, registry
from trainer.config.schema.preprocessing import MixingConfig
from trainer.errors import UsageError

REGISTRIES = {
    "model": plugins.MODELS,
    "optimizer": plugins.OPTIMIZERS,
    "schedule": plugins.SCHEDULES,
    "data": plugins.SOURCES,
}
GROUPS = (*REGISTRIES, "mixing")
MIXING: dict[str, type] = {
    name: keys
    for keys in typing.get_args(MixingConfig)
    for name in typing.get_args(typing.get_type_hints(keys)["name"])
}


def keys_of(group: str, name: str) -> type | None:
    """The dataclass of the type ``name`` of a group; None when there is none."""
    if group == "mixing":
        return MIXING[name] if name in MIXING else None
    return registry.keys_of(REGISTRIES[group], name)


def field_names(keys: type) -> list[str]:
    return [field.name for field in dataclasses.fields(typing.cast(Any, keys))]


def option_of(group: str, name: str, places: Iterable[Path]) -> str | None:
    """The option that brings the keys of the type ``name``; None when there is none. ``places`` are the directories of
    configuration files.
    """
    keys = keys_of(group, name)
    if keys is None:
        return None
    files = [path for place in places for path in sorted((place / group).glob("*.yaml"))]
    types = {path.stem: str(OmegaConf.select(OmegaConf.load(path), "name", default="")) for path in files}
    if name in types:
        return name
    return next((option for option, other in types.items() if keys_of(group, other) is keys), None)


def chosen(group: str, name: str, places: Iterable[Path]) -> str:
    """The arguments that choose a type together with its keys."""
    option = option_of(group, name, places)
    if option is None or option == name:
        return f"{group}={name}"
    return f"{group}={option} {group}.name={name}"


def refuse_other_keys(container: Mapping[str, Any], places: Iterable[Path]) -> None:
    """Refuse a section that has the ``name`` of one type and the keys of another. The parser would call its keys
    unknown, which is not what is wrong. It refuses everything else.

    Raises:
        UsageError: names the type, and the option that brings its keys.
    """
    places = list(places)
    for group in GROUPS:
        section = container[group] if group in container else None
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            continue
        name = section["name"]
        keys = keys_of(group, name)
        if keys is None:
            continue
        others = [key for key in section if key not in field_names(keys)]
        if not others and set(section) == set(field_names(keys)):
            continue  # before plug-ins are imported, which only a message needs
        owners = [each for each in types_of(group) if each is not keys and set(others) <= set(field_names(each))]
        if any(set(section) == set(field_names(each)) for each in types_of(group) if each is not keys):
            key = f"without its keys: {group}.{others[0]} is none of them" if others else "without its keys"
            raise UsageError(
                f"{group}.name={name} chooses a type {key}\nchoose the option that brings them: "
                f"{chosen(group, name, places)}"
            )
        if others and owners:
            names = ", ".join(chosen(group, each, places) for each in _names(owners))
            raise UsageError(
                f"{group}.{others[0]} is set, and is not a key of {chosen(group, name, places)}; it is one of {names}\n"
                f"an experiment that sets it needs its own {group}"
            )


def owners_of(group: str, key: str) -> list[str]:
    """The types of a group, as ``group=name``, that have a key."""
    return [f"{group}={name}" for name in _names(each for each in types_of(group) if key in field_names(each))]


def types_of(group: str) -> list[type]:
    """The dataclasses of the options of a group. Those of plug-ins are imported."""
    names = MIXING if group == "mixing" else registry.names(REGISTRIES[group])
    found = [keys_of(group, name) for name in names]
    return [*dict.fromkeys(keys for keys in found if keys is not None)]


def _names(types: Iterable[type]) -> list[str]:
    """The first name of each type that has names of its own."""
    hints = [typing.get_args(typing.get_type_hints(keys)["name"]) for keys in types]
    return [names[0] for names in hints if names]
