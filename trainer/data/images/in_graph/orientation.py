"""``trainer.data.images.orientation`` in a graph."""

from __future__ import annotations

import tensorflow as tf

from trainer.data.images.in_graph.contents import Contents
from trainer.data.images.orientation import (
    BYTE_ORDERS,
    BYTES,
    ENTRY,
    EXIF_ORIENTATION,
    LARGEST,
    SIZES,
    TIFF_HEADER,
    UPRIGHT,
)

LONGEST = max(SIZES)
# by type; 0 bytes: unknown
SIZE_OF = [SIZES.get(kind, 0) for kind in range(LONGEST + 1)]
RATIONAL, SIGNED_RATIONAL, FLOAT, DOUBLE = 5, 10, 11, 12
XMP = r'\C*?tiff:Orientation(?:="|>)([0-9])\C*'  # \C is any byte
NONE = -1  # no orientation is there


def orientation(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """``orientation`` of that module, int32 ``[]``; ``exif`` and ``xmp``, strings ``[]``, are empty for None."""
    for _ in range(2):
        exif = tf.strings.regex_replace(exif, r"\AExif\x00\x00", "", replace_global=False)
    found = tf.cond(tf.equal(exif, b""), lambda: tf.constant(NONE), lambda: _in_exif(exif))
    return tf.cond(tf.equal(found, NONE), lambda: _in_xmp(xmp), lambda: _sensible(found))


def _in_xmp(xmp: tf.Tensor) -> tf.Tensor:
    there = tf.strings.regex_full_match(xmp, XMP)
    digit = tf.strings.regex_replace(xmp, rf"\A{XMP}\z", r"\1", replace_global=False)
    return _sensible(tf.strings.to_number(tf.where(there, digit, "0"), tf.int32))


def _sensible(value: tf.Tensor) -> tf.Tensor:
    return tf.where((value >= UPRIGHT) & (value <= LARGEST), value, UPRIGHT)


def _in_exif(exif: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory; 0 for one that is no number, and where the header is none of TIFF."""
    contents = Contents(exif)
    begin = contents.piece(tf.constant(0, tf.int64), tf.constant(4, tf.int64))
    known = tf.reduce_any([tf.equal(begin, order) for order in BYTE_ORDERS]) & (contents.length >= TIFF_HEADER)
    big = tf.reduce_any([tf.equal(begin, order) for order, sign in BYTE_ORDERS.items() if sign == ">"])
    return tf.cond(known, lambda: _in_directory(contents, big), lambda: tf.constant(0))


def _in_directory(contents: Contents, big: tf.Tensor) -> tf.Tensor:
    """Entry by entry, as Pillow: what comes before the orientation decides whether it is reached."""
    directory = contents.number(tf.constant(4, tf.int64), 4, big=big)
    first, length = directory + 2, contents.length
    there = tf.where(first <= length, contents.number(directory, 2, big=big), 0)
    # an entry that is cut off ends the directory
    entries = tf.minimum(there, tf.maximum(length - first, 0) // ENTRY)
    sizes = tf.constant(SIZE_OF, tf.int64)

    def looked_at(
        entry: tf.Tensor, seen: tf.Tensor, far: tf.Tensor, place: tf.Tensor, kind: tf.Tensor, stop: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        at = first + entry * ENTRY
        tag, its_kind = contents.number(at, 2, big=big), contents.number(at + 2, 2, big=big)
        count = contents.number(at + 4, 4, big=big)
        size = count * sizes[tf.minimum(its_kind, LONGEST)] * tf.cast(its_kind <= LONGEST, tf.int64)
        counts = (size > 0) & ~tf.reduce_any(tf.equal(seen, tag))
        outside = size > 4
        far += tf.where(counts & outside, size, 0)
        counts &= ~outside | (far <= length)
        its_place = tf.where(outside, contents.number(at + 8, 4, big=big), at + 8)
        cut_off = counts & (its_place + size > length)
        found = counts & ~cut_off & tf.equal(tag, EXIF_ORIENTATION)
        seen = tf.cond(counts, lambda: tf.concat([seen, [tag]], 0), lambda: seen)
        return entry + 1, seen, far, tf.where(found, its_place, place), tf.where(found, its_kind, kind), found | cut_off

    zero = tf.constant(0, tf.int64)
    *_, place, kind, _ = tf.while_loop(
        lambda entry, *rest: (entry < entries) & ~rest[-1],
        looked_at,
        [zero, tf.zeros([0], tf.int64), zero, zero - 1, zero, tf.constant(False)],
        [tf.TensorShape([]), tf.TensorShape([None]), *[tf.TensorShape([])] * 4],
        parallel_iterations=1,
    )
    return tf.cond(place >= 0, lambda: _number(contents, place, kind, big), lambda: tf.constant(NONE))


def _number(contents: Contents, place: tf.Tensor, kind: tf.Tensor, big: tf.Tensor) -> tf.Tensor:
    """The first number of a value if it is 1 to 8, otherwise 0. A negative one reads as a large one here."""

    def whole(size: int) -> tf.Tensor:
        return contents.number(place, size, big=big)

    def divided(signed: bool) -> tf.Tensor:
        above, below = whole(4), contents.number(place + 4, 4, big=big)
        if signed:
            above, below = (tf.cast(tf.cast(each, tf.int32), tf.int64) for each in (above, below))
        exact = tf.equal(below * (above // tf.where(tf.equal(below, 0), tf.constant(1, tf.int64), below)), above)
        return tf.where(exact & (below != 0), above // tf.where(tf.equal(below, 0), tf.constant(1, tf.int64), below), 0)

    def real(size: int, dtype: tf.DType) -> tf.Tensor:
        stored = tf.io.decode_raw(contents.piece(place, place + size), tf.uint8)
        value = tf.cast(tf.bitcast(tf.where(big, stored[::-1], stored), dtype), tf.float64)
        return tf.where(
            tf.equal(value, tf.floor(value)) & (value >= 1) & (value <= LARGEST), tf.cast(value, tf.int64), 0
        )

    def eight_bytes() -> tf.Tensor:
        high, low = (tf.where(big, first, second) for first, second in ((0, 4), (4, 0)))
        parts = [contents.number(place + tf.cast(part, tf.int64), 4, big=big) for part in (high, low)]
        return tf.where(tf.equal(parts[0], 0), parts[1], 0)

    special = {
        RATIONAL: lambda: divided(signed=False),
        SIGNED_RATIONAL: lambda: divided(signed=True),
        FLOAT: lambda: real(4, tf.float32),
        DOUBLE: lambda: real(8, tf.float64),
    }
    by_size = {1: lambda: whole(1), 2: lambda: whole(2), 4: lambda: whole(4), 8: eight_bytes}
    branches = []
    for each in range(LONGEST + 1):
        if each in special:
            branches.append(special[each])
        elif each in BYTES or each not in SIZES:
            branches.append(lambda: tf.constant(0, tf.int64))
        else:
            branches.append(by_size[SIZES[each]])
    value = tf.switch_case(tf.cast(kind, tf.int32), branches)
    return tf.cast(tf.where((value >= UPRIGHT) & (value <= LARGEST), value, 0), tf.int32)


def jpeg_exif_orientation(contents: Contents, start: tf.Tensor) -> tf.Tensor:
    """``jpeg_exif_orientation`` of that module, int32 ``[]``, at ``start``, int64 ``[]``."""
    begin = contents.piece(start, start + 4)
    big = tf.equal(begin, b"MM\0*")
    directory = start + contents.number(start + 4, 4, big=big)
    first = directory + 2
    whole = (start + 8 <= contents.length) & (first <= contents.length)
    entries = tf.where(whole, contents.number(directory, 2, big=big), 0)
    # of an entry the ten bytes to the end of the value count
    entries = tf.minimum(entries, tf.maximum(contents.length - first + 2, 0) // ENTRY)

    def looked_at(entry: tf.Tensor, found: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, ...]:
        at = first + entry * ENTRY
        stop = tf.equal(contents.number(at, 2, big=big), EXIF_ORIENTATION)
        return entry + 1, tf.where(stop, contents.number(at + 8, 2, big=big), found), stop

    _, found, _ = tf.while_loop(
        lambda entry, found, stop: (entry < entries) & ~stop,
        looked_at,
        [tf.constant(0, tf.int64), tf.constant(0, tf.int64), tf.constant(False)],
        parallel_iterations=1,
    )
    known = big | tf.equal(begin, b"II*\0")
    return tf.where(known, _sensible(tf.cast(found, tf.int32)), UPRIGHT)
