"""``trainer.data.images.headers`` in a graph, for the formats that TensorFlow decodes: JPEG, PNG, WebP."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from trainer.config.schema.preprocessing import OrientationRule
from trainer.data.images.headers import (
    JPEG_APP1,
    JPEG_BARE,
    JPEG_END,
    JPEG_FRAMES,
    JPEG_SCAN,
    JPEG_XMP_BEGIN,
    PNG_PROFILE,
    PNG_TEXTS,
    PNG_XMP,
    WEBP_ALPHA,
    WEBP_ANIMATION,
    WEBP_EXIF,
    WEBP_XMP,
)
from trainer.data.images.in_graph.contents import Contents
from trainer.data.images.in_graph.orientation import jpeg_exif_orientation
from trainer.data.images.orientation import EXIF_BEGIN, UPRIGHT

CUT = "it ends inside its header"


class GraphHeader(NamedTuple):
    """``Header`` of that module as tensors: int32 ``[]``, and ``native`` bool ``[]``.

    Instead of an orientation it has where ``preprocess.orientation=all`` finds one, ``exif`` and ``xmp``, strings
    ``[]``, and the one of ``preprocess.orientation=jpeg``.

    ``problem``, string ``[]``, is the end of a sentence that says why the graph does not read the image as training
    does; empty where it does.
    """

    height: tf.Tensor
    width: tf.Tensor
    exif: tf.Tensor
    xmp: tf.Tensor
    jpeg_orientation: tf.Tensor
    native: tf.Tensor
    problem: tf.Tensor


def graph_header(
    height: tf.Tensor,
    width: tf.Tensor,
    exif: bytes | tf.Tensor = b"",
    xmp: bytes | tf.Tensor = b"",
    jpeg_orientation: int | tf.Tensor = UPRIGHT,
    *,
    native: bool | tf.Tensor = True,
    problem: str | tf.Tensor = "",
) -> GraphHeader:
    """With the dtypes that all branches share."""
    return GraphHeader(
        tf.cast(height, tf.int32),
        tf.cast(width, tf.int32),
        tf.convert_to_tensor(exif),
        tf.convert_to_tensor(xmp),
        tf.convert_to_tensor(jpeg_orientation, tf.int32),
        tf.convert_to_tensor(native),
        tf.convert_to_tensor(problem),
    )


def first_of(problems: list[tuple[tf.Tensor, str | tf.Tensor]]) -> tf.Tensor:
    """The text of the first condition that holds, string ``[]``; empty where none does."""
    found = tf.constant("")
    for holds, text in reversed(problems):
        found = tf.where(holds, text, found)
    return found


def place(number: int) -> tf.Tensor:
    return tf.constant(number, tf.int64)


def among(value: tf.Tensor, numbers: frozenset[int] | tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, tf.constant(sorted(numbers), tf.int64)))


def jpeg_header(contents: Contents, applied: OrientationRule) -> GraphHeader:
    """The segments before the pixels."""
    length = contents.length

    def next_segment(
        position: tf.Tensor,
        frame: tf.Tensor,
        exif: tf.Tensor,
        xmp: tf.Tensor,
        earlier: tf.Tensor,
        damaged: tf.Tensor,
        over: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        marker = contents.byte(position + 1)
        cut_off = position + 1 >= length
        damaged = ~cut_off & (contents.byte(position) != 0xFF)
        fill, bare = tf.equal(marker, 0xFF), among(marker, JPEG_BARE)
        over = cut_off | damaged | among(marker, (JPEG_SCAN, JPEG_END))
        segment = ~over & ~fill & ~bare
        over |= segment & (position + 4 > length)
        segment &= ~over
        start = position + 4
        end = position + 2 + contents.number(position + 2, 2, big=True)
        app1 = segment & tf.equal(marker, JPEG_APP1)
        is_exif = app1 & contents.begins(start, EXIF_BEGIN)
        is_xmp = app1 & contents.begins(start, JPEG_XMP_BEGIN)
        if applied == "jpeg":
            earlier = tf.cond(
                is_exif & tf.equal(earlier, UPRIGHT) & tf.equal(frame, 0),
                lambda: jpeg_exif_orientation(contents, start + len(EXIF_BEGIN)),
                lambda: earlier,
            )
        else:
            begin = start + len(EXIF_BEGIN)
            exif = tf.cond(is_exif, lambda: tf.strings.join([exif, contents.piece(begin, end)]), lambda: exif)
            xmp = tf.cond(is_xmp, lambda: contents.piece(start, end), lambda: xmp)
        frame = tf.where(segment & tf.equal(frame, 0) & among(marker, JPEG_FRAMES), start, frame)
        position = tf.where(segment, end, position + tf.where(fill, place(1), place(2)))
        return position, frame, exif, xmp, earlier, damaged, over

    empty = tf.constant(b"")
    _, frame, exif, xmp, earlier, damaged, _ = tf.while_loop(
        lambda *values: ~values[-1],
        next_segment,
        [place(2), place(0), empty, empty, tf.constant(UPRIGHT), tf.constant(False), tf.constant(False)],
        parallel_iterations=1,
    )
    none = tf.equal(frame, 0)
    problem = first_of(
        [
            (none & damaged, "one of its JPEG markers is damaged"),
            (none, "it is a JPEG without an image in it, or it ends inside its header"),
            (frame + 5 > contents.length, CUT),
        ]
    )
    height, width = (contents.number(frame + at, 2, big=True) for at in (1, 3))
    return graph_header(height, width, exif, xmp, earlier, problem=problem)


def png_header(contents: Contents, applied: OrientationRule) -> GraphHeader:
    """The chunks: one with the orientation may follow the pixels."""
    width, height = (contents.number(place(at), 4, big=True) for at in (16, 20))
    problem = first_of([(contents.length < 24, CUT)])
    if applied == "jpeg":
        return graph_header(height, width, problem=problem)
    length = contents.length

    def next_chunk(
        position: tf.Tensor, has_exif: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor, packed: tf.Tensor, over: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        begin = position + 8
        end = begin + contents.number(position, 4, big=True)
        kind = contents.piece(position + 4, begin)
        over = (position + 12 > length) | tf.equal(kind, b"IEND") | (end > length)
        is_exif = ~over & tf.equal(kind, b"eXIf")
        text = ~over & tf.reduce_any([tf.equal(kind, each) for each in sorted(PNG_TEXTS)])
        named = {name: text & contents.begins(begin, name + b"\0") for name in (PNG_XMP, PNG_PROFILE)}
        after = begin + len(PNG_XMP) + 1
        international = tf.equal(kind, b"iTXt")
        is_packed = tf.equal(kind, b"zTXt") | (international & (after < end) & (contents.byte(after) != 0))
        is_xmp = named[PNG_XMP] & ~is_packed
        exif = tf.cond(is_exif, lambda: contents.piece(begin, end), lambda: exif)
        found = tf.cond(
            is_xmp,
            lambda: tf.cond(
                international,
                lambda: _after_nul(_after_nul(contents.piece(after + 2, end))),
                lambda: contents.piece(after, end),
            ),
            lambda: xmp,
        )
        xmp = tf.where(tf.equal(found, b""), xmp, found)
        packed |= named[PNG_PROFILE] | (named[PNG_XMP] & is_packed)
        return end + 4, has_exif | is_exif, exif, xmp, packed, over

    no, empty = tf.constant(False), tf.constant(b"")
    _, has_exif, exif, xmp, packed, _ = tf.while_loop(
        lambda *values: ~values[-1], next_chunk, [place(8), no, empty, empty, no, no], parallel_iterations=1
    )
    problem = first_of(
        [
            (tf.not_equal(problem, ""), problem),
            (
                ~has_exif & packed,
                "its orientation may be in a PNG text that is compressed or in hexadecimal digits, which a served "
                "network does not unpack; save it again without that text",
            ),
        ]
    )
    return graph_header(height, width, exif, xmp, problem=problem)


def _after_nul(text: tf.Tensor) -> tf.Tensor:
    """What follows the first byte 0; empty where there is none."""
    ends = tf.concat([tf.equal(tf.io.decode_raw(text, tf.uint8), 0), [True]], 0)
    after = tf.argmax(tf.cast(ends, tf.int32), output_type=tf.int32) + 1
    length = tf.strings.length(text)
    return tf.strings.substr(text, tf.minimum(after, length), length)


def webp_header(contents: Contents, applied: OrientationRule) -> GraphHeader:
    kind = contents.piece(place(12), place(16))

    def lossy() -> GraphHeader:
        width, height = (contents.number(place(at), 2, big=False) % 0x4000 for at in (26, 28))
        return graph_header(height, width, problem=first_of([(contents.length < 30, CUT)]))

    def lossless() -> GraphHeader:
        bits = contents.number(place(21), 4, big=False)
        width, height = bits % 2**14 + 1, bits // 2**14 % 2**14 + 1
        opaque = tf.equal(bits // 2**28 % 2, 0)
        return graph_header(height, width, native=opaque, problem=first_of([(contents.length < 25, CUT)]))

    def extended() -> GraphHeader:
        flags = contents.byte(place(20))
        width, height = (contents.number(place(at), 3, big=False) + 1 for at in (24, 27))
        exif, xmp = _webp_metadata(contents, flags) if applied == "all" else (b"", b"")
        native = ~_has(flags, WEBP_ALPHA) & ~_has(flags, WEBP_ANIMATION)
        problem = first_of([(contents.length < 30, CUT)])
        return graph_header(height, width, exif, xmp, native=native, problem=problem)

    def unknown() -> GraphHeader:
        return graph_header(place(1), place(1), problem="its first WebP chunk is unknown")

    kinds = tf.constant([b"VP8 ", b"VP8L", b"VP8X"])
    matching = tf.concat([tf.equal(kinds, kind), [True]], 0)
    return GraphHeader(
        *tf.switch_case(
            tf.argmax(tf.cast(matching, tf.int32), output_type=tf.int32), [lossy, lossless, extended, unknown]
        )
    )


def _has(flags: tf.Tensor, flag: int) -> tf.Tensor:
    return tf.equal(flags // flag % 2, 1)


def _webp_metadata(contents: Contents, flags: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first chunk of each kind that the flags announce."""

    def next_chunk(position: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor, over: tf.Tensor) -> tuple[tf.Tensor, ...]:
        kind, length = contents.piece(position, position + 4), contents.number(position + 4, 4, big=False)
        begin = position + 8
        over = begin + length > contents.length
        first_exif = ~over & _has(flags, WEBP_EXIF) & tf.equal(kind, b"EXIF") & tf.equal(exif, b"")
        first_xmp = ~over & _has(flags, WEBP_XMP) & tf.equal(kind, b"XMP ") & tf.equal(xmp, b"")
        exif = tf.cond(first_exif, lambda: contents.piece(begin, begin + length), lambda: exif)
        xmp = tf.cond(first_xmp, lambda: contents.piece(begin, begin + length), lambda: xmp)
        return begin + length + length % 2, exif, xmp, over

    empty = tf.constant(b"")
    _, exif, xmp, _ = tf.while_loop(
        lambda *values: ~values[-1], next_chunk, [place(12), empty, empty, tf.constant(False)], parallel_iterations=1
    )
    return exif, xmp
