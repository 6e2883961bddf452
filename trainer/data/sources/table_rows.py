"""The rows of a table of images as columns of numbers, and what is wrong with each row that cannot be used."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import TableConfig
from trainer.config.urls import is_url
from trainer.data.sources.class_names import DECIMAL, alike, labels_by_text, labels_by_value, read_label_names
from trainer.data.sources.folders import AnyFolder, RemoteFolder
from trainer.data.sources.open_files import AnyPath
from trainer.data.sources.split_folders import SPLITS, split_named
from trainer.data.sources.table_file import beside, read_cells
from trainer.errors import Nearest, UsageError, brief, few, one_line

WHOLE = re.compile(r"\.0+$")  # as pandas writes the integers of a column that has empty cells
NONE = -1  # no label, no split, no group
# what programs write for an empty cell, in any case; "none" may well be a class
MISSING = frozenset({"nan", "<na>", "n/a", "#n/a", "nat", "null"})
TRAIN, VALIDATION, TEST = range(len(SPLITS))

Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a table, ``n`` of them. ``ends``, int64 ``[n + 1]``, cuts the ``packed`` paths; ``lines`` int64
    ``[n]`` are their lines in the file, ``labels`` int32 ``[n]`` their classes, ``splits`` int8 ``[n]`` the places of
    their splits in ``SPLITS``, and ``groups`` int64 ``[n]`` their groups in ``group_names``; each ``NONE`` where there
    is none. ``faults`` says for each row that cannot be used why. ``class_names`` are those of the rows for training,
    ``more_names`` those that only the test set has; their labels follow.
    """

    packed: bytearray
    ends: Numbers
    lines: Numbers
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    groups: Numbers
    class_names: tuple[str, ...]
    more_names: tuple[str, ...]
    group_names: tuple[str, ...]
    faults: Mapping[int, str]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def path(self, row: int) -> str:
        """The path of a row below the folder of the images, or from the root of the file system."""
        return os.fsdecode(self.encoded(row))

    def encoded(self, row: int) -> bytes:
        return bytes(self.packed[self.ends[row] : self.ends[row + 1]])


