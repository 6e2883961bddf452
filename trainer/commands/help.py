"""``help``: what a key, a section, an option or a command is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from trainer.command_line import consent
from trainer.commands.wrapping import beside, wrapped
from trainer.config.compose import configuration_places, default_values, experiment_files, option_values
from trainer.config.described import heading, plain
from trainer.config.hints import hint
from trainer.config.reference import Entry, entries, sections
from trainer.errors import UsageError

HELP = """Explain a configuration key, a section of keys, an option of a group, or a command.

  python -m trainer help KEY|SECTION|GROUP=OPTION|COMMAND

Of a key: its meaning, type and range, the value that a run has without it, the experiments that set another, and what a
resume may do with it. docs/configuration.md lists all keys."""
COLUMN = 13
ABSENT = object()
POLICIES = {
    "free": "may change: it does not change the result of a step",
    "consent": "changes the result of a step, so a change needs {consent}",
    "fixed": "cannot change: it decides which variables exist or what they mean",
}


def main(arguments: Sequence[str], commands: Mapping[str, str]) -> int:
    """``commands`` are those of the program, each with its line in the list of commands."""
    if {"--help", "-h"} & set(arguments) or not arguments:
        print(wrapped(HELP))
        return 0
    known = entries()
    print("\n\n".join("\n".join(_explained(name, known, commands)) for name in arguments))
    return 0


def _explained(name: str, known: Sequence[Entry], commands: Mapping[str, str]) -> Iterator[str]:
    """
    Raises:
        UsageError: there is nothing of that name; names what may be meant.
    """
    there = sections()
    options = _options(known)
    keys = [each for each in known if each.path == name]
    name = name.removesuffix("=").removesuffix(".")
    if name in commands:
        yield from _command(name, commands[name], is_section=name in there)
    if name in there:
        yield from _section(name, there[name], known, options)
    elif keys:
        values = default_values()
        for each in keys:
            yield from _key(each, values)
    elif name in options:
        yield from _option(name, known)
    elif name not in commands:
        candidates = {*commands, *there, *options, *(each.path for each in known)}
        raise UsageError(f"there is no key, section, option or command {name}{hint(name, candidates)}")


def _command(name: str, summary: str, *, is_section: bool) -> Iterator[str]:
    module = importlib.import_module(f"trainer.commands.{name.replace('-', '_')}")
    text = getattr(module, "HELP", None)
    what, _, line = summary.partition("python")
    if text is None:
        yield f"{name} is a command: {what.strip()}"
        yield f"  python{line}; --help lists every key and its value"
    else:
        yield wrapped(text)
    if is_section:
        yield f"\n{name} is also a section of keys:"


def _section(name: str, doc: str, known: Sequence[Entry], options: Sequence[str]) -> Iterator[str]:
    if doc:
        yield beside(name, doc, max(COLUMN, len(name) + 2))
    chosen = [each for each in options if each.startswith(f"{name}=")]
    if chosen:
        yield beside("options", ", ".join(chosen), COLUMN)
    below = [each for each in known if each.path.startswith(f"{name}.") and not each.path.endswith(".name")]
    column = max((len(each.path) for each in below), default=0) + 4
    for each in below:
        yield beside(f"  {each.path}", f"{each.fact.doc}{_of(each)}", column)


def _of(entry: Entry) -> str:
    names = [option.partition("=")[2] for option in entry.options]
    return f" ({', '.join(names)})" if names else ""


def _option(name: str, known: Sequence[Entry]) -> Iterator[str]:
    group, _, option = name.partition("=")
    files = [place / group / f"{option}.yaml" for place in configuration_places()]
    path = next(file for file in files if file.is_file())
    if path.read_text(encoding="utf-8").startswith("#"):
        yield wrapped(" ".join(heading(path)))
    keys = [each for each in known if each.path.startswith(f"{group}.") and name in each.options]
    if keys:
        values = option_values(group, option, str(default_values()["experiment"]))
        column = max(len(each.path) for each in keys) + 4
        for each in (each for each in keys if not each.path.endswith(".name")):
            value = _select({group: values}, each.path)
            shown = "" if value is ABSENT else f"{plain(value)}: "
            yield beside(f"  {each.path}", f"{shown}{each.fact.doc}", column)
    else:
        yield f"its values are in {path}"


def _key(entry: Entry, values: Mapping[str, Any]) -> Iterator[str]:
    yield entry.path
    yield beside("  meaning", entry.fact.doc, COLUMN)
    yield beside("  type", entry.kind.replace("`", ""), COLUMN)
    if entry.options:
        yield beside("  of", ", ".join(entry.options), COLUMN)
    yield beside("  value", _value(entry, values), COLUMN)
    others = [
        f"{path.stem} {plain(value)}" for path in experiment_files() if (value := _set_by(path, entry)) is not ABSENT
    ]
    if others:
        yield beside("  set by", f"experiment={', '.join(others)}", COLUMN)
    if not entry.stored:
        yield beside("  stored", "no: it belongs to one command line", COLUMN)
        return
    yield beside("  on resume", POLICIES[entry.fact.resume].format(consent=repr(consent([entry.path]))), COLUMN)


def _value(entry: Entry, values: Mapping[str, Any]) -> str:
    """The value of a run without an argument, or with the first option that has the key."""
    group = entry.path.split(".")[0]
    value, with_what = _select(values, entry.path), ""
    chosen = values.get(group)
    name = chosen.get("name") if isinstance(chosen, Mapping) else None
    if entry.options and f"{group}={name}" not in entry.options:
        option = entry.options[0].partition("=")[2]
        try:
            value = _select({group: option_values(group, option, str(values["experiment"]))}, entry.path)
        except UsageError:
            value = ABSENT
        with_what = f" with {entry.options[0]}"
    if value is ABSENT:
        return f"none{with_what}: it has to be set"
    filled = "; filled in when a run starts" if entry.fact.completed and value is None else ""
    required = value is None and "null" not in entry.kind
    return f"{'has to be set' if required else plain(value)}{with_what}{filled}"


def _set_by(path: Any, entry: Entry) -> Any:
    return OmegaConf.select(OmegaConf.load(path), entry.path, default=ABSENT)


def _select(values: Mapping[str, Any], path: str) -> Any:
    node: Any = values
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return node


def _options(known: Sequence[Entry]) -> list[str]:
    """``GROUP=OPTION`` for every file of values of a group."""
    groups = dict.fromkeys([*(each.path.split(".")[0] for each in known), "experiment"])
    files = [
        (group, path) for group in groups for place in configuration_places() for path in (place / group).glob("*.yaml")
    ]
    return sorted(f"{group}={path.stem}" for group, path in files)
