"""Arguments as people type them, spelled in Hydra's grammar.

Hydra's grammar takes ASCII letters, digits and a few signs for text. It reads the rest as lists, sweeps or numbers, or
not at all: ``data.root=my images (1)``, ``data.root=~/pets``, ``run_dir=2024``, ``data.classes=[10,1]``. A path or a
name means itself. So the value of a key that holds text is quoted here, unless Hydra reads it as that very text. What
is quoted or escaped already stays, and so do interpolations, ``null``, and the sweeps of a ``--multirun``.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Union

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import OverrideParseException

from trainer.command_line import argument as spelled
from trainer.config import registry
from trainer.config.home import at_home
from trainer.config.keys import KeyFacts, facts
from trainer.config.schema import Config, Invocation
from trainer.errors import UsageError

# arguments of the commands and of Hydra that name a place; as in a shell, ~ without quotes is the home directory
PLACES = frozenset(
    {"run_dir", "sweep_dir", "checkpoint", "init_from", "left", "right", "output", "report", "into", "images"}
    | {"checkpoint.mirror", "hydra.run.dir", "hydra.sweep.dir"}
)
SEVERAL = frozenset({"run_dir", "images"})  # report and predict take lists of them
GROUPS = frozenset({"experiment"})  # a key of this name exists, but its value is chosen as an option, as each name is
ASSIGNMENT = re.compile(r"(\+{0,2}([A-Za-z_][\w./@:-]*)=)(.*)", re.DOTALL)
QUOTES = ("'", '"')
UNREAD = object()  # what Hydra's grammar does not take


def respelled(arguments: Sequence[str], *, sweeps: bool = False) -> list[str]:
    """``arguments`` with quotes around text that Hydra would read as something else. With ``sweeps``, commas separate
    the jobs of a sweep.

    What is not ``key=value`` stays as it is. A second call changes nothing.

    Raises:
        UsageError: a place is empty. As a path that would be the current directory.
    """
    for argument in arguments:
        _refuse_empty_place(argument)
    return [_respelled(argument, sweeps) for argument in arguments]


def _refuse_empty_place(argument: str) -> None:
    found = ASSIGNMENT.fullmatch(argument)
    if found is None:
        return
    _, key, text = found.groups()
    if key in PLACES and not text.strip().strip("".join(QUOTES)).strip():
        raise UsageError(
            f"{key}= is empty; if a variable of the shell stands there, it is not set\n"
            "name the place; . is the current directory"
        )


def is_given(key: str, arguments: Sequence[str]) -> bool:
    """Whether an argument sets ``key``, in any of the forms that Hydra takes."""
    return any(argument.lstrip("+").startswith(f"{key}=") for argument in arguments)


def read(argument: str) -> Override:
    """An argument, read by Hydra's grammar after it was respelled.

    Raises:
        UsageError: it is not ``key=value``.
    """
    (argument,) = respelled([argument])
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException as error:
        raise UsageError(not_an_assignment(argument)) from error
    return override


def not_an_assignment(argument: str) -> str:
    """The message about an argument that is not ``key=value``."""
    bare = argument.lstrip("-")
    if bare != argument and ASSIGNMENT.fullmatch(bare):
        return f"{argument!r} is not key=value: leave out the dashes: {shlex.quote(bare)}"
    if bare != argument:
        return f"{argument!r} is not key=value: arguments have no dashes: {bare}=…"
    if os.sep in argument and os.path.exists(argument):
        meant = shlex.quote(spelled("run_dir", os.path.abspath(argument)))
        return f"{argument!r} is not key=value: a path has its key in front, such as {meant}"
    return (
        f"{argument!r} is not key=value\n"
        f"if it belongs to the value before it, put quotes around the whole: {shlex.quote('data.root=my images')}"
    )


def _respelled(argument: str, sweeps: bool) -> str:
    found = ASSIGNMENT.fullmatch(argument)
    if found is None:
        return argument
    begin, key, text = found.groups()
    texts, lists = _keys_of_text()
    meaning = _meaning(text)
    if isinstance(meaning, str):
        taken = text if key in texts and meaning == text.strip() else meaning  # Hydra takes spaces at the ends away
        return argument if taken == meaning else begin + _quoted(taken)
    bracketed = text.startswith("[") and text.endswith("]") and (sweeps or not isinstance(meaning, ChoiceSweep))
    if bracketed and (key in lists or (meaning is UNREAD and key not in texts)):
        several = _split(text, brackets=True) if sweeps else [text]
        place = key if key in PLACES else None
        listed = ",".join(f"[{_elements(each.strip()[1:-1], key in lists, place)}]" for each in several)
        if _meaning(listed) is not UNREAD:
            return begin + listed
    is_sweep = meaning is UNREAD or (isinstance(meaning, ChoiceSweep) and meaning.simple_form)
    if sweeps and is_sweep and "," in text and key not in lists - texts:
        return begin + _elements(text, key in texts)
    if meaning is UNREAD or (key in texts and meaning is not None and not (sweeps and _is_sweep(text))):
        return begin + _quoted(at_home(key, text) if key in PLACES else text)
    return argument


def _meaning(text: str) -> object:
    """What Hydra reads in a value; ``UNREAD`` for nothing."""
    try:
        (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    except OverrideParseException:
        return UNREAD
    return override.value()


def _is_sweep(text: str) -> bool:
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    return bool(override.is_sweep_override())


def _quoted(text: str) -> str:
    return spelled("key", text).removeprefix("key=")


def _elements(text: str, numbers_too: bool, place: str | None = None) -> str:
    """Texts between commas, each in quotes where Hydra would not read it as that text; with ``numbers_too`` also what
    it would read as a number, a truth value or null. They are paths where the key is a ``place``.
    """
    elements = []
    for written in map(str.strip, _split(text)):
        element = at_home(place, written) if place is not None else written
        meaning = _meaning(element)
        other = not isinstance(meaning, str) if numbers_too else meaning is UNREAD
        elements.append(_quoted(element) if element and other else element)
    return ",".join(elements)


def _split(text: str, *, brackets: bool = False) -> Iterator[str]:
    """The parts between commas that are neither escaped nor in a part that begins with a quote. With ``brackets``, the
    parts are lists.
    """
    begin, quote = 0, ""
    for index, character in enumerate(text):
        escaped = index > 0 and text[index - 1] == "\\"
        if quote:
            quote = "" if character == quote and not escaped else quote
        elif character in QUOTES and (brackets or not text[begin:index].strip()):
            quote = character
        elif character == "," and not escaped and not (brackets and not text[begin:index].rstrip().endswith("]")):
            yield text[begin:index]
            begin = index + 1
    yield text[begin:]


@functools.cache
def _keys_of_text() -> tuple[frozenset[str], frozenset[str]]:
    """The keys that hold a text, and those that hold a list of texts. Keys that only a plug-in has are in neither."""
    found = [*_kinds(Config, ""), *_kinds(Invocation, "")]
    texts = {path for path, kind in found if kind is str and not path.endswith(".name")} | PLACES
    return frozenset(texts - GROUPS), frozenset(path for path, kind in found if kind == tuple[str, ...]) | SEVERAL


def _kinds(cls: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every dotted key below a dataclass with its type, without None."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        dotted = f"{path}.{field.name}" if path else field.name
        for kind in _options(hints[field.name], facts(field)):
            if dataclasses.is_dataclass(kind):
                yield from _kinds(kind, dotted)
            else:
                yield dotted, kind


def _options(hint: Any, fact: KeyFacts) -> list[Any]:
    """The types that a key may have; for a section chosen by name, those of all its variants."""
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    options = [option for option in (typing.get_args(hint) if is_union else (hint,)) if option is not type(None)]
    if fact.plugins is not None and any(map(dataclasses.is_dataclass, options)):
        return registry.variants(fact.plugins)
    return options
