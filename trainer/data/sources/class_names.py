"""Names of classes for data that holds labels as numbers."""

from __future__ import annotations

import codecs
import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from trainer.data.sources.open_files import AnyPath
from trainer.errors import UsageError
from trainer.storage.documents import parse_json
from trainer.storage.unacceptable import Unacceptable

NUMBERED = re.compile(r"(\d{1,9}):(.+)")  # TF-Slim's datasets/dataset_utils.py, write_label_file
OTHERWISE_NUMBERED = re.compile(r"(\d{1,9})[ ,;] *[^ ].*|.*[^ ] *[,;] *(\d{1,9})")  # "0 cat", "cat,0"
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's begin with one of them, or with zero bytes
OTHER_FORMATS = ("item {", "item{", "<")  # a label map in protocol buffers' text, XML
JSON_BEGINS = ("{", "[")
NUMBER = re.compile(r"\d{1,9}")
DECIMAL = re.compile(r"[+-]?(\d{1,18})(\.\d{1,18})?")  # a text that is a number: 7, 07, 7.0
CONTROL = re.compile(r"[\0-\x08\n-\x1f\x7f-\x9f]")  # Unicode's category Cc, but the tab
SYNSET = re.compile(r"(n\d{8})[ \t]+\S.*")  # a line of ImageNet's lists: WordNet's number of the synset, then its words


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """The classes that a file names, in label order; ``first`` is the stored label of the first one."""

    names: tuple[str, ...]
    first: int


def numbered(count: int) -> tuple[str, ...]:
    """``class_000``, ``class_001`` …"""
    return tuple(f"class_{number:03d}" for number in range(count))


def read_labels_file(path: AnyPath, label_offset: int) -> tuple[str, ...]:
    """The names in ``data.labels_file``, in label order; see ``read_label_names``."""
    return read_label_names(path, label_offset).names


def read_label_names(path: AnyPath, label_offset: int | None) -> LabelNames:
    """What ``data.labels_file`` says. The first class has the stored label ``label_offset``; None: the lowest number in
    the file, 0 without numbers.

    The file has one name a line, or numbered lines as TF-Slim writes them (``0:cat``), whose numbers are the stored
    labels; or it is JSON: a list of names, or an object that maps numbers to names or names to numbers. A name in JSON
    may be a list of a synset's number and its word, as in Keras's index of ImageNet, which are joined by a space.

    A byte order mark, the line ends of any system, and blank lines at the end do not matter.

    Raises:
        UsageError: the file cannot be read, is not UTF-8 or another kind of file, has an empty or repeated line or a
            comment, its numbers have a gap or no colon, or it has fewer than two names.
    """
    given = f"data.labels_file={path}"
    text = _text(path, given)
    if text.lstrip().startswith(JSON_BEGINS):
        lines, unit = _json_lines(text, given), "entry"
    else:
        lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        unit = "line"
    while lines and not lines[-1]:
        lines.pop()
    if lines and lines[0].startswith(OTHER_FORMATS):
        raise UsageError(
            f"{given} begins with {lines[0][:20]!r}: it is another kind of file; write one class name a line"
        )
    for line, name in enumerate(lines, 1):
        if not name:
            raise UsageError(f"{given} has no name in {unit} {line}; every {unit} is a class")
        if CONTROL.search(name):
            raise UsageError(f"{given} has control characters in {unit} {line}: {name!r}")
    lines = [line.replace("\t", " ") if SYNSET.fullmatch(line) else line for line in lines]
    tabs = next((line for line, name in enumerate(lines, 1) if "\t" in name), None)
    if tabs is not None:
        raise UsageError(f"{given} has control characters in {unit} {tabs}: {lines[tabs - 1]!r}")
    names, first = _numbered_lines(lines, given, label_offset, unit)
    seen: dict[str, int] = {}
    for line, name in names:
        twin = seen.setdefault(name, line)
        if twin != line:
            raise UsageError(f"{given} has {name} in {_several(unit)} {twin} and {line}")
    if len(names) < 2:
        raise UsageError(f"{given} has {len(names)} {_several(unit)}, but at least two classes are needed")
    return LabelNames(tuple(name for _, name in names), first)


def labels_by_text(names: Sequence[str]) -> dict[str, int]:
    """The label of each text by which a record may name its class: the name in Unicode's composed form and, where the
    names are lines of ImageNet's list of synsets (``n01440764 tench, Tinca tinca``), the number of the synset.
    """
    found = {unicodedata.normalize("NFC", name): label for label, name in enumerate(names)}
    synsets = [SYNSET.fullmatch(name) for name in names]
    if all(synsets):
        found |= {match[1]: label for label, match in enumerate(synsets) if match is not None}
    return found


