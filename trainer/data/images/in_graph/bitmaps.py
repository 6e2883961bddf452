"""BMP in a graph: what Pillow reads in training, where it is not compressed."""

from __future__ import annotations

import tensorflow as tf

from trainer.data.images.bmp_palette import CORE, FILE_HEADER
from trainer.data.images.in_graph.contents import Contents
from trainer.data.images.in_graph.headers import CUT, GraphHeader, first_of, graph_header, place

LARGEST_HEADER = 124  # bytes of the last one of Windows
OPEN_DEPTHS = (1, 4, 8, 24, 32)  # bits a pixel
RAW, BITFIELDS = 0, 3
PLAIN_MASKS = (0xFF0000, 0xFF00, 0xFF)  # of BITFIELDS, 32 bits: the order of RAW
ALPHA_MASK, WITH_ALPHA = 0xFF000000, 56  # the fourth mask, and the size of the first header that has one


class Bitmap:
    """The header of a BMP, and its pixels."""

    def __init__(self, contents: Contents) -> None:
        def number(at: int, size: int) -> tf.Tensor:
            return contents.number(place(at), size, big=False)

        self._contents = contents
        self._header_size = number(14, 4)
        self._core = tf.equal(self._header_size, CORE)
        height = tf.where(self._core, number(20, 2), number(22, 4))
        signed = tf.where(height >= 2**31, height - 2**32, height)
        self._downwards = signed < 0
        self.height, self.width = tf.abs(signed), tf.where(self._core, number(18, 2), number(18, 4))
        self._bits = tf.where(self._core, number(24, 2), number(28, 2))
        self._compression = tf.where(self._core, place(RAW), number(30, 4))
        colors = tf.where(self._core, place(0), number(46, 4))
        self._colors = tf.where(
            tf.equal(colors, 0), tf.bitwise.left_shift(place(1), tf.minimum(self._bits, 32)), colors
        )
        self._offset = number(10, 4)
        self._stride = (self.width * self._bits + 31) // 32 * 4

    def header(self) -> GraphHeader:
        """``_bmp`` of ``trainer.data.images.headers``, and what of its variants the graph does not read."""
        masks = [self._contents.number(place(54 + 4 * index), 4, big=False) for index in range(3)]
        plain = tf.reduce_all(tf.equal(masks, tf.constant(PLAIN_MASKS, tf.int64))) & tf.equal(self._bits, 32)
        allowed = tf.equal(self._compression, RAW) | (tf.equal(self._compression, BITFIELDS) & plain)
        known = tf.reduce_any(tf.equal(self._header_size, tf.constant([CORE, 40, 52, 56, 64, 108, 124], tf.int64)))
        deep = self._bits > 8
        palette_end = FILE_HEADER + self._header_size + self._entry() * self._colors
        pixels_begin = tf.where(deep, FILE_HEADER + self._header_size, palette_end)
        pixels_end = self._offset + self._stride * self.height
        text = tf.strings.join(
            [
                "it is a BMP of ",
                tf.strings.as_string(self._bits),
                " bits with compression ",
                tf.strings.as_string(self._compression),
                ", of which a served network reads 1, 4, 8, 24 and 32 bits without compression",
            ]
        )
        problem = first_of(
            [
                (self._contents.length < FILE_HEADER + tf.minimum(self._header_size, LARGEST_HEADER), CUT),
                (~known | ~tf.reduce_any(tf.equal(self._bits, tf.constant(OPEN_DEPTHS, tf.int64))) | ~allowed, text),
                (~deep & (self._colors > 256), "its BMP palette has more than 256 colours"),
                (self._core & tf.equal(self._bits, 4), "it is a BMP of OS/2 with 4 bits"),  # Pillow reads not all
                (self._offset < pixels_begin, "its BMP pixels begin before its header ends"),
                (pixels_end > self._contents.length, "it ends inside its pixels"),
            ]
        )
        return graph_header(self.height, self.width, native=False, problem=problem)

    def _entry(self) -> tf.Tensor:
        return tf.where(self._core, place(3), place(4))

    def _rows(self) -> tf.Tensor:
        stored = tf.io.decode_raw(
            self._contents.piece(self._offset, self._offset + self._stride * self.height), tf.uint8
        )
        return tf.reshape(stored, [self.height, self._stride])

    def alpha(self) -> tf.Tensor:
        """uint8 ``[height, width, 1]``: of a BMP of 32 bits that has a mask for it, otherwise opaque."""
        mask = tf.equal(self._contents.number(place(66), 4, big=False), ALPHA_MASK)
        there = mask & (self._header_size >= WITH_ALPHA) & tf.equal(self._compression, BITFIELDS)

        def stored() -> tf.Tensor:
            values = tf.reshape(self._rows()[:, : self.width * 4], [self.height, self.width, 4])[..., 3:]
            return tf.cond(self._downwards, lambda: values, lambda: tf.reverse(values, [0]))

        return tf.cond(there, stored, lambda: tf.fill([self.height, self.width, 1], tf.constant(255, tf.uint8)))

    def pixels(self) -> tf.Tensor:
        """uint8 ``[height, width, 3]``. The header has no problem."""
        rows = self._rows()
        branches = [lambda bits=bits: self._indexed(rows, bits) for bits in OPEN_DEPTHS if bits <= 8]
        branches += [lambda size=bits // 8: self._direct(rows, size) for bits in OPEN_DEPTHS if bits > 8]
        depths = tf.constant(OPEN_DEPTHS, tf.int64)
        branch = tf.argmax(tf.cast(tf.equal(depths, self._bits), tf.int32), output_type=tf.int32)
        image = tf.switch_case(branch, branches)
        return tf.cond(self._downwards, lambda: image, lambda: tf.reverse(image, [0]))

    def _direct(self, rows: tf.Tensor, size: int) -> tf.Tensor:
        values = tf.reshape(rows[:, : self.width * size], [self.height, self.width, size])
        return values[..., :3][..., ::-1]

    def _indexed(self, rows: tf.Tensor, bits: int) -> tf.Tensor:
        divisors = tf.constant([2**shift for shift in range(8 - bits, -1, -bits)], tf.int32)
        indices = tf.cast(rows, tf.int32)[..., tf.newaxis] // divisors % 2**bits
        indices = tf.reshape(indices, [self.height, -1])[:, : self.width]
        begin = FILE_HEADER + self._header_size
        palette = tf.io.decode_raw(self._contents.piece(begin, begin + self._entry() * self._colors), tf.uint8)
        colors = tf.reshape(palette, [self._colors, self._entry()])[:, 2::-1]
        colors = tf.concat(
            [colors, tf.zeros([256 - self._colors, 3], tf.uint8)], 0
        )  # a colour that is missing is black
        return tf.gather(colors, indices)
