"""What may stand at the cursor of a command line: for shell completion. Nothing here imports TensorFlow.

The arguments of a command are those in its ``HELP``, keys and their values those of the schema, and options those of
``conf/`` and of installed plug-ins.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trainer.checkpoint import directory, manifest
from trainer.commands.completion import SHELLS
from trainer.config import stored
from trainer.config.compose import configuration_places, experiments, option_groups
from trainer.config.reference import Entry, entries
from trainer.config.spelling import PLACES
from trainer.run_directory.layout import CHECKPOINTS

TRAIN = "train"
ENDS = {"run_dir": stored.FILE_NAME, "checkpoint": manifest.FILE_NAME}  # a directory with this file is one
FLAGS = ("--multirun", "--help", "--cfg", "job")
FREE = re.compile(r"[A-Z]{2,}|…|N|value")  # a part of HELP that stands for any value
CHECKPOINT = "checkpoint"
DATA = ("data",)  # the section of which evaluate takes keys


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A word up to where it is certain. An ``open`` one goes on: it ends in ``=``, ``.`` or ``/``."""

    word: str
    open: bool


def candidates(words: Sequence[str], typed: str, commands: Mapping[str, str]) -> list[Candidate]:
    """What the word at the cursor may become. ``words`` are those between the program and it, ``typed`` what is there
    of it already, both without the quoting of a shell.
    """
    if not words:
        return _closed([*commands, "--help", "--version"], typed)
    command, *given = words
    if command in ("help", "completion"):
        return _closed(list(SHELLS) if command == "completion" else [*commands, *_sections_and_keys()], typed)
    return _assignments(command, given, typed) if command in commands else []


def _assignments(command: str, given: Sequence[str], typed: str) -> list[Candidate]:
    """``key=value``, as far as it is certain."""
    key, equals, value = typed.partition("=")
    arguments = _arguments(command)
    if not equals:
        return _keys(command, arguments, given, typed)
    if value.startswith("["):
        return _in_list(key, value, given)
    return [Candidate(f"{key}={each.word}", each.open) for each in _values(command, key, value, arguments, given)]


def _closed(words: Sequence[str], typed: str) -> list[Candidate]:
    return [Candidate(word, open=False) for word in words if word.startswith(typed)]


def _arguments(command: str) -> dict[str, list[str]]:
    """The arguments that the HELP of a command shows, each with the values that it lists."""
    if command == TRAIN:
        return {}
    usage = "\n".join(line for line in _help(command).splitlines() if re.match(r"  python -m trainer| {15,}\[", line))
    found: dict[str, list[str]] = {}
    for name, values in re.findall(r"(?<![\w.])([a-z_.]+)=(\[[^\]]*\]|[^\s\]]+)", usage):
        listed = [each for each in values.split("|") if not FREE.search(each) and not each.startswith("[")]
        single = len(listed) == 1 and "|" not in values
        listed = ["true", "false"] if listed == ["true"] else [] if single else listed
        found.setdefault(name, []).extend(each for each in listed if each not in found.get(name, []))
    found.pop("key", None)
    return found


def _help(command: str) -> str:
    text = importlib.import_module(f"trainer.commands.{command.replace('-', '_')}").HELP
    assert isinstance(text, str)
    return text


def _sections_of(command: str) -> Sequence[str] | None:
    """The sections of the configuration whose keys and groups the command takes; None for all of them."""
    if command == TRAIN:
        return None
    text = _help(command)
    return None if "key=value" in text else DATA if "data=…" in text else ()


def _takes(command: str, path: str) -> bool:
    sections = _sections_of(command)
    return sections is None or path.split(".", maxsplit=1)[0] in sections


def _keys(command: str, arguments: Mapping[str, object], given: Sequence[str], typed: str) -> list[Candidate]:
    """Arguments, groups and keys: those of a section only when its name and a dot are there."""
    words: dict[str, None] = {f"{name}=": None for name in arguments}
    if _sections_of(command) != ():
        words |= dict.fromkeys(f"{group}=" for group in option_groups() if _takes(command, group))
        for entry in _entries(given):
            if not _takes(command, entry.path) or (command != TRAIN and not entry.stored):
                continue
            rest = entry.path.removeprefix(typed.rpartition(".")[0]).lstrip(".")
            section = entry.path.removesuffix(rest)
            name, dot, _ = rest.partition(".")
            words[f"{section}{name}{'.' if dot else '='}"] = None
    found = [Candidate(word, open=True) for word in words if word.startswith(typed)]
    flags = FLAGS if command == TRAIN else ("--help",)
    return found + (_closed(flags, typed) if typed.startswith("-") else [])


