"""What other installed distributions add to the registries: networks and schedules, by entry point.

An entry point in one of ``GROUPS`` has the name that a configuration uses, and refers to the frozen dataclass of its
keys, which says by its methods what it does (``ModelPlugin``, ``SchedulePlugin`` in ``trainer.config.schema``). Its
values are in ``conf/GROUP/NAME.yaml`` of the package. So the registries stay closed: a stored configuration reaches
what is installed under exactly the name it has, and imports nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer.config.keys import FACTS
from trainer.errors import RestoreRefused, UsageError

MODELS, SCHEDULES = GROUPS = ("trainer.models", "trainer.schedules")
RECORDED = "plug-in "  # what its entries among a manifest's versions begin with


@functools.cache
def _installed(group: str) -> dict[str, metadata.EntryPoint]:
    """
    Raises:
        UsageError: two distributions have the same name.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=group):
        if point.name in found and _origin(found[point.name]) != _origin(point):
            raise UsageError(
                f"the plug-in {point.name} ({group}) is in {_origin(found[point.name])} and in {_origin(point)}; "
                "uninstall one of them"
            )
        found[point.name] = point
    return found


def _origin(point: metadata.EntryPoint) -> str:
    """Distribution and version, ``trainer-example 1.0``."""
    assert point.dist is not None, "entry_points() finds them in distributions"
    return f"{point.dist.name} {point.dist.version}"


def names(group: str) -> list[str]:
    return sorted(_installed(group))


def keys_of(group: str, name: str, base: type) -> type | None:
    """The dataclass of keys of the plug-in of that name, a ``base``; None when there is none.

    Raises:
        UsageError: it cannot be imported, or is something else.
    """
    if name not in _installed(group):
        return None
    point = _installed(group)[name]
    try:
        keys = point.load()
    except Exception as error:  # whatever the import of other people's code raises
        raise UsageError(
            f"the plug-in {name} of {_origin(point)} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(keys, type) and issubclass(keys, base) and dataclasses.is_dataclass(keys)):
        raise UsageError(
            f"the plug-in {name} of {_origin(point)} is {keys!r}, but must be a dataclass, {base.__name__}"
        )
    bare = [field.name for field in dataclasses.fields(keys) if FACTS not in field.metadata]
    if bare:
        raise UsageError(f"the plug-in {name} of {_origin(point)} declares {bare[0]} without key(…)")
    return keys


def configuration_directories() -> list[Path]:
    """``conf/`` of every package that an entry point names; nothing of it is imported."""
    packages = {point.module.partition(".")[0] for group in GROUPS for point in _installed(group).values()}
    specs = [importlib.util.find_spec(package) for package in sorted(packages)]
    places = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return [Path(place) / "conf" for place in places if (Path(place) / "conf").is_dir()]


def versions(sections: Mapping[str, Any]) -> dict[str, str]:
    """For a manifest: where the sections of a configuration that plug-ins brought come from, by group."""
    return {
        f"{RECORDED}{group} {section.name}": _origin(_installed(group)[section.name])
        for group, section in sections.items()
    }


def refuse_others(recorded: Mapping[str, str], allow: Sequence[str], place: Path) -> list[str]:
    """Refuse a checkpoint that was made with plug-ins that are not installed, or in other versions.

    ``recorded`` are the versions of the manifest at ``place``. A version is accepted when ``allow`` names the
    distribution. Returns what was accepted.

    Raises:
        RestoreRefused: names each plug-in, and both versions.
    """
    refused, accepted = [], []
    for entry, before in recorded.items():
        if not entry.startswith(RECORDED):
            continue
        group, _, name = entry.removeprefix(RECORDED).partition(" ")
        there = _installed(group) if group in GROUPS else {}
        now = _origin(there[name]) if name in there else "not installed"
        if now == before:
            continue
        distribution = before.rpartition(" ")[0]
        if name in there and distribution in allow:
            accepted.append(f"plug-in {name}: {before} -> {now}")
        else:
            hint = f", or accept the other one: allow=[{distribution}]" if name in there else ""
            refused.append(f"  plug-in {name} ({group}): {before} -> {now}\n    install that version{hint}")
    if refused:
        raise RestoreRefused("\n".join([f"{place} was made with other plug-ins; nothing was restored", *refused]))
    return accepted
