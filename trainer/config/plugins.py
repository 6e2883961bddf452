"""Options that other installed distributions add to the registries by entry point: networks, optimizers, schedules,
sources and transforms.

An entry point in one of ``GROUPS`` has the name that a configuration uses. It refers to the frozen dataclass of its
keys, whose methods do the work (``ModelPlugin`` and the others in ``trainer.plugins``). The values are in ``conf/`` of
the package, under the path of the section (``conf/model/NAME.yaml``). So the registries stay closed: a stored
configuration reaches only the option installed under exactly its name, and imports nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer.command_line import consent
from trainer.config.keys import FACTS
from trainer.errors import RestoreRefused, TrainerError, UsageError

MODELS, OPTIMIZERS, SCHEDULES, SOURCES, TRANSFORMS = GROUPS = (
    "trainer.models",
    "trainer.optimizers",
    "trainer.schedules",
    "trainer.sources",
    "trainer.transforms",
)
TRACKERS = "trainer.trackers"  # no options of a configuration: ``trainer.config.contracts.Tracker``
# a transform is not an option of a group: its keys are in a section of its name
TRANSFORM_VALUES = "preprocess/plugins"
NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)  # what can be a part of a dotted key
REASON_SHOWN = 300  # characters of another program's message
RECORDED = "plug-in "  # prefix of its entries among a manifest's versions


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
        UsageError: it cannot be imported, or is not such a dataclass.
    """
    if name not in _installed(group):
        return None
    point = _installed(group)[name]
    if not NAME.fullmatch(name):
        raise UsageError(f"the plug-in {name!r} of {_origin(point)} needs a name of letters, digits and _")
    keys = loaded(group, name)
    if not (isinstance(keys, type) and issubclass(keys, base) and dataclasses.is_dataclass(keys)):
        raise UsageError(
            f"the plug-in {name} of {_origin(point)} is {keys!r}, but must be a dataclass, a "
            f"trainer.plugins.{base.__name__}"
        )
    bare = [field.name for field in dataclasses.fields(keys) if FACTS not in field.metadata]
    if bare:
        raise UsageError(f"the plug-in {name} of {_origin(point)} declares {bare[0]} without trainer.plugins.key(…)")
    return keys


def loaded(group: str, name: str) -> Any:
    """What the entry point of an installed plug-in refers to. It is imported now.

    Raises:
        UsageError: it cannot be imported.
    """
    point = _installed(group)[name]
    try:
        return point.load()
    except Exception as error:  # whatever the import of other people's code raises
        raise UsageError(
            f"the plug-in {name} of {_origin(point)} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def configuration_directories() -> list[Path]:
    """``conf/`` of every package that an entry point names; nothing of it is imported."""
    packages = {point.module.partition(".")[0] for group in GROUPS for point in _installed(group).values()}
    specs = [importlib.util.find_spec(package) for package in sorted(packages)]
    places = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return [Path(place) / "conf" for place in places if (Path(place) / "conf").is_dir()]


def packages(named: Iterable[tuple[str, str]]) -> dict[str, Path]:
    """The packages of the plug-ins, ``(group, name)``, by name: their directories, or their files. The program's own
    options are left out, and nothing is imported.
    """
    points = [_installed(group)[name] for group, name in named if name in _installed(group)]
    found = {}
    for package in sorted({point.module.partition(".")[0] for point in points}):
        spec = importlib.util.find_spec(package)
        assert spec is not None, "it is imported"
        places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin is not None else [])]
        found[package] = Path(places[0])
    return found


def transforms_with_values() -> list[str]:
    """The installed transforms whose values are in their packages; nothing of them is imported."""
    places = [directory / TRANSFORM_VALUES for directory in configuration_directories()]
    there = {path.stem for place in places for path in place.glob("*.yaml")}
    return [name for name in names(TRANSFORMS) if name in there and NAME.fullmatch(name)]


def title(group: str, name: str) -> str:
    """The name of an installed plug-in in messages: ``the plug-in lion of trainer-example 1.0``. Any other name is one
    of the program's own options.
    """
    if name not in _installed(group):
        return f"{name} of trainer"
    return f"the plug-in {name} of {_origin(_installed(group)[name])}"


@contextlib.contextmanager
def blamed(group: str, name: str) -> Iterator[None]:
    """Name the plug-in, and the line in it, in any error that its code raises in this block. The program's own errors
    stay as they are, also when the plug-in raises them (``BadRecord``).

    Raises:
        UsageError: its code has failed.
    """
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        package = _installed(group)[name].module.partition(".")[0]
        places = [
            f" at {frame.f_code.co_filename}:{line}"
            for frame, line in traceback.walk_tb(error.__traceback__)
            if str(frame.f_globals.get("__name__")).partition(".")[0] == package
        ]
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:REASON_SHOWN]
        raise UsageError(
            f"{title(group, name)} failed{places[-1] if places else ''}\n  {type(error).__name__}: {reason}"
        ) from error


def versions(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For a manifest: the origins of the plug-ins, ``(group, name)``, that a configuration names. The program's own
    options among them are left out.
    """
    installed = [(group, name) for group, name in named if name in _installed(group)]
    return {f"{RECORDED}{group} {name}": _origin(_installed(group)[name]) for group, name in installed}


def refuse_others(
    recorded: Mapping[str, str],
    allow: Sequence[str],
    place: Path,
    again: Callable[[Sequence[str]], str | None] | None = None,
) -> list[str]:
    """Refuse a checkpoint made with plug-ins that are not installed, or with other versions of them.

    ``recorded`` are the versions of the manifest at ``place``. A version is accepted when ``allow`` names the
    distribution. ``again`` makes the command that does the same with more names to allow, if it can.
    Returns what was accepted.

    Raises:
        RestoreRefused: names each plug-in, and both versions. It has the command, or without ``again`` its consents.
    """
    refused, accepted = [], []
    others: dict[str, None] = {}
    missing: dict[str, None] = {}
    for entry, before in recorded.items():
        if not entry.startswith(RECORDED):
            continue
        group, _, name = entry.removeprefix(RECORDED).partition(" ")
        there = _installed(group) if group in GROUPS else {}
        now = _origin(there[name]) if name in there else "not installed"
        if now == before:
            continue
        distribution = _distribution(before)
        if name in there and distribution in allow:
            accepted.append(f"plug-in {name}: {before} -> {now}")
        else:
            refused.append(f"  plug-in {name} ({group}): {before} -> {now}")
            if name in there:
                others[distribution] = None
            else:
                missing[before] = None
    if not refused:
        return accepted
    lines = [f"{place} was made with other plug-ins; nothing was restored", *refused]
    if missing:
        lines.append(f"install {' and '.join(missing)}, and run the same command again")
    if others:
        lines.append(f"install the version that made it, or accept the other one: {consent(others)}")
    names = [] if missing else list(others)
    command = again(names) if again is not None and names else None
    lines += [] if command is None else [f"  {command}"]
    raise RestoreRefused("\n".join(lines), names if again is None else ())


def other_names(allow: Sequence[str], recorded: Mapping[str, str]) -> list[str]:
    """The entries of ``allow`` that name no distribution of a plug-in. ``refuse_others`` judges the other entries."""
    distributions = {_distribution(text) for entry, text in recorded.items() if entry.startswith(RECORDED)}
    return [name for name in allow if name not in distributions]


def _distribution(origin: str) -> str:
    return origin.rpartition(" ")[0]
