"""One Parquet file: a column of bytes, a column of labels, and an index of what lies where in it."""

from __future__ import annotations

import json
from array import array
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.remote.remote_path import RemotePath, RemoteStream
from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.open_files import AnyPath, OpenFile, open_file
from trainer.data.sources.parquet_pages import Damaged, NotPlain, may_be_plain, value_places
from trainer.data.sources.stored_labels import NoLabel, StoredLabels
from trainer.errors import UsageError, nearest, one_line
from trainer.storage.filesystems import RemoteError

INSTALL = "pip install 'resumable-trainer[parquet]'"
BYTES = "bytes"  # the field of datasets' images that holds the encoded image; the other is the path it had
NOT_THERE = -1
LABEL_KEY = "data.label_column"
AGAIN = "\nwrite or copy it again"


class ValueIndex(NamedTuple):
    """Where the values of a column of bytes are, in a file of n rows in g row groups.

    ``begin`` int64 and ``size`` uint32 ``[n]`` are first byte and bytes of each value, ``NOT_THERE`` and 0 where it
    cannot be read by itself. ``rows`` int64 ``[g]`` and ``unpacked`` int64 ``[g]`` are the rows of each row group, and
    the bytes of its values when they are read.
    """

    begin: npt.NDArray[Any]
    size: npt.NDArray[Any]
    rows: npt.NDArray[Any]
    unpacked: npt.NDArray[Any]


