"""Writing TensorFlow's checkpoint files, byte for byte as its own kernel ``SaveV2`` writes them, one value at a time.

The kernel takes all values at once and holds them until the last one is written. But a snapshot shares its buffers with
the variables, and a step copies whatever the snapshot still holds when it changes a variable. Here a value is let go
when it has been written, so it costs no copy after that.

The data file has the values one after the other (tensorflow/core/util/tensor_bundle/tensor_bundle.cc). The index is a
table of LevelDB, without compression, from names to places in the data file (tensorflow/core/lib/io/table_builder.cc).
The constants are theirs. ``tests/checkpoint/test_bundle_writer.py`` compares with the kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from trainer.storage.checksums import masked, masked_crc32c

HEADER = tensor_bundle_pb2.BundleHeaderProto(num_shards=1, version={"producer": 1})
BLOCK_BYTES = 256 * 1024  # a block of the table ends when it has so many
RESTART = 16  # every so many entries of a block a name is written whole
MAGIC = 0xDB4775248B80FB57
PLACES_BYTES = 40  # of the two places in the footer
UNCOMPRESSED = b"\x00"
BUFFER_BYTES = 2**18  # of the data file, for small values
AT_ONCE = 2**16  # numbers, 256 KiB of float32


class BundleWriter:
    """The files of ``prefix``: the data file takes each value when it is added, the index is written at the end.

    Every method raises the same error, and so does the constructor.

    Raises:
        OSError: the operating system refused a call. The error carries ``prefix``.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._entries: dict[bytes, bytes] = {b"": HEADER.SerializeToString()}
        self._end = 0
        with self._named():
            self._file: BinaryIO = open(f"{prefix}.data-00000-of-00001", "wb", BUFFER_BYTES)  # noqa: SIM115

    def add(self, key: str, value: np.ndarray[Any, Any]) -> bool:
        """Write the numbers of ``value``, of any shape and any type that TensorFlow has; whether all are finite."""
        dtype, flat = tf.as_dtype(value.dtype), np.ascontiguousarray(value).reshape(-1)
        crc, is_finite = 0, True
        for begin in range(0, flat.size, AT_ONCE):  # looked at, summed and copied while they are in the processor
            numbers = flat[begin : begin + AT_ONCE]
            is_finite = is_finite and (not dtype.is_floating or bool(np.isfinite(numbers).all()))
            content = numbers.view(np.uint8)
            content.flags.writeable = False  # the checksum takes no other
            crc = google_crc32c.extend(crc, content)
            with self._named():
                self._file.write(content.data)
        self._enter(key, dtype, value.shape, flat.nbytes, masked(crc))
        return is_finite

    def add_text(self, key: str, text: bytes) -> None:
        """Write one text, a tensor of rank 0. Its length and a checksum of the length stand before it."""
        crc = google_crc32c.value(len(text).to_bytes(4, "little"))
        checksum = masked(crc).to_bytes(4, "little")
        for part in (checksum, text):
            crc = google_crc32c.extend(crc, part)
        content = _varint(len(text)) + checksum + text
        with self._named():
            self._file.write(content)
        self._enter(key, tf.string, (), len(content), masked(crc))

    def _enter(self, key: str, dtype: tf.DType, shape: Sequence[int], size: int, checksum: int) -> None:
        """Put what was just written into the index."""
        entry = tensor_bundle_pb2.BundleEntryProto(
            dtype=dtype.as_datatype_enum,
            shape=tf.TensorShape(shape).as_proto(),
            offset=self._end,
            size=size,
            crc32c=checksum,
        )
        self._entries[key.encode()] = entry.SerializeToString()
        self._end += size

    def finish(self) -> None:
        """Write what is left of the data, and the index. Nothing is synced."""
        with self._named():
            self._file.close()
            Path(f"{self._prefix}.index").write_bytes(_table(dict(sorted(self._entries.items()))))

    def close(self) -> None:
        """Close the data file. Without ``finish`` it is incomplete."""
        with contextlib.suppress(OSError):  # what made the caller give up is the error that counts
            self._file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._prefix)
            raise


def _table(entries: Mapping[bytes, bytes]) -> bytes:
    """A table of ``entries``, which are in the order of their names."""
    table, places, block = bytearray(), _Block(restart=1), _Block(RESTART)
    names = [*entries]
    for name, following in zip(names, [*names[1:], None], strict=True):
        block.add(name, entries[name])
        if block.size >= BLOCK_BYTES or following is None:
            bound = _successor(name) if following is None else _separator(name, following)
            places.add(bound, _append(table, block))
            block = _Block(RESTART)
    nothing = _append(table, _Block(RESTART))  # where a table may describe itself
    footer = nothing + _append(table, places)
    return bytes(table + footer.ljust(PLACES_BYTES, b"\x00") + MAGIC.to_bytes(8, "little"))


def _append(table: bytearray, block: _Block) -> bytes:
    """Append a block; where it lies and its size, as they are stored."""
    content = block.content()
    place = _varint(len(table)) + _varint(len(content))
    table += content + UNCOMPRESSED + masked_crc32c(content + UNCOMPRESSED).to_bytes(4, "little")
    return place


class _Block:
    """Entries whose names leave out what they share with the name before. Every ``restart`` entries one is whole."""

    def __init__(self, restart: int) -> None:
        self._restart = restart
        self._content = bytearray()
        self._whole = [0]  # where entries with whole names begin
        self._since = 0  # entries from the last of these on
        self._last = b""

    @property
    def size(self) -> int:
        return len(self._content) + 4 * len(self._whole) + 4

    def add(self, name: bytes, value: bytes) -> None:
        shared = 0
        if self._since < self._restart:
            shared = _shared(self._last, name)
        else:
            self._whole.append(len(self._content))
            self._since = 0
        rest = name[shared:]
        self._content += _varint(shared) + _varint(len(rest)) + _varint(len(value)) + rest + value
        self._since += 1
        self._last = name

    def content(self) -> bytes:
        numbers = [*self._whole, len(self._whole)]
        return bytes(self._content) + b"".join(number.to_bytes(4, "little") for number in numbers)


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    pairs = zip(one, other, strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _separator(name: bytes, following: bytes) -> bytes:
    """A short text from ``name`` on and before ``following``."""
    shared = _shared(name, following)
    if shared < min(len(name), len(following)) and name[shared] < 0xFF and name[shared] + 1 < following[shared]:
        return name[:shared] + bytes([name[shared] + 1])
    return name


def _successor(name: bytes) -> bytes:
    """A short text from ``name`` on."""
    for place, byte in enumerate(name):
        if byte != 0xFF:
            return name[:place] + bytes([byte + 1])
    return name


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
