"""Where single values lie in a Parquet column that is stored as it is, so that one can be read without the others.

A column chunk is a row of pages, each a header in Thrift's compact protocol and a body. In a chunk without compression
and dictionary, a body has the definition levels and then, for each value, its length (uint32, little-endian) and its
bytes (apache/parquet-format: README.md, Encodings.md, parquet.thrift). A value is found as a record of a TFRecord file
is: by walking over the lengths.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import Any

from trainer.data.sources.open_files import OpenFile

DATA_PAGE, INDEX_PAGE, DATA_PAGE_V2 = 0, 1, 3  # parquet.thrift, PageType
PLAIN = 0  # Encoding
LENGTH = struct.Struct("<I")
HEADER_BYTES = 512  # of a page, usually; it may hold the smallest and the largest value
LONGEST_HEADER = 2**26
STORED_AS_IT_IS = frozenset({"PLAIN", "RLE", "BIT_PACKED"})  # RLE and BIT_PACKED are the definition levels'


class NotPlain(Exception):
    """The values of a page are not stored as they are."""


class Damaged(Exception):
    """A page is not what the metadata of its file promise."""


def may_be_plain(chunk: Any) -> bool:
    """Whether the metadata of a column chunk (pyarrow's) say that every row has a value, stored as it is."""
    statistics = chunk.statistics
    return bool(
        chunk.compression == "UNCOMPRESSED"
        and not chunk.has_dictionary_page
        and chunk.physical_type == "BYTE_ARRAY"
        and STORED_AS_IT_IS.issuperset(chunk.encodings)
        and statistics is not None
        and statistics.has_null_count
        and statistics.null_count == 0
    )


def value_places(
    file: OpenFile, begin: int, end: int, count: int, *, optional: bool, begins: array[int], sizes: array[int]
) -> None:
    """Append first byte and size of each of the ``count`` values of the column chunk in bytes ``begin`` to ``end``.

    ``optional``: the column, or a struct around it, may be null, so that pages have definition levels.

    Raises:
        NotPlain: the values of a page are not stored as they are.
        Damaged: the pages are not as promised; says where.
    """
    found = 0
    while begin < end:
        header, body = _page_header(file, begin, end)
        after = body + _number(header, 3, begin)
        if after > end:
            raise Damaged(f"the page at byte {begin} is longer than its column")
        if _number(header, 1, begin) != INDEX_PAGE:
            first, values = _values(file, header, body, begin, optional=optional)
            _walk(file, first, after, values, begins, sizes)
            found += values
        begin = after
    if found != count:
        raise Damaged(f"its pages have {found} values, but should have {count}")


def _values(file: OpenFile, header: dict[int, Any], body: int, page: int, *, optional: bool) -> tuple[int, int]:
    """Where the values of a page begin, and how many there are."""
    kind = _number(header, 1, page)
    if kind == DATA_PAGE:
        about, encoding, levels = _struct(header, 5, page), 2, 0
        if optional:
            levels = LENGTH.size + LENGTH.unpack(_exactly(file, LENGTH.size, body))[0]
    elif kind == DATA_PAGE_V2:
        about, encoding = _struct(header, 8, page), 4
        levels = _number(about, 5, page) + _number(about, 6, page)
    else:
        raise NotPlain
    if _number(about, encoding, page) != PLAIN:
        raise NotPlain
    return body + levels, _number(about, 1, page)


def _walk(file: OpenFile, begin: int, end: int, count: int, begins: array[int], sizes: array[int]) -> None:
    for _ in range(count):
        (size,) = LENGTH.unpack(_exactly(file, LENGTH.size, begin))
        begin += LENGTH.size
        begins.append(begin)
        sizes.append(size)
        begin += size
        if begin > end:
            break
    if begin != end:
        raise Damaged(f"the lengths of the values in the page that ends at byte {end} do not add up to it")


def _exactly(file: OpenFile, size: int, begin: int) -> bytes:
    data = file.pread(size, begin)
    if len(data) != size:
        raise Damaged(f"it ends at byte {begin + len(data)}")
    return data


def _page_header(file: OpenFile, begin: int, end: int) -> tuple[dict[int, Any], int]:
    """The fields of the header of the page at ``begin``, and where its body begins."""
    size = HEADER_BYTES
    while True:
        data = file.pread(min(size, end - begin), begin)
        try:
            reader = _Compact(data)
            return reader.struct(), begin + reader.place
        except IndexError:
            if len(data) < size or size >= LONGEST_HEADER:
                raise Damaged(f"the header of the page at byte {begin} does not end") from None
            size *= 8
        except (ValueError, RecursionError) as error:
            raise Damaged(f"the header of the page at byte {begin} cannot be read ({error})") from error


def _number(fields: dict[int, Any], field: int, page: int) -> int:
    value = fields.get(field)
    if not isinstance(value, int) or value < 0:
        raise Damaged(f"the header of the page at byte {page} has {value!r} for a number")
    return value


def _struct(fields: dict[int, Any], field: int, page: int) -> dict[int, Any]:
    value = fields.get(field)
    if not isinstance(value, dict):
        raise Damaged(f"the header of the page at byte {page} does not say what is in it")
    return value


class _Compact:
    """A reader of Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md). A struct is a
    dict of its fields by number.

    Raises:
        IndexError: the data end within a value.
        ValueError: they are no such value.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > 8:
            raise ValueError("too deep")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        readers: dict[int, Callable[[], Any]] = {
            1: lambda: True,
            2: lambda: False,
            3: self._byte,
            **dict.fromkeys((4, 5, 6), self._signed),
            7: lambda: self._bytes(8),
            8: lambda: self._bytes(self._unsigned()),
            **dict.fromkeys((9, 10), lambda: self._list(depth)),
            12: lambda: self.struct(depth + 1),
        }
        if kind not in readers:
            raise ValueError(f"a field of the kind {kind}")
        return readers[kind]()

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._unsigned()
        if count > len(self._data):
            raise ValueError(f"a list of {count}")
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        value = self._data[self.place]
        self.place += 1
        return value

    def _bytes(self, size: int) -> bytes:
        if self.place + size > len(self._data):
            raise IndexError
        self.place += size
        return self._data[self.place - size : self.place]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