class _Column:
    """The distinct texts of a column, each with a number in the order of its first row."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.of_rows = array("q")

    def add(self, text: str) -> None:
        if not text:
            self.of_rows.append(NONE)
            return
        number = self.numbers.get(text)
        if number is None:
            number = self.numbers[text] = len(self.numbers)
        self.of_rows.append(number)


def read_rows(config: TableConfig, file: AnyPath, root: AnyFolder, split: Split) -> Rows:
    """The rows of ``data.file``, which is ``file``, whose paths are relative to ``root``.

    Raises:
        UsageError: the file cannot be read as a table, or ``data.on_bad_record=fail`` and rows of it cannot be used;
            says how many, why, and which is the first. Rows of the test set matter where that is the ``split``, and
            the others where it is not.
    """
    optional = {"data.split_column": config.split_column, "data.group_column": config.group_column}
    columns = {"data.path_column": config.path_column, "data.label_column": config.label_column}
    columns |= {key: name for key, name in optional.items() if name is not None}
    places = {key: place for place, key in enumerate(columns)}
    split_at, group_at = places.get("data.split_column"), places.get("data.group_column")
    packed, ends, lines = bytearray(), array("q", [0]), array("q")
    labels, splits, groups = _Column(), _Column(), _Column()
    faults = _Faults()
    hashes, nothing = array("q"), ("",) * len(columns)
    suffix, remote = config.path_suffix, isinstance(root, RemoteFolder)
    base = f"{root}/" if isinstance(root, RemoteFolder) else os.path.join(os.path.abspath(root), "")
    for line, found in read_cells(file, columns):
        row = len(lines)
        lines.append(line)
        cells = found if isinstance(found, tuple) else nothing
        if isinstance(found, str):
            faults.add(row, "rows that are not as long as the header, or no rows at all", found)
        elif not all(cells):
            empty = next(name for name, cell in zip(columns.values(), cells, strict=True) if not cell)
            faults.add(row, f"rows with nothing in {empty}", f"has nothing in {empty}")
        elif "\0" in cells[0]:
            faults.add(row, "rows whose path is no text", "has a zero byte in its path")
        path = _normal(cells[0].removeprefix(base) if remote else cells[0], suffix, base) if cells[0] else ""
        if remote and (path.startswith(("/", "../")) or is_url(cells[0].removeprefix(base))):
            faults.add(row, "rows whose file is not below data.root", f"names {cells[0]}, which is not below {base}")
        try:
            packed += path.encode("utf-8")  # whatever the locale of this process makes of file names
        except UnicodeEncodeError:
            faults.add(row, "rows whose path is no text", "has half a surrogate pair in its path")
        ends.append(len(packed))
        hashes.append(hash(path))
        labels.add(cells[1])
        if split_at is not None:
            splits.add(cells[split_at])
        if group_at is not None:
            groups.add(cells[group_at])
    if not lines:
        raise UsageError(f"data.file={file} has no row below its header; write one for each image")
    rows = Rows(
        packed=packed,
        ends=np.array(ends, np.int64),
        lines=np.array(lines, np.int64),
        labels=np.zeros(len(lines), np.int32),
        splits=_splits(config, splits, faults) if split_at is not None else np.zeros(len(lines), np.int8),
        groups=np.full(len(lines), NONE, np.int64) if group_at is None else np.array(groups.of_rows, np.int64),
        class_names=(),
        more_names=(),
        group_names=tuple(groups.numbers),
        faults=faults.of_rows,
        notes=(),
    )
    kept, notes = _without_repetitions(rows, labels, np.array(hashes, np.int64), faults)
    names, others, of_texts, more = _classes(config, file, labels, rows.splits, faults)
    classes = np.append(of_texts, np.int32(NONE))[np.array(labels.of_rows, np.int64)]
    more += _named_missing(config.label_column, "label_column", labels, "trained as a class")
    if config.group_column is not None:
        more += _named_missing(config.group_column, "group_column", groups, "kept together as one group")
    rows = dataclasses.replace(rows, labels=classes, class_names=names, more_names=others, notes=(*notes, *more))
    faults.refuse(config, rows, (rows.splits == TEST) == (split == "test"))
    return rows if kept is None else _only(rows, kept)


def _normal(cell: str, suffix: str, base: str) -> str:
    """A path as it is written in a table, below ``base`` or from the root of the file system."""
    path = (cell.replace("\\", "/") if "\\" in cell else cell) + suffix
    if "//" in path or "./" in path or path.endswith(("/", ".")):
        path = os.path.normpath(path)
    return path.removeprefix(base) if path.startswith("/") else path


class _Faults:
    """What is wrong with rows: for each its reason, and the kind of fault that it is. The first reason counts."""

    def __init__(self) -> None:
        self.of_rows: dict[int, str] = {}
        self._kinds: dict[int, str] = {}

    def add(self, row: int, kind: str, reason: str) -> None:
        if row not in self.of_rows:
            self.of_rows[row] = reason
            self._kinds[row] = kind

    def refuse(self, config: TableConfig, rows: Rows, matters: npt.NDArray[np.bool_]) -> None:
        """Raise ``UsageError`` when rows that matter, bool ``[n]``, cannot be used and are not to be left out."""
        those = sorted(row for row in self.of_rows if matters[row])
        if not those or config.on_bad_record == "skip":
            return
        first: dict[str, int] = {}
        for row in those:
            first.setdefault(self._kinds[row], row)
        lines = []
        for kind, count in Counter(self._kinds[row] for row in those).most_common():
            row = first[kind]
            lines.append(f"  {count} {kind}; the first, line {rows.lines[row]}, {one_line(self.of_rows[row])}\n")
        raise UsageError(
            f"{len(those)} of {int(matters.sum())} rows of data.file={config.file} cannot be used:\n{''.join(lines)}"
            "correct them, or have them left out and counted: data.on_bad_record=skip"
        )


def _splits(config: TableConfig, column: _Column, faults: _Faults) -> npt.NDArray[np.int8]:
    """The split of each row: training where it has none."""
    values = np.array(column.of_rows, np.int64)
    named = {text: split_named(text) for text in column.numbers}
    codes = np.array([NONE if split is None else SPLITS.index(split) for split in named.values()] + [NONE], np.int8)
    found = codes[values]
    strange = [text for text, split in named.items() if split is None]
    if strange and len(strange) == len(named):
        raise UsageError(
            f"data.split_column={config.split_column} of {config.file} has no names of splits, but {few(strange)}\n"
            "they are train, validation and test, and training, val, valid, dev, eval, testing, in any case"
        )
    texts = list(named)
    for row in np.flatnonzero((found == NONE) & (values != NONE)).tolist():
        text = brief(texts[values[row]])
        faults.add(row, "rows whose split is none of train, validation and test", f"has the split {text}")
    return np.maximum(found, 0).astype(np.int8)


def _without_repetitions(
    rows: Rows, labels: _Column, hashes: Numbers, faults: _Faults
) -> tuple[npt.NDArray[np.bool_] | None, list[str]]:
    """Which rows repeat no earlier one, None when none does; a file with two meanings is a fault of all its rows."""
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    if len(first) == len(rows):
        return None, []
    several = np.flatnonzero(np.isin(hashes, hashes[first[counts > 1]]))
    kept = np.ones(len(rows), bool)
    names = list(labels.numbers)
    seen: dict[str, list[int]] = {}
    for row in several.tolist():
        if row not in rows.faults:
            path = rows.path(row)
            seen.setdefault(path, []).append(row)
    dropped = 0
    for path, those in seen.items():
        if len(those) < 2:
            continue
        meanings = {(labels.of_rows[row], int(rows.splits[row]), int(rows.groups[row])) for row in those}
        if len(meanings) == 1:
            kept[those[1:]] = False
            dropped += len(those) - 1
            continue
        texts = list(dict.fromkeys(names[labels.of_rows[row]] for row in those))
        what = f"labels {few([brief(text) for text in texts])}" if len(texts) > 1 else "other splits or groups"
        places = " and ".join(str(rows.lines[row]) for row in those[:2])
        for row in those:
            faults.add(
                row,
                "rows that name a file again with another label, split or group",
                f"names {path}, which lines {places} have with {what}",
            )
    if not dropped:
        return None, []
    again = int(np.flatnonzero(~kept)[0])
    note = f"{dropped} rows repeat an earlier one and are read once; the first is line {rows.lines[again]}: "
    return kept, [f"warning: {note}{one_line(rows.path(again))}"]


def _classes(
    config: TableConfig, file: AnyPath, column: _Column, splits: npt.NDArray[np.int8], faults: _Faults
) -> tuple[tuple[str, ...], tuple[str, ...], npt.NDArray[np.int32], list[str]]:
    """Class names, those that only the test set has, the class of each distinct text, int32, and notes."""
    texts = list(column.numbers)
    values = np.array(column.of_rows, np.int64)
    if config.labels_file is not None:
        names, of_texts = _listed(config, file, texts)
        hints = Nearest(names)
        for row in np.flatnonzero((values != NONE) & (np.append(of_texts, 0)[values] == NONE)).tolist():
            text = texts[values[row]]
            faults.add(
                row, "rows whose label is not in data.labels_file", f"has the label {brief(text)}{hints.to(text)}"
            )
        return names, (), of_texts, []
    usable = values != NONE
    usable[list(faults.of_rows)] = False

    def of(those: npt.NDArray[np.bool_]) -> dict[str, None]:
        return dict.fromkeys(texts[number] for number in np.unique(values[those & usable]).tolist())

    # whatever lies beside the classes that are chosen is no obstacle
    training = splits == TRAIN if (splits == TRAIN).any() else splits == VALIDATION
    trained = of(training | ((splits == VALIDATION) & (config.classes is not None)))
    names, numbers = ordered(list(trained), config.label_column)
    meant = {text: names[number] for text, number in numbers.items()}
    known, numeric = set(names), all(map(DECIMAL.fullmatch, names))
    spelled = {text: _spelled(text, numeric=numeric and DECIMAL.fullmatch(text) is not None) for text in texts}
    meant |= {text: name for text, name in spelled.items() if name in known}  # other splits may write 1.0 for 1
    held_out = [text for text in of(splits == TEST) if text not in meant]
    others, more_numbers = ordered(held_out, config.label_column)
    more = [name for name in others if name not in known]
    place = {name: label for label, name in enumerate((*names, *more))}
    meant |= {text: others[number] for text, number in more_numbers.items()}
    of_texts = np.array([place[meant[text]] if text in meant else NONE for text in texts], np.int32)
    found = np.append(of_texts, np.int32(NONE))[values]
    untrained = (splits == VALIDATION) & usable & ((found == NONE) | (found >= len(names)))
    hints = Nearest(names)
    for row in np.flatnonzero(untrained).tolist():
        text = texts[values[row]]
        faults.add(
            row,
            "rows for validation whose label no row for training has",
            f"has the label {brief(text)}{hints.to(text)}",
        )
    return names, tuple(more), of_texts, alike(names)


def _listed(config: TableConfig, file: AnyPath, texts: Sequence[str]) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """The classes of ``data.labels_file``, and the class of each text: the name in it, or else the number of one.

    Raises:
        UsageError: some texts are numbers that name classes, and others can only be numbers of classes.
    """
    assert config.labels_file is not None
    found = read_label_names(beside(file, config.labels_file), None)
    by_text, by_value = labels_by_text(found.names), labels_by_value(found.names)
    labels = np.full(len(texts), NONE, np.int32)
    named: list[str] = []  # numbers that name another class than the one which they count
    counted: list[str] = []
    for place, text in enumerate(texts):
        label = by_text.get(unicodedata.normalize("NFC", text), NONE)
        if not DECIMAL.fullmatch(text):
            labels[place] = label
            continue
        value = Decimal(text)
        label = label if label != NONE else by_value.get(value, NONE)
        number = int(value) - found.first if value == int(value) else NONE
        if label != NONE:
            named += [text] if label != number else []
        elif 0 <= number < len(found.names):
            label = number
            counted.append(text)
        labels[place] = label
    if named and counted:
        raise UsageError(
            f"data.label_column={config.label_column} has {named[0]}, which is the name of a class in "
            f"data.labels_file={config.labels_file}, and {counted[0]}, which is no name there and can only be the "
            f"number of the class {found.names[int(Decimal(counted[0])) - found.first]}\n"
            "write the name of the class in every row"
        )
    return found.names, labels


def ordered(texts: Sequence[str], column: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes that labels mean, in order, and the class of each text. Numbers are ordered as numbers, else names
    are sorted; ``1.0`` is ``1``.

    Raises:
        UsageError: two texts are the same number, or a text cannot name a class.
    """
    numeric = all(DECIMAL.fullmatch(text) for text in texts)
    meant = {text: _spelled(text, numeric=numeric) for text in texts}
    names = sorted(set(meant.values()), key=Decimal if numeric else None)
    if numeric:
        twins = [(one, two) for one, two in itertools.pairwise(names) if Decimal(one) == Decimal(two)]
        if twins:
            raise UsageError(
                f"data.label_column={column} has {twins[0][0]} and {twins[0][1]}, which are the same number; write it "
                "in one way"
            )
    for name in names:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise UsageError(
                f"data.label_column={column} has {one_line(name)!r}, which cannot name a class, because it has control "
                "characters"
            )
    place = {name: number for number, name in enumerate(names)}
    return tuple(names), {text: place[name] for text, name in meant.items()}


