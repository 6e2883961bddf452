"""GIF in a graph: the first frame alone, and which of its pixels are transparent, as Pillow reads it in training."""

from __future__ import annotations

import tensorflow as tf

from trainer.data.images.in_graph.contents import Contents
from trainer.data.images.in_graph.headers import CUT, GraphHeader, first_of, graph_header, place

# GIF89a sections 18, 20, 23, 24
SCREEN = 13  # bytes before the table of colours
EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, b";"
CONTROL = 0xF9  # label of the extension that makes a colour transparent
DESCRIPTOR = 10  # bytes of an image's
BYTES = [bytes([value]) for value in range(256)]


class FirstFrame:
    """Where the first frame of a GIF lies."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._begin, self._control = self._find()
        begin = self._begin
        data = begin + DESCRIPTOR + self._table(begin + DESCRIPTOR - 1) + 1  # behind the size of a code
        self._end = tf.while_loop(
            lambda position: (position < contents.length) & (contents.byte(position) > 0),
            lambda position: [position + 1 + contents.byte(position)],
            [data],
            parallel_iterations=1,
        )[0]

    def _table(self, flags: tf.Tensor) -> tf.Tensor:
        """Bytes of the table of colours that the byte at ``flags`` announces."""
        value = self._contents.byte(flags)
        return tf.where(value >= 0x80, 3 * tf.bitwise.left_shift(place(2), value % 8), 0)

    def _find(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the descriptor begins, and the flags of the extension that belongs to it: 0 where there is none."""
        contents = self._contents

        def next_block(position: tf.Tensor, control: tf.Tensor, inside: tf.Tensor) -> tuple[tf.Tensor, ...]:
            size = contents.byte(position)
            label = contents.byte(position + 1)
            control = tf.where(~inside & tf.equal(label, CONTROL), position + 3, control)
            return (
                position + tf.where(inside, 1 + size, place(2)),
                control,
                tf.where(inside, size > 0, True),
            )

        begin, control, _ = tf.while_loop(
            lambda position, control, inside: (
                (position < contents.length) & (inside | tf.equal(contents.byte(position), EXTENSION))
            ),
            next_block,
            [SCREEN + self._table(place(10)), place(0), tf.constant(False)],
            parallel_iterations=1,
        )
        return begin, control

    def header(self) -> GraphHeader:
        """``_gif`` of ``trainer.data.images.headers``, and what of its variants the graph does not read."""
        contents, begin = self._contents, self._begin
        width, height = (contents.number(place(at), 2, big=False) for at in (6, 8))
        left, top, frame_width, frame_height = (contents.number(begin + at, 2, big=False) for at in (1, 3, 5, 7))
        whole = tf.equal(left, 0) & tf.equal(top, 0) & tf.equal(frame_width, width) & tf.equal(frame_height, height)
        problem = first_of(
            [
                (contents.length < SCREEN, CUT),
                (contents.byte(begin) != IMAGE, "its GIF blocks before the first frame are damaged"),
                (self._end >= contents.length, "it ends inside its first frame"),
                (~whole, "it is a GIF whose first frame does not fill it, which a served network does not read"),
            ]
        )
        return graph_header(height, width, native=False, problem=problem)

    def alone(self) -> tf.Tensor:
        """The bytes of a GIF of this frame, opaque. TensorFlow would unpack every frame, and make transparent pixels
        black.
        """
        contents, control = self._contents, self._control
        opaque = tf.gather(BYTES, contents.byte(control) // 2 * 2)
        whole = [contents.piece(place(0), self._end + 1), TRAILER]
        split = [contents.piece(place(0), control), opaque, contents.piece(control + 1, self._end + 1), TRAILER]
        return tf.cond(control > 0, lambda: tf.strings.join(split), lambda: tf.strings.join(whole))

    def transparent(self) -> tf.Tensor:
        """The bytes of a GIF of this frame that is white where it is transparent and black elsewhere: the same indices
        with other colours.
        """
        contents, control, own = self._contents, self._control, self._begin + DESCRIPTOR - 1
        begin = tf.where(contents.byte(own) >= 0x80, own + 1, SCREEN)
        size = tf.where(contents.byte(own) >= 0x80, self._table(own), self._table(place(10)))
        there = (control > 0) & (contents.byte(control) % 2 > 0)
        index = tf.where(there, contents.byte(control + 3), -1)
        colours = tf.gather(BYTES, tf.where(tf.equal(tf.range(size) // 3, index), 255, 0))
        opaque = Contents(self.alone())  # as long as the file until the frame ends
        return tf.strings.join(
            [opaque.piece(place(0), begin), tf.strings.reduce_join(colours), opaque.piece(begin + size, opaque.length)]
        )
