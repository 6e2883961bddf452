"""Image files that a table names, in CSV, TSV or JSON Lines, with a label in each row.

Records are in the order of the rows. A split is marked in a column, or made by the hash that splits a tree of folders.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import weakref
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.command_line import argument
from trainer.config.contracts import Split
from trainer.config.schema.sources import TableConfig, root_of
from trainer.data.remote.remote_path import RemotePath
from trainer.data.remote.tree import RemoteTree
from trainer.data.sources.division import Division, judge, validating
from trainer.data.sources.folders import AnyFolder, RemoteEntry, RemoteFolder, folder_at, status_of
from trainer.data.sources.image_files import read_file
from trainer.data.sources.image_groups import Grouping
from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.open_files import AnyPath
from trainer.data.sources.packed_images import Image, composed, rank, rank_of_encoded
from trainer.data.sources.remote_images import remote_files
from trainer.data.sources.same_images import in_both
from trainer.data.sources.split_folders import SPLITS
from trainer.data.sources.table_file import beside, table_at
from trainer.data.sources.table_rows import TEST, TRAIN, VALIDATION, Rows, read_rows
from trainer.errors import BadRecord, NoSuchSplit, UsageError, few, one_line
from trainer.storage.unreadable import AWAY, RESOURCES, unusable_record

ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".tif", ".bmp", ".webp", ".gif", ".tiff", ".JPEG", ".PNG")
FOLDERS_SEARCHED = 50  # for a file that is missing

Numbers = npt.NDArray[np.int64]

_HELD: weakref.WeakValueDictionary[tuple[object, ...], Rows] = weakref.WeakValueDictionary()


class TableSplit:
    """One split of a table, as stored. ``whole`` is the number of rows that it is a part of, or that it is.
    ``divided`` says whether a hash parts it from another split.
    """

    def __init__(
        self, config: TableConfig, split: Split, *, undivided: bool = False, say: Callable[[str], object] = print
    ) -> None:
        """With ``undivided``, all rows are in this split, whatever they are marked for. ``say`` gets notes and
        warnings.
        """
        root = root_of(config)
        assert root is not None
        self._root = folder_at(root, config.disk_cache_gigabytes, split)
        self._file = table_at(config)
        rows = _read(config, self._file, self._root, split)
        marked = bool((rows.splits == VALIDATION).any())
        self.divided = split != "test" and not marked
        if split == "train":
            for note in rows.notes:
                say(note)
        if config.folds is not None and marked and split != "test":
            raise UsageError(
                f"data.folds={config.folds} divides all rows for training, and data.split_column="
                f"{config.split_column} marks rows for validation\nset data.split_column=null, or data.folds=null "
                "data.fold=null"
            )
        if config.split_column is not None and config.group_column is not None and not undivided:
            _check_groups_apart(config, rows, split, say)
        here = np.arange(len(rows)) if undivided else _rows_of(config, rows, split)
        self.whole = len(here)
        if self.divided and not undivided:
            here = self._part(config, rows, here, split, say)
        self.class_names = (*rows.class_names, *rows.more_names) if split == "test" else rows.class_names
        self._rows, self._here = rows, here
        self._labels = rows.labels[here].astype(np.int64)
        self._labels[np.isin(here, list(rows.faults))] = UNKNOWN
        self._sizes = self._sizes_of(config, rows, here, split)
        self._remote = remote_files(self._root, self._sizes, split)
        self.ahead = 0 if self._remote is None else self._remote.ahead
        self.count = len(here)

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        return [self._load(int(record)) for record in records], self._labels[records]

    def expect(self, records: Numbers) -> None:
        """``records`` are read soon; see ``Source.expect``."""
        assert self._remote is not None, "files of this machine are not announced"
        usable = (record for record in records.tolist() if int(self._here[record]) not in self._rows.faults)
        self._remote.expect(self._path(record) for record in usable)

    def labels(self) -> Numbers:
        return self._labels

    def place(self, record: int) -> str:
        line = f"line {self._rows.lines[self._here[record]]} of {one_line(self._file.name)}"
        path = self._path(record)
        return f"{one_line(str(self._root / path))} (record {record}, {line})" if path else f"record {record} ({line})"

    def listing(self, records: Numbers) -> str:
        digest = hashlib.sha256()
        for record in records:
            line = f"{composed(self._path(record))}\0{self._labels[record]}\0{self._sizes[record]}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        """Spread over the table: the images of lowest rank."""
        ranks = np.array([rank(self._path(record)) for record in records])
        return np.sort(records[np.argsort(ranks, kind="stable")[:count]])

    def also_in(self, other: TableSplit) -> Numbers:
        """The records that ``other`` has, too; see ``in_both``."""
        return in_both(self._images(), self._load, other._images(), other._load)

    def _images(self) -> Iterator[Image]:
        for record in range(self.count):
            yield self._path(record), int(self._labels[record]), int(self._sizes[record])

    def _path(self, record: int) -> str:
        return self._rows.path(int(self._here[record]))

    def _part(
        self, config: TableConfig, rows: Rows, here: Numbers, split: Split, say: Callable[[str], object]
    ) -> Numbers:
        """Those of the rows ``here`` that are in ``split``, by their hash. What cannot be used is for training."""
        usable = np.array([row not in rows.faults for row in here.tolist()], bool) if rows.faults else None
        good = here if usable is None else here[usable]
        labels, classes = rows.labels[good], rows.class_names
        grouping = None
        if config.group_column is not None:
            numbers, of_images = np.unique(rows.groups[good], return_inverse=True)
            grouping = Grouping(tuple(rows.group_names[number] for number in numbers.tolist()), of_images)
        rule = _rule(config, self._file)
        chosen_classes = None if config.classes is None else frozenset(config.classes)
        used = np.array([chosen_classes is None or name in chosen_classes for name in classes])
        used &= np.bincount(labels, minlength=len(classes)) > 0  # data.labels_file may name more

        def ranks() -> npt.NDArray[np.float64]:
            return np.array([rank_of_encoded(rows.encoded(row)) for row in good.tolist()])

        chosen = validating(rule, labels, ranks, grouping, classes, used)
        if split == "train":
            judge(rule, labels, chosen, grouping, classes, used, say)
            return here[~np.isin(here, good[chosen])]
        return good[chosen]

    def _sizes_of(self, config: TableConfig, rows: Rows, here: Numbers, split: Split) -> Numbers:
        """The size of each file in bytes, int64 ``[n]``; 0 for what ``data.on_bad_record=skip`` leaves out."""
        look = self._look_at(rows, here)
        sizes = array("q")
        missing: list[tuple[int, str]] = []
        for row in here.tolist():
            size, reason = 0, None
            if row not in rows.faults:
                try:
                    found = look(row)
                    size = found.st_size
                    if not stat.S_ISREG(found.st_mode):
                        reason = "is not a file"
                    elif not size:
                        reason = "is empty (0 bytes)"
                except OSError as error:
                    if error.errno in (*AWAY, *RESOURCES):
                        raise unusable_record(str(self._root / rows.path(row)), error) from error
                    reason = "does not exist" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
            if reason is not None:
                missing.append((row, reason))
            sizes.append(size)
        if missing and config.on_bad_record == "fail":
            row, reason = missing[0]
            place = self._root / rows.path(row)
            raise UsageError(
                f"{len(missing)} of {len(here)} files that {self._file} names for {split} cannot be used; the first is "
                f"{one_line(str(place))} (line {rows.lines[row]}), which {reason}\n"
                f"{_elsewhere(self._root, rows.path(row), config)}"
            )
        return np.array(sizes, np.int64)

    def _look_at(self, rows: Rows, here: Numbers) -> Callable[[int], os.stat_result]:
        """What describes the file of a row. Those of the rows ``here`` are looked for first where each would be a
        question to another machine.
        """
        root = self._root
        if isinstance(root, RemoteFolder):
            tree = root.tree
            tree.look_for([rows.path(row) for row in here.tolist() if row not in rows.faults])
            return lambda row: _described(tree, rows.path(row))
        prefix = os.path.join(os.fsencode(root), b"")

        def look(row: int) -> os.stat_result:
            path = rows.encoded(row)
            return os.stat(path if path.startswith(b"/") else prefix + path)

        return look

    def _load(self, record: int) -> bytes:
        fault = self._rows.faults.get(int(self._here[record]))
        if fault is not None:
            raise BadRecord(f"{self.place(record)} {fault}")
        below, size = self._path(record), int(self._sizes[record])
        path = Path(str(self._root), below) if self._remote is None else self._remote.path(below)
        return read_file(path, lambda: self.place(record), "replace it, or remove its row", size)


def _read(config: TableConfig, file: AnyPath, root: AnyFolder, split: Split) -> Rows:
    """The rows of the table, read once for both splits of a run: those that another split holds, if the files are the
    same.
    """
    files = [file] if config.labels_file is None else [file, beside(file, config.labels_file)]
    key = (config, str(root), split == "test", *map(_state_of, files))
    rows = _HELD.get(key)
    if rows is None:
        rows = _HELD[key] = read_rows(config, file, root, split)
    return rows


def _state_of(file: AnyPath) -> tuple[object, int] | None:
    """What says that a file is the same; None where there is none."""
    if isinstance(file, RemotePath):
        state = file.state()
        return state.version, state.size
    if not file.is_file():
        return None
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _described(tree: RemoteTree, path: str) -> os.stat_result:
    """
    Raises:
        FileNotFoundError: it is not there.
    """
    state = tree.state(path)
    if state is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return status_of(RemoteEntry(RemoteFolder(tree, path), state))


def _rows_of(config: TableConfig, rows: Rows, split: Split) -> Numbers:
    """The rows marked for ``split``; where none is marked for validation, those for training, which are divided.

    Raises:
        UsageError: there are none.
    """
    code = SPLITS.index(split)
    if code == VALIDATION and not (rows.splits == VALIDATION).any():
        code = TRAIN
    here = np.flatnonzero(rows.splits == code)
    if len(here):
        return here
    if config.split_column is None:
        assert code == TEST, "without a column every row is for training"
        raise NoSuchSplit(
            f"data.file={config.file} has no test split: data.split_column=null, and all of its rows train and "
            "validate\na test set is marked in a column, or is a table of its own: data.file=FILE"
        )
    raise NoSuchSplit(
        f"data.split_column={config.split_column} of data.file={config.file} marks no row for {SPLITS[code]}"
    )


def _check_groups_apart(config: TableConfig, rows: Rows, split: Split, say: Callable[[str], object]) -> None:
    """Refuse a group in ``split`` that an earlier split has too: the column decides here, and it divides the group.
    Training warns of those that the test set has: whoever evaluates it would hear of them too late.
    """
    for other in SPLITS[: SPLITS.index(split)]:
        reason = _in_both(config, rows, other, split)
        if reason is not None:
            raise UsageError(f"{reason}\nmark the rows of each for one of them, or set data.group_column=null")
    reason = _in_both(config, rows, split, "test") if split == "train" else None
    if reason is not None:
        say(f"warning: {reason}")


def _in_both(config: TableConfig, rows: Rows, split: Split, later: Split) -> str | None:
    """Which groups have rows in two splits, and what that means; None where there are none."""
    of_splits = (rows.groups[(rows.groups >= 0) & (rows.splits == SPLITS.index(each))] for each in (split, later))
    both = np.intersect1d(*of_splits)
    if not len(both):
        return None
    names = sorted(rows.group_names[number] for number in both.tolist())
    return (
        f"{len(both)} groups of data.group_column={config.group_column} have rows for {split} and for {later} in "
        f"{config.file}, so {later} is no test of what is learned in {split}: {few(names)}"
    )


def _rule(config: TableConfig, file: AnyPath) -> Division:
    return Division(
        share=config.validation_share,
        folds=config.folds,
        fold=config.fold,
        by_path=False,
        place=str(file),
        class_place=lambda name: f"the class {name} in {file}",
        group_key="data.group_column",
        group_value=config.group_column,
        beside="or mark rows for validation in a column: data.split_column=COLUMN",
    )


def _elsewhere(root: AnyFolder, path: str, config: TableConfig) -> str:
    """Where a missing file seems to be, and what says so; else what can be done."""
    endings = ("", *ENDINGS) if not config.path_suffix else ("",)
    if isinstance(root, RemoteFolder):
        folders, tree = [str(root)], root.tree
        tree.look_for([path + ending for ending in endings])
        is_file: Callable[[str], bool] = partial(_is_below, root)
    else:
        with os.scandir(root) as entries:
            inside = sorted(entry.path for entry in entries if entry.is_dir())[:FOLDERS_SEARCHED]
        folders, is_file = [str(root), os.path.dirname(root), *inside], os.path.isfile
    for folder in folders:
        for ending in endings:
            place = os.path.join(folder, path + ending)
            if not os.path.isabs(path) and is_file(place):
                keys = [argument("data.root", folder)] if folder != str(root) else []
                keys += [argument("data.path_suffix", ending)] if ending else []
                return f"there is {one_line(place)}: set {' '.join(keys)}"
    return (
        f"paths are relative to data.root, now {root}; bring the files, remove the rows, or have them left out and "
        "counted: data.on_bad_record=skip"
    )


def _is_below(root: RemoteFolder, place: str) -> bool:
    return root.entry_at(place).is_file()