def pyarrow() -> Any:
    """The module.

    Raises:
        UsageError: it is not installed; has the command that installs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"data=parquet needs pyarrow: {INSTALL}\n({error})") from error
    return pyarrow


def reason_of(error: BaseException) -> str:
    """The first line of what pyarrow says, for messages."""
    text = str(error).strip() or type(error).__name__
    return one_line(text.splitlines()[0][:200])


def failures() -> tuple[type[BaseException], ...]:
    """What pyarrow raises for files that it cannot read."""
    return (pyarrow().ArrowException, OSError, ValueError, MemoryError, OverflowError, KeyError, NotImplementedError)


def open_parquet(path: AnyPath) -> Any:
    """pyarrow's ``ParquetFile``. Checksums of pages are compared, where the file has them. It must be closed: pyarrow's
    threads may keep it open when nobody uses it any more.

    Raises:
        UsageError: it is no Parquet file, or its metadata are damaged.
    """
    arrow = pyarrow()
    try:
        place = RemoteStream(path) if isinstance(path, RemotePath) else path
        file = arrow.parquet.ParquetFile(place, page_checksum_verification=True)
        metadata = file.metadata
        rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        file.schema_arrow  # noqa: B018  # fails for metadata that are damaged
    except RemoteError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except failures() as error:
        raise UsageError(
            f"{path} is not a Parquet file, was cut off or is damaged: {reason_of(error)}{AGAIN}"
        ) from error
    if rows != metadata.num_rows:
        raise UsageError(
            f"{path} is damaged: it should have {metadata.num_rows} rows, and its row groups have {rows}{AGAIN}"
        )
    return file


def bytes_path(path: AnyPath, file: Any, column: str, key: str) -> str:
    """The dotted path of the column with the bytes: ``column`` itself, or its field ``bytes``. ``key`` is the key that
    names it.

    Raises:
        UsageError: there is no such column, or it has no bytes.
    """
    kind = _type(path, file, key, column)
    if _is_binary(kind):
        return column
    if pyarrow().types.is_struct(kind) and kind.get_field_index(BYTES) >= 0 and _is_binary(kind.field(BYTES).type):
        return f"{column}.{BYTES}"
    raise UsageError(
        f"{path} has {kind} in {key}={column}, but it must be binary, or a struct with the binary field {BYTES}, as "
        f"datasets writes an Image: the bytes of image files\nwrite it so, or name another column: {key}=COLUMN"
    )


def _is_binary(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _type(path: AnyPath, file: Any, key: str, column: str) -> Any:
    schema = file.schema_arrow
    if schema.names.count(column) != 1:
        there = ", ".join(map(one_line, schema.names[:8])) or "none"
        raise UsageError(
            f"{path} has no column {column} ({key}), only {there}{nearest(column, schema.names)}"
            if column not in schema.names
            else f"{path} has several columns {column} ({key})"
        )
    return schema.field(column).type


def class_names(path: AnyPath, label_column: str) -> tuple[str, ...] | None:
    """The names that datasets has written beside a column of ``ClassLabel``; None where there are none."""
    with open_parquet(path) as file:
        stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"")
    try:
        feature = json.loads(stored)["info"]["features"][label_column]
        names = feature["names"]
        texts = feature["_type"] == "ClassLabel" and all(isinstance(name, str) for name in names)
    except (TypeError, KeyError, ValueError):
        return None
    return tuple(names) if texts else None


def index_values(path: AnyPath, column: str, key: str) -> ValueIndex:
    """The index of a column of bytes; reads what lies between its values, not the values.

    Raises:
        UsageError: the file cannot be read, has no such column, or is damaged.
    """
    with open_parquet(path) as file:
        metadata = file.metadata
        leaf = _leaf(path, metadata, bytes_path(path, file, column, key))
        optional = file.schema.column(leaf).max_definition_level > 0
    begins, sizes = array("q"), array("I")
    rows, unpacked = [], []
    opened = open_file(path, in_order=True)
    try:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunk = group.column(leaf)
            rows.append(group.num_rows)
            unpacked.append(chunk.total_uncompressed_size)
            before = len(begins)
            try:
                _plain_places(opened, chunk, group.num_rows, begins, sizes, optional=optional)
            except NotPlain:
                del begins[before:], sizes[before:]
                begins.extend([NOT_THERE] * group.num_rows)
                sizes.extend([0] * group.num_rows)
            except Damaged as error:
                raise UsageError(
                    f"{path} is damaged in {key}={column} of row group {number}: {error}{AGAIN}"
                ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        opened.close()
    return ValueIndex(
        np.array(begins, np.int64), np.array(sizes, np.uint32), np.array(rows, np.int64), np.array(unpacked, np.int64)
    )


def _leaf(path: AnyPath, metadata: Any, wanted: str) -> int:
    """The number of the column in the file that has this dotted path."""
    for number in range(metadata.num_columns):
        if metadata.schema.column(number).path == wanted:
            return number
    raise UsageError(f"{path} is damaged: its schema names {wanted}, but there is no such column{AGAIN}")


def _plain_places(
    file: OpenFile, chunk: Any, rows: int, begins: array[int], sizes: array[int], *, optional: bool
) -> None:
    if not may_be_plain(chunk):
        raise NotPlain
    if chunk.num_values != rows:
        raise Damaged(f"it should have {rows} values, and has {chunk.num_values}")
    begin = chunk.data_page_offset
    end = begin + chunk.total_compressed_size
    if not 0 < begin <= end <= file.size:
        raise Damaged(f"its bytes should be {begin} to {end}, but the file has {file.size}")
    value_places(file, begin, end, rows, optional=optional, begins=begins, sizes=sizes)


def index_labels(path: AnyPath, column: str, labels: StoredLabels) -> npt.NDArray[np.int32]:
    """The labels of all rows, int32 ``[n]``; ``UNKNOWN`` where there is none.

    Raises:
        UsageError: the file cannot be read, has no such column, or is damaged.
    """
    with open_parquet(path) as file:
        found = _labels(path, file, column, labels)
        rows = file.metadata.num_rows
    if len(found) != rows:
        raise UsageError(f"{path} is damaged: it has {len(found)} labels in {rows} rows{AGAIN}")
    return found


def _labels(path: AnyPath, file: Any, name: str, labels: StoredLabels) -> npt.NDArray[np.int32]:
    arrow = pyarrow()
    kind = _type(path, file, LABEL_KEY, name)
    try:
        column = file.read(columns=[name]).column(name).combine_chunks()
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
            column = column.cast(kind)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        if arrow.types.is_integer(kind):
            # first signed, because -1 is no number of an unsigned column; one beyond int64 becomes negative: no label
            signed = column.cast(arrow.int64(), safe=False)
            stored = signed.fill_null(labels.offset - 1).to_numpy(zero_copy_only=False)
            known = ~missing & (stored >= labels.offset) & (stored < labels.offset + labels.num_classes)
            return np.where(known, stored - labels.offset, UNKNOWN).astype(np.int32)
        if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
            codes = column.dictionary_encode()
            texts = np.array([*(_of_text(labels, text) for text in codes.dictionary.to_pylist()), UNKNOWN], np.int32)
            return texts[codes.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)]
    except RemoteError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except failures() as error:
        raise UsageError(
            f"{path} cannot be read in {LABEL_KEY}={name}; it is damaged: {reason_of(error)}{AGAIN}"
        ) from error
    raise UsageError(
        f"{path} has {kind} in {LABEL_KEY}={name}, but it must be whole numbers, or names of classes\n"
        f"write it so, or name another column: {LABEL_KEY}=COLUMN"
    )


def _of_text(labels: StoredLabels, text: str) -> int:
    try:
        return labels.of_text(text.encode())
    except NoLabel:
        return UNKNOWN


def label_fault(path: AnyPath, column: str, labels: StoredLabels, row: int) -> str:
    """Why the label of a row cannot be used."""
    try:
        with open_parquet(path) as file:
            value = file.read(columns=[column]).column(column)[row].as_py()
    except failures() as error:
        return f"has a label that cannot be read: {reason_of(error)}"
    try:
        if value is None:
            return f"has no label in {LABEL_KEY}={column}"
        labels.of_text(value.encode()) if isinstance(value, str) else labels.of_number(value)
    except NoLabel as error:
        return str(error)
    return "has changed since its file was indexed; data must not change while it is in use"