def labels_by_value(names: Sequence[str]) -> dict[Decimal, int]:
    """The label of each number that a name is, however it is written; none where several names are the same number."""
    found: dict[Decimal, list[int]] = {}
    for label, name in enumerate(names):
        if DECIMAL.fullmatch(name):
            found.setdefault(Decimal(name), []).append(label)
    return {value: labels[0] for value, labels in found.items() if len(labels) == 1}


def alike(names: Sequence[str]) -> list[str]:
    """A warning where classes differ in the case of letters alone."""
    folded: dict[str, str] = {}
    for name in names:
        twin = folded.setdefault(name.casefold(), name)
        if twin != name:
            return [
                f"warning: the classes {twin} and {name} differ in upper and lower case alone; they are two classes"
            ]
    return []


def _several(unit: str) -> str:
    return "entries" if unit == "entry" else "lines"


def _json_lines(text: str, given: str) -> list[str]:
    """The names in a JSON text as lines, numbered where it has numbers."""
    try:
        value = parse_json(text)
    except Unacceptable as error:
        raise UsageError(f"{given} is no list of names: {error}") from error
    if isinstance(value, list):
        return [_json_name(entry, given, number) for number, entry in enumerate(value, 1)]
    entries = list(value.items())
    # first, because the names of classes may be numbers, as those of digits; a name is never one
    if all(type(number) is int and 0 <= number < 10**9 for _, number in entries):
        return [f"{number}:{name.strip()}" for name, number in entries]
    if all(NUMBER.fullmatch(name) for name, _ in entries):
        return [f"{name}:{_json_name(entry, given, number)}" for number, (name, entry) in enumerate(entries, 1)]
    raise UsageError(
        f'{given} is JSON, but neither a list of names, nor numbers with names ({{"0": "cat"}}), nor names with '
        'numbers ({"cat": 0})'
    )


def _json_name(entry: Any, given: str, number: int) -> str:
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
        entry = " ".join(entry)
    if not isinstance(entry, str):
        raise UsageError(f"{given} has {str(entry)[:40]} in entry {number}, which is not a name")
    return entry.strip()


def _text(path: AnyPath, given: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "; it is relative to data.root" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"{given} cannot be read: {error.strerror}{hint}") from error
    if data.startswith(UTF_16_MARKS) or b"\0" in data:
        raise UsageError(
            f"{given} is not UTF-8, but UTF-16 or UTF-32 (a byte order mark, zero bytes); save it as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{given} is not UTF-8: {error.reason} at byte {error.start}") from error


def _refuse_misread(lines: list[str], given: str, label_offset: int) -> None:
    """Refuse lines that are hardly names: a comment, and numbers that count the labels from the first one on."""
    if lines and lines[0].startswith("# "):
        raise UsageError(
            f"{given} begins with a comment ({lines[0]}), but every line is a class: remove it\n"
            f"if it is the name of a class, number every line: {label_offset}:{lines[0]}"
        )
    found = [OTHERWISE_NUMBERED.fullmatch(line) for line in lines]
    numbers = sorted(int(match[1] or match[2]) for match in found if match)
    if lines and any(numbers == list(range(first, first + len(lines))) for first in {0, label_offset}):
        raise UsageError(
            f"{given} seems to have the number of the label in every line ({lines[0]}): write it before the name and a "
            f"colon, as in 0:cat, or write the names alone\nif it belongs to the name: {label_offset}:{lines[0]}"
        )


def _numbered_lines(
    lines: list[str], given: str, label_offset: int | None, unit: str
) -> tuple[list[tuple[int, str]], int]:
    """Line number and name of each class, in label order, and the label of the first."""
    found = [NUMBERED.fullmatch(line) for line in lines]
    if not any(found):
        _refuse_misread(lines, given, label_offset or 0)
        return list(enumerate(lines, 1)), label_offset or 0
    if not all(found):
        with_number = next(line for line, match in enumerate(found, 1) if match)
        without = next(line for line, match in enumerate(found, 1) if not match)
        raise UsageError(
            f"{given} has a number before the name in {unit} {with_number} ({lines[with_number - 1]}), but not in "
            f"{unit} {without} ({lines[without - 1]}); number every line (0:cat, 1:dog …), or none"
        )
    by_label: dict[int, tuple[int, str]] = {}
    for line, match in enumerate(found, 1):
        assert match is not None
        label = int(match[1])
        if label in by_label:
            raise UsageError(f"{given} has the number {label} in {_several(unit)} {by_label[label][0]} and {line}")
        by_label[label] = line, match[2].strip()
    first = min(by_label) if label_offset is None else label_offset
    labels = sorted(label for label in by_label if label >= first)  # those below are not classes: background
    missing = next((label for label in range(first, first + len(labels)) if label not in by_label), None)
    if missing is not None:
        because = "" if label_offset is None else f", and the first class has data.label_offset={first}"
        raise UsageError(
            f"{given} has no {unit} for label {missing}, but one for {labels[-1]}; its numbers are the labels in the "
            f"records{because}"
        )
    return [by_label[label] for label in labels], first
