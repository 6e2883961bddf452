"""The cells of a table in a text file: CSV in its usual dialects, TSV, or JSON Lines."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from trainer.config.schema.sources import TableConfig
from trainer.config.urls import is_url
from trainer.data.remote.remote_path import RemotePath, RemoteStream, remote_root
from trainer.data.sources.open_files import AnyPath
from trainer.errors import UsageError, few, nearest, one_line
from trainer.storage.unreadable import refuse_unreadable

JSON_LINES = (".jsonl", ".ndjson")
TAB_SEPARATED = (".tsv", ".tab")
OPTIONAL = ("data.split_column", "data.group_column")  # keys of columns that a table need not have
DELIMITERS = (",", ";", "\t")  # a spreadsheet writes semicolons where the comma is the decimal sign
AT_ONCE = 1 << 16  # bytes that are read of a table on another machine
BEGIN = 4096  # bytes that tell a text from other files
UTF_32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Cells = tuple[str, ...]


def read_cells(path: AnyPath, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | str]]:
    """Each row of the table below its header: the number of its first line, counted from 1, and its cells in the
    ``columns`` (key → name), or the reason why it has none. Space around a cell is no part of it. Rows without a
    character are passed over.

    Raises:
        UsageError: the file cannot be read, is no such text, or lacks a column.
    """
    encoding = _encoding(path)
    try:
        with _opened(path, encoding) as file:
            if _ending(path) in JSON_LINES:
                yield from _json_cells(path, file, columns)
            else:
                yield from _delimited_cells(path, file, columns)
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"data.file={path} is not UTF-8 ({error.reason}); save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        ) from error


def has_column(path: AnyPath, columns: Mapping[str, str], key: str, name: str) -> bool:
    """Whether the table has a column ``name`` beside ``columns``, without which it cannot be read anyway.

    Raises:
        UsageError: as ``read_cells`` of ``columns``.
    """
    next(read_cells(path, columns), None)
    try:
        next(read_cells(path, {**columns, key: name}), None)
    except UsageError:
        return False
    return True


def table_at(config: TableConfig) -> AnyPath:
    """``data.file``, on this machine or another one, as it is now.

    Raises:
        UsageError: there is no way to its machine, or it is not there.
    """
    if not is_url(config.file):
        return Path(config.file)
    folder, _, name = config.file.rpartition("/")
    return _as_it_is(remote_root(folder, config.disk_cache_gigabytes) / name)


def beside(path: AnyPath, name: str) -> AnyPath:
    """The file ``name`` in the folder of a table, or below it, as it is now."""
    return path.parent / name if isinstance(path, Path) else _as_it_is(path.root / name)


def _as_it_is(path: RemotePath) -> RemotePath:
    return dataclasses.replace(path, found=path.state())


def _ending(path: AnyPath) -> str:
    return os.path.splitext(path.name)[1].lower()


def _opened(path: AnyPath, encoding: str) -> TextIO:
    if isinstance(path, Path):
        return path.open(encoding=encoding, newline="")
    return io.TextIOWrapper(io.BufferedReader(RemoteStream(path), AT_ONCE), encoding, newline="")


def _unreadable(path: AnyPath, error: OSError) -> UsageError:
    """
    Raises:
        Unreadable: the system does not let this process read the file now.
    """
    if isinstance(path, Path):
        refuse_unreadable(path, error)
        if path.is_dir():
            return UsageError(f"data.file={path} is a directory")
    return UsageError(f"data.file={path} cannot be read: {error.strerror}")


def _encoding(path: AnyPath) -> str:
    """How the file is encoded, by its byte order mark.

    Raises:
        UsageError: it cannot be read, is empty, or is not a text.
    """
    given = f"data.file={path}"
    try:
        with RemoteStream(path) if isinstance(path, RemotePath) else path.open("rb") as file:
            begin = file.read(BEGIN)
    except OSError as error:
        raise _unreadable(path, error) from error
    assert begin is not None, "nothing here reads without waiting"
    if not begin:
        raise UsageError(f"{given} is empty (0 bytes); write or copy it again")
    packed = next((name for mark, name in COMPRESSED.items() if begin.startswith(mark)), None)
    if packed is not None:
        raise UsageError(f"{given} is compressed with {packed}; unpack it")
    if begin.startswith(b"PK\x03\x04"):
        raise UsageError(f"{given} is a spreadsheet or another ZIP file, not a text; save the sheet as CSV UTF-8")
    if begin.startswith(b"PAR1"):
        raise UsageError(f"{given} is a Parquet file, not a text; write its columns as CSV")
    if begin.startswith(UTF_32_MARKS):
        return "utf-32"
    if begin.startswith(UTF_16_MARKS):
        return "utf-16"
    if b"\0" in begin:
        raise UsageError(f"{given} is not a text: it has zero bytes")
    return "utf-8-sig"


def _delimited_cells(path: AnyPath, file: TextIO, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | str]]:
    delimiter = _delimiter(path, file.readline(), columns)
    file.seek(0)
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [cell.strip() for cell in next(rows)]
        places = _places(path, header, columns)
        width = len(header)
        line = rows.line_num + 1
        for row in rows:
            if any(map(str.strip, row)):  # spreadsheets write rows of delimiters alone
                fits = len(row) == width or (len(row) > width and not any(map(str.strip, row[width:])))
                cells = tuple([row[place].strip() for place in places]) if fits else None
                yield line, cells or f"has {len(row)} cells, but the header has {width}"
            line = rows.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"data.file={path} cannot be read in the row that begins in line {line}: {error}\n"
            "a quote within quotes is written twice, and every quote that opens is closed"
        ) from error


def _delimiter(path: AnyPath, first: str, columns: Mapping[str, str]) -> str:
    """What separates the cells: a tab where the file's name says so, else the one with which the header has the
    columns; of several, or where none has them, the one with the most cells.
    """
    if _ending(path) in TAB_SEPARATED:
        return "\t"
    if not first.strip():
        raise UsageError(f"data.file={path} begins with an empty line; its first line must name the columns")
    found: dict[str, tuple[bool, int]] = {}
    for delimiter in DELIMITERS:
        header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
        found[delimiter] = set(columns.values()) <= set(header), len(header)
    return max(DELIMITERS, key=lambda delimiter: found[delimiter])


def _places(path: AnyPath, header: Sequence[str], columns: Mapping[str, str]) -> list[int]:
    for key, name in columns.items():
        _require(path, header, key, name)
        if header.count(name) > 1:
            raise UsageError(f"data.file={path} has {header.count(name)} columns {name} ({key}); rename all but one")
    return [header.index(name) for name in columns.values()]


def _require(path: AnyPath, header: Sequence[str], key: str, name: str) -> None:
    """Raise ``UsageError`` when there is no column of that name."""
    if name not in header:
        there = [one_line(each) for each in header if each]
        raise UsageError(
            f"data.file={path} has no column {name} ({key}); its columns are {few(there)}{nearest(name, there)}\n"
            f"name the right one: {key}=COLUMN{f', or set {key}=null' if key in OPTIONAL else ''}"
        )


def _json_cells(path: AnyPath, file: TextIO, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | str]]:
    first = True
    for line, text in enumerate(file, 1):
        if text.isspace():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            row = None
            fault = f"is not JSON: {error}"
        else:
            fault = "is not a JSON object"
        if not isinstance(row, dict):
            if first:
                raise UsageError(
                    f"data.file={path} line {line} {fault}; in {_ending(path)} every line is an object "
                    f'of the columns: {{"path": "a.jpg", "label": "cat"}}'
                )
            yield line, fault
            continue
        if first:
            for key, name in columns.items():
                _require(path, list(row), key, name)
            first = False
        cells = [_json_text(row.get(name)) for name in columns.values()]
        odd = next((name for name, cell in zip(columns.values(), cells, strict=True) if cell is None), None)
        yield line, tuple(cell or "" for cell in cells) if odd is None else f"has no text or number in {odd}"


def _json_text(value: object) -> str | None:
    """A value of JSON as a cell of CSV; None for a list or an object."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):  # NaN is no JSON, but is written
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None