def _spelled(text: str, *, numeric: bool) -> str:
    """The name of the class that a label means; where labels are numbers, a whole one without a fraction."""
    return WHOLE.sub("", text) if numeric else unicodedata.normalize("NFC", text)


def _named_missing(name: str, key: str, column: _Column, what: str) -> list[str]:
    """A warning where cells look like what a program writes for nothing."""
    found = [text for text in column.numbers if text.casefold() in MISSING]
    count = int(np.isin(np.array(column.of_rows, np.int64), [column.numbers[text] for text in found]).sum())
    if not found:
        return []
    return [
        f"warning: {count} rows have {few(found)} in data.{key}={name}, and are {what}; if it means that nothing is "
        "known, leave the cells empty or remove the rows"
    ]


def _only(rows: Rows, kept: npt.NDArray[np.bool_]) -> Rows:
    """The rows that are ``kept``, bool ``[n]``."""
    chosen = np.flatnonzero(kept)
    packed, ends = bytearray(), array("q", [0])
    for row in chosen.tolist():
        packed += rows.packed[rows.ends[row] : rows.ends[row + 1]]
        ends.append(len(packed))
    new = {old: number for number, old in enumerate(chosen.tolist())} if rows.faults else {}
    return dataclasses.replace(
        rows,
        packed=packed,
        ends=np.array(ends, np.int64),
        lines=rows.lines[chosen],
        labels=rows.labels[chosen],
        splits=rows.splits[chosen],
        groups=rows.groups[chosen],
        faults={new[row]: reason for row, reason in rows.faults.items() if row in new},
    )
