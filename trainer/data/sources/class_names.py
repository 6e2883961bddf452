"""Names of classes for data that holds labels as numbers."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from trainer.errors import UsageError

NUMBERED = re.compile(r"(\d{1,9}):(.+)")  # TF-Slim's datasets/dataset_utils.py, write_label_file
OTHERWISE_NUMBERED = re.compile(r"(\d{1,9})[ ,;] *[^ ].*|.*[^ ] *[,;] *(\d{1,9})")  # "0 cat", "cat,0"
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's begin with one of them, or with zero bytes
OTHER_FORMATS = ("{", "[", "item {", "item{", "<")  # JSON, a label map in protocol buffers' text, XML


def numbered(count: int) -> tuple[str, ...]:
    """``class_000``, ``class_001`` …"""
    return tuple(f"class_{number:03d}" for number in range(count))


def read_labels_file(path: Path, label_offset: int) -> tuple[str, ...]:
    """The names in ``data.labels_file``, in label order: one a line, or numbered lines as TF-Slim writes them
    (``0:cat``), whose numbers are the stored labels. The first class has the stored label ``label_offset``.

    A byte order mark, the line ends of any system, and blank lines at the end do not matter.

    Raises:
        UsageError: the file cannot be read, is not UTF-8 or another kind of file, has an empty or repeated line or a
            comment, its numbers have a gap or no colon, or it has fewer than two names.
    """
    given = f"data.labels_file={path}"
    lines = [line.strip() for line in _text(path, given).replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if lines and lines[0].startswith(OTHER_FORMATS):
        raise UsageError(
            f"{given} begins with {lines[0][:20]!r}: it is another kind of file; write one class name a line"
        )
    for line, name in enumerate(lines, 1):
        if not name:
            raise UsageError(f"{given} has no name in line {line}; every line is a class")
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise UsageError(f"{given} has control characters in line {line}: {name!r}")
    names = _numbered_lines(lines, given, label_offset)
    for index, (line, name) in enumerate(names):
        twin = next((other for other, same in names[:index] if same == name), None)
        if twin is not None:
            raise UsageError(f"{given} has {name} in lines {twin} and {line}")
    if len(names) < 2:
        raise UsageError(f"{given} has {len(names)} lines, but at least two classes are needed")
    return tuple(name for _, name in names)


def _text(path: Path, given: str) -> str:
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


def _numbered_lines(lines: list[str], given: str, label_offset: int) -> list[tuple[int, str]]:
    """Line number and name of each class, in label order."""
    found = [NUMBERED.fullmatch(line) for line in lines]
    if not any(found):
        _refuse_misread(lines, given, label_offset)
        return list(enumerate(lines, 1))
    if not all(found):
        with_number = next(line for line, match in enumerate(found, 1) if match)
        without = next(line for line, match in enumerate(found, 1) if not match)
        raise UsageError(
            f"{given} has a number before the name in line {with_number} ({lines[with_number - 1]}), but not in line "
            f"{without} ({lines[without - 1]}); number every line (0:cat, 1:dog …), or none"
        )
    by_label: dict[int, tuple[int, str]] = {}
    for line, match in enumerate(found, 1):
        assert match is not None
        label = int(match[1])
        if label in by_label:
            raise UsageError(f"{given} has the number {label} in lines {by_label[label][0]} and {line}")
        by_label[label] = line, match[2].strip()
    labels = sorted(label for label in by_label if label >= label_offset)  # those below are not classes: background
    missing = next((label for label in range(label_offset, label_offset + len(labels)) if label not in by_label), None)
    if missing is not None:
        raise UsageError(
            f"{given} has no line for label {missing}, but one for {labels[-1]}; its numbers are the labels in the "
            f"records, and the first class has data.label_offset={label_offset}"
        )
    return [by_label[label] for label in labels]
