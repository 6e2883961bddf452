"""Hydra's errors in the words of this program: what is wrong, and the nearest key or option that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from trainer.command_line import argument
from trainer.config import plugins, registry
from trainer.config.hints import hint
from trainer.config.options import REGISTRIES, chosen
from trainer.config.schema.sources import is_table
from trainer.config.search_keys import PRUNERS, SAMPLERS
from trainer.config.spelling import not_an_assignment
from trainer.errors import nearest

ABSENT = object()
SEARCH_OPTIONS = {"hydra/sweeper/sampler": [*SAMPLERS], "hydra/sweeper/pruner": [*PRUNERS]}
INSTALLED_BY_SWEEPS = ("joblib", "submitit_local", "submitit_slurm")


def explain(error: Exception, arguments: Sequence[str], places: Sequence[Path]) -> str:
    """The message for an error that Hydra raised for ``arguments``, one to three lines. ``places`` are the directories
    of configuration files, ``conf/`` first.
    """
    if isinstance(error, OverrideParseException):
        return not_an_assignment(error.override)
    text = str(error)
    unknown_key = re.search(r"Could not override '([^']+)'", text)
    if unknown_key:
        return _unknown_key(unknown_key[1], arguments, places)
    unknown_option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if unknown_option:
        return _unknown_option(unknown_option[1], unknown_option[2], places)
    no_group = re.search(r"Could not override '?([^'\n]+)'?\.?\s+No match in the defaults list", text, re.IGNORECASE)
    if no_group:
        return f"unknown group {no_group.group(1)}{hint(no_group.group(1), known_keys(places))}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:3])


def _unknown_key(path: str, arguments: Sequence[str], places: Sequence[Path]) -> str:
    if path == plugins.TRANSFORM_VALUES:
        return (
            f"{path} is not a group of options: name the transform in preprocess.train or preprocess.eval, and "
            f"set its keys as {path.replace('/', '.')}.NAME.KEY"
        )
    owners = _owners(places, path)
    if owners:
        own = _chosen(path.partition(".")[0], arguments, places)
        return f"{path} is not a key of {own}; it is one of {', '.join(owners)}"
    given = next((argument for argument in arguments if argument.startswith(f"{path}=")), path)
    return f"unknown key {given}{hint(path, known_keys(places))}"


def _unknown_option(group: str, option: str, places: Sequence[Path]) -> str:
    if group in ("hydra/launcher", "hydra/sweeper"):
        how = ": pip install 'resumable-trainer[sweeps]'" if option in INSTALLED_BY_SWEEPS else ""
        return f"{group}={option} is not installed{how}"
    options = SEARCH_OPTIONS[group] if group in SEARCH_OPTIONS else _options(places, group)
    root, _, folders = group.partition("/")
    if not options and folders and (others := _options(places, root)):
        path = f"{folders}/{option}"
        instead = _instead(path) if root == "data" else ""
        return f"{root}={path} is a path, and {root} is one of {', '.join(others)}{instead}"
    allowed = ", ".join(options) if options else "nothing: there is no such group"
    table = _instead(option) if group == "data" and is_table(option) else ""
    meant = table or _type_called(group, option, places) or nearest(option, options)
    return f"{group}={option} does not exist; allowed: {allowed}{meant}"


def _instead(path: str) -> str:
    """The arguments that read the images at a path that was given in the place of an option."""
    if is_table(path):
        return f"\na table of images: data=table {argument('data.file', path)}"
    return f"\na folder of images: data=image_folder {argument('data.root', path)}"


def _type_called(group: str, option: str, places: Sequence[Path]) -> str:
    """The arguments that choose the type of that name, in any case of its letters: ``model=resnet50`` is one."""
    if group not in REGISTRIES:
        return ""
    names = [name for name in registry.names(REGISTRIES[group]) if name.lower() == option.lower()]
    return f"; did you mean {chosen(group, names[0], places)}?" if names else ""


def _files(places: Sequence[Path], group: str) -> dict[str, Path]:
    """The files of a group by option; if two have the same name, Hydra takes the first."""
    found = [path for place in reversed(places) for path in (place / group).glob("*.yaml")]
    return {path.stem: path for path in found}


def _options(places: Sequence[Path], group: str) -> list[str]:
    return sorted(_files(places, group))


def _owners(places: Sequence[Path], path: str) -> list[str]:
    """The options (``data=image_folder``) that define a key which the chosen option of the group lacks."""
    group, _, rest = path.partition(".")
    return [
        f"{group}={option}"
        for option, file in sorted(_files(places, group).items())
        if OmegaConf.select(OmegaConf.load(file), rest, default=ABSENT) is not ABSENT
    ]


def _chosen(group: str, arguments: Sequence[str], places: Sequence[Path]) -> str:
    """``group=option`` as given, or as in the defaults list."""
    given = [argument for argument in arguments if argument.startswith(f"{group}=")]
    defaults = OmegaConf.select(OmegaConf.load(places[0] / "config.yaml"), "defaults")
    entries = [f"{group}={entry[group]}" for entry in defaults if isinstance(entry, DictConfig) and group in entry]
    return [*entries, *given][-1]


def known_keys(places: Sequence[Path]) -> list[str]:
    """Every key that a configuration file of the project or of a plug-in defines."""

    def keys(node: object, path: str) -> Iterator[str]:
        if isinstance(node, Mapping):
            for name, value in node.items():
                dotted = f"{path}.{name}" if path else str(name)
                yield dotted
                yield from keys(value, dotted)

    known: set[str] = set()
    for file, group in ((file, file.relative_to(place).parent) for place in places for file in place.rglob("*.yaml")):
        sections = [] if group.parts[:1] == ("experiment",) else list(group.parts)
        if group.as_posix() == plugins.TRANSFORM_VALUES:
            sections.append(file.stem)
        package = ".".join(sections)
        known.update([package] if package else [], keys(OmegaConf.to_container(OmegaConf.load(file)), package))
    return sorted(name for name in known if not name.startswith(("defaults", "hydra")))