def _entries(given: Sequence[str]) -> list[Entry]:
    """The keys that there are with the options that the line chooses."""
    chosen = [text for text in given if text.partition("=")[0] in option_groups()]
    groups = {text.partition("=")[0] for text in chosen}
    return [
        entry
        for entry in entries()
        if not entry.options or entry.path.split(".")[0] not in groups or set(entry.options) & set(chosen)
    ]


def _sections_and_keys() -> list[str]:
    keys = [entry.path for entry in entries()]
    sections = {".".join(path.split(".")[:depth]) for path in keys for depth in range(1, path.count(".") + 1)}
    options = [f"{group}={name}" for group in option_groups() for name in _options(group)]
    return list(dict.fromkeys([*sorted(sections), *keys, *options]))


def _values(
    command: str, key: str, typed: str, arguments: Mapping[str, list[str]], given: Sequence[str]
) -> list[Candidate]:
    if key in PLACES:
        known = key in arguments or _takes(command, key)
        names = _checkpoints(given, arguments[key]) if key == CHECKPOINT and key in arguments else []
        return [*_closed(names, typed), *_paths(key, typed)] if known else []
    if arguments.get(key):
        return _closed(arguments[key], typed)
    if not _takes(command, key):
        return []
    found = [entry for entry in _entries(given) if entry.path == key]
    if any("path" in entry.kind.split(", ") for entry in found):
        return _paths(key, typed)
    choices = _options(key) if key in option_groups() else [each for entry in found for each in _choices(entry)]
    before, comma, last = typed.rpartition(",") if command == TRAIN and "--multirun" in given else ("", "", typed)
    return [Candidate(f"{before}{comma}{each.word}", each.open) for each in _closed(list(dict.fromkeys(choices)), last)]


def _in_list(key: str, typed: str, given: Sequence[str]) -> list[Candidate]:
    """The last entry of a list: a path for a place, or one of the names that the list may have."""
    before, separator, last = typed.rpartition("," if "," in typed else "[")
    if key in PLACES:
        found = _paths(key, last)
    else:
        found = _closed([choice for entry in _entries(given) if entry.path == key for choice in _choices(entry)], last)
    return [Candidate(f"{key}={before}{separator}{each.word}", open=True) for each in found]


def _choices(entry: Entry) -> list[str]:
    if entry.kind.startswith("true or false"):
        return ["true", "false"]
    return re.findall(r"`(\w+)`", entry.kind) + (["null"] if entry.kind.endswith(", null") else [])


def _options(group: str) -> list[str]:
    if group == "experiment":
        return experiments()
    return sorted({path.stem for place in configuration_places() for path in (place / group).glob("*.yaml")})


def _checkpoints(given: Sequence[str], words: Sequence[str]) -> list[str]:
    """The names of the checkpoints in the run that the line names."""
    runs = [text.partition("=")[2] for text in given if text.startswith("run_dir=")]
    if not runs:
        return list(words)
    there = directory.committed(Path(os.path.expanduser(runs[-1])) / CHECKPOINTS)
    return [*words, *(f"step-{directory.step_of(path)}" for path in reversed(there))]


def _paths(key: str, typed: str) -> list[Candidate]:
    """Directories, and files where the key may name one. A run is where ``run_dir=`` ends; other directories go on."""
    folder, slash, beginning = typed.rpartition("/")
    place = Path(os.path.expanduser(f"{folder}{slash}" or "."))
    found = []
    for path in sorted(_listed(place)):
        if not path.name.startswith(beginning) or (path.name.startswith(".") and not beginning):
            continue
        word = f"{folder}{slash}{path.name}"
        if path.is_dir():
            ends = (path / ENDS[key]).is_file() if key in ENDS else False
            found.append(Candidate(word if ends else f"{word}/", not ends))
        elif key not in ("run_dir", "sweep_dir"):
            found.append(Candidate(word, open=False))
    return found


def _listed(place: Path) -> Iterator[Path]:
    try:
        yield from place.iterdir()
    except OSError:
        return
