"""An image is turned as Pillow turns it, whatever its metadata say; Python and the served graph read them alike."""

from __future__ import annotations

import random
import struct
import warnings

import pytest
import tensorflow as tf
from PIL import Image

from trainer.data.images import orientation
from trainer.data.images.in_graph import orientation as graph_orientation
from trainer.data.images.orientation import EXIF_ORIENTATION, FORMATS, UPRIGHT

TAGS = (0x010F, 0x0110, EXIF_ORIENTATION, EXIF_ORIENTATION, 0x011A)
HEADERS = {">": (b"MM\0*",) * 9 + (b"MM*\0", b"MM\0+"), "<": (b"II*\0",) * 9 + (b"II\0*", b"II+\0")}
PACKETS = (
    b"",
    b'<x tiff:Orientation="3"/>',
    b'\xff\xfe <tiff:Orientation>6</tiff:Orientation>\n tiff:Orientation="7"',
    b'tiff:Orientation="0"',
    b'tiff:Orientation="x"',
)


def by_pillow(exif: bytes, xmp: bytes) -> int | None:
    """None where Pillow raises an exception."""
    image = Image.new("RGB", (1, 1))
    image.info.update({name: data for name, data in (("exif", exif), ("xmp", xmp)) if data})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
        except (struct.error, SyntaxError):
            return None
    return int(value) if value in range(1, 9) else UPRIGHT


def directory(numbers: random.Random) -> bytes:
    """A TIFF directory, right or wrong: types, counts, places, order and length are drawn."""
    order = numbers.choice("<>")
    entries = []
    for _ in range(numbers.randint(0, 6)):
        kind = numbers.choice((3, 3, 3, 4, 4, *FORMATS, 0, 14, 99))
        value = numbers.choice((1, 2, 6, 8, 9, 0, 65535))
        content = numbers.choice(
            (
                struct.pack(f"{order}HH", value, 0),
                struct.pack(f"{order}I", value),
                struct.pack(f"{order}f", value),
                struct.pack(f"{order}I", numbers.choice((0, 8, 30, 60, 90, 1000, 2**32 - 1))),
            )
        )
        count = numbers.choice((1, 1, 1, 1, 0, 2, 3, 8, 200))
        entries.append(struct.pack(f"{order}HHI", numbers.choice(TAGS), kind, count) + content)
    values = (
        struct.pack(f"{order}II", 6, 1),
        struct.pack(f"{order}ii", -8, -2),
        struct.pack(f"{order}d", 3.0),
        struct.pack(f"{order}Q", 5),
        b"text",
    )
    begin = numbers.choice((8,) * 12 + (0, 9, 1000, 2**32 - 1))
    count = numbers.choice((len(entries),) * 8 + (0, len(entries) + 3, 65535))
    data = numbers.choice(HEADERS[order]) + struct.pack(f"{order}IH", begin, count) + b"".join(entries) + bytes(4)
    data += b"".join(numbers.choice(values) for _ in range(4))
    if numbers.random() < 0.2:
        data = data[: numbers.randrange(len(data))]
    return numbers.choice((b"", b"Exif\0\0", b"Exif\0\0Exif\0\0")) + data


@pytest.fixture(scope="module")
def in_a_graph() -> tf.types.experimental.PolymorphicFunction:
    return tf.function(
        graph_orientation.orientation, input_signature=[tf.TensorSpec([], tf.string)] * 2, autograph=False
    )


def test_pillow_python_and_graph_find_the_same_orientation(
    in_a_graph: tf.types.experimental.PolymorphicFunction,
) -> None:
    numbers = random.Random(1)
    found = []
    for _ in range(1500):
        exif = b"" if numbers.random() < 0.05 else directory(numbers)
        xmp = numbers.choice(PACKETS)
        value = orientation.orientation(exif or None, xmp or None)
        assert int(in_a_graph(exif, xmp)) == value, (exif, xmp)
        expected = by_pillow(exif, xmp)
        assert expected in (None, value), (exif, xmp)
        found.append(value)
    assert {1, 2, 3, 6, 8} <= set(found)
    assert found.count(1) < 1200


def test_a_block_that_is_no_tiff_header_turns_nothing() -> None:
    """Pillow refuses the image or takes it as upright, by other fields of the file."""
    assert by_pillow(b"Exif\0\0XX*\0\0\0\0\x08", PACKETS[1]) is None
    assert orientation.orientation(b"Exif\0\0XX*\0\0\0\0\x08", PACKETS[1]) == UPRIGHT
