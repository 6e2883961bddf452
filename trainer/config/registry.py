"""The one registry of what a configuration chooses by name: networks, optimizers, schedules, sources and transforms.

An option is a frozen dataclass of keys and a builder. The builder is beside its implementation and is named as
``module:attribute``, like an entry point. It is imported only when something is built, so a wrong key is reported
without importing TensorFlow. The program's own options register here beside their keys, in ``trainer/config/schema/``.
The options of other distributions are found by their entry points; their base class registers one builder for all of
them.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from trainer.config import plugins

T = TypeVar("T", bound=type)

_own: dict[str, dict[str, type]] = {group: {} for group in plugins.GROUPS}
_bases: dict[str, type] = {}
_builders: dict[type, str] = {}


def option(group: str, builder: str) -> Callable[[T], T]:
    """Register a dataclass of keys under each of the names that its ``name`` may have.

    ``group`` is one of ``plugins.GROUPS``. The arguments of ``builder`` are documented where its kind is built:
    ``models.registry``, ``training.optimizers``, ``training.schedules``, ``data.sources.source``,
    ``data.images.transforms``.
    """

    def register(keys: T) -> T:
        for name in typing.get_args(typing.get_type_hints(keys)["name"]):
            assert name not in _own[group], f"two options of {group} are called {name}"
            _own[group][name] = keys
        _builders[keys] = builder
        return keys

    return register


def plugin_base(group: str, builder: str) -> Callable[[T], T]:
    """Register the base class of options from other distributions, and the builder of all of them."""

    def register(base: T) -> T:
        _bases[group] = base
        _builders[base] = builder
        return base

    return register


def own_names(group: str) -> list[str]:
    return list(_own[group])


def names(group: str) -> list[str]:
    """The program's own, in the order in which they are declared, then those of plug-ins."""
    return [*_own[group], *plugins.names(group)]


def variants(group: str) -> list[type]:
    """The dataclasses of the program's own options, and last the base of plug-ins."""
    return [*dict.fromkeys(_own[group].values()), _bases[group]]


def keys_of(group: str, name: str) -> type | None:
    """The dataclass of keys of the option of that name; None when there is none. A plug-in cannot replace the program's
    own.

    Raises:
        UsageError: a plug-in cannot be imported, or is not such a dataclass.
    """
    if name in _own[group]:
        return _own[group][name]
    return plugins.keys_of(group, name, _bases[group])


def builder_place(keys: type) -> str:
    """``module:attribute`` of the builder of the options that have these keys."""
    return next(_builders[cls] for cls in keys.__mro__ if cls in _builders)


def builder_of(config: object) -> Callable[..., Any]:
    """The builder of the option whose keys are ``config``. Its module is imported now."""
    module, _, attribute = builder_place(type(config)).partition(":")
    builder = getattr(importlib.import_module(module), attribute)
    assert callable(builder)
    return builder
