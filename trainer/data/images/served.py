"""``encoded_image`` of ``trainer.data.images.decoding`` with TensorFlow's operations alone, for a graph that is served.

A server has neither Python nor Pillow. What a graph cannot read exactly as training does, it refuses by name.
``tests/inference/test_input_table.py`` walks every format through both.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import JPEG, OTHER, RULED_PNG, EncodedImage
from trainer.data.images.headers import (
    BMP_BEGIN,
    GIF_BEGINS,
    JPEG_BEGIN,
    MAX_PIXELS,
    PNG_BEGIN,
    RIFF_BEGIN,
    TIFF_BEGINS,
    WEBP_MARK,
)
from trainer.data.images.in_graph.bitmaps import Bitmap
from trainer.data.images.in_graph.contents import Contents
from trainer.data.images.in_graph.gifs import FirstFrame
from trainer.data.images.in_graph.headers import (
    GraphHeader,
    first_of,
    graph_header,
    jpeg_header,
    place,
    png_header,
    webp_header,
)
from trainer.data.images.in_graph.orientation import orientation
from trainer.data.images.orientation import ORIENTATIONS
from trainer.data.images.pixels import png_follows_rules, rules_of

NO_TIFF = "it is a TIFF, which a served network does not read; send it as PNG"


def served_image(data: tf.Tensor, name: tf.Tensor, config: PreprocessConfig) -> EncodedImage:
    """The image in ``data``, string ``[]``, the bytes of an image file. Messages call it ``name``, string ``[]``.

    Raises, when the graph runs:
        InvalidArgumentError: they are not an image, or one that the graph does not read as training does.
    """
    contents = Contents(data)
    applied = config.orientation

    def unknown() -> GraphHeader:
        problem = first_of(
            [
                (tf.equal(contents.length, 0), "it is empty (0 bytes)"),
                (tf.reduce_any([contents.begins(first, each) for each in TIFF_BEGINS]), NO_TIFF),
                (tf.constant(True), "it is not a JPEG, PNG, WebP, BMP or GIF image"),
            ]
        )
        return graph_header(place(1), place(1), problem=problem)

    first = place(0)
    webp = contents.begins(first, RIFF_BEGIN) & contents.begins(first + 8, WEBP_MARK)
    formats: list[tuple[tf.Tensor, Callable[[], GraphHeader]]] = [
        (contents.begins(first, JPEG_BEGIN), lambda: jpeg_header(contents, applied)),
        (contents.begins(first, PNG_BEGIN), lambda: png_header(contents, applied)),
        (webp, lambda: webp_header(contents, applied)),
        (contents.begins(first, BMP_BEGIN), lambda: Bitmap(contents).header()),
        (tf.reduce_any([contents.begins(first, each) for each in GIF_BEGINS]), lambda: FirstFrame(contents).header()),
        (tf.constant(True), unknown),
    ]
    matching, readers = zip(*formats, strict=True)
    kind = tf.argmax(tf.cast(tf.stack(matching), tf.int32), output_type=tf.int32)
    header = GraphHeader(*tf.switch_case(kind, list(readers)))
    turned = orientation(header.exif, header.xmp) if applied == "all" else header.jpeg_orientation
    checked = _checked(data, name, header)
    rules = rules_of(config)
    ruled = png_follows_rules(checked, rules)
    rewritten: list[Callable[[], tf.Tensor]] = [lambda: checked] * len(readers)
    if rules.background is None:
        rewritten[2] = lambda: tf.cond(header.native, lambda: checked, lambda: _opaque(checked))
        rewritten[3] = lambda: _as_png(Bitmap(Contents(checked)).pixels())
        rewritten[4] = lambda: FirstFrame(Contents(checked)).alone()
    else:
        rewritten[2] = lambda: tf.cond(header.native, lambda: checked, lambda: _as_png(_four_channels(checked)))
        rewritten[3] = lambda: _bitmap_with_alpha(Bitmap(Contents(checked)))
        rewritten[4] = lambda: _frame_with_alpha(FirstFrame(Contents(checked)))
        ruled |= (tf.equal(kind, 2) & ~header.native) | tf.equal(kind, 3) | tf.equal(kind, 4)
    data = tf.switch_case(kind, rewritten)
    transposed = tf.constant([each.transposed for each in ORIENTATIONS])[turned]
    size = tf.where(transposed, tf.stack([header.width, header.height]), tf.stack([header.height, header.width]))
    decoder = tf.where(tf.equal(kind, 0), JPEG, tf.where(ruled, RULED_PNG, OTHER))
    return EncodedImage(data, tf.concat([size, tf.stack([turned, decoder])], 0))


def _checked(data: tf.Tensor, name: tf.Tensor, header: GraphHeader) -> tf.Tensor:
    """``data``, once it is clear that the graph reads it as training does."""
    height, width = (tf.cast(each, tf.int64) for each in (header.height, header.width))
    size = tf.strings.join(
        ["its header says ", tf.strings.as_string(width), " x ", tf.strings.as_string(height), " pixels"]
    )
    problem = first_of(
        [
            (tf.not_equal(header.problem, ""), header.problem),
            ((height <= 0) | (width <= 0), size),
            (height * width > MAX_PIXELS, tf.strings.join([size, f", but at most {MAX_PIXELS} are read"])),
        ]
    )
    refusal = tf.strings.join([name, " cannot be classified: ", problem])
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [refusal])]):
        return tf.identity(data)


def _opaque(data: tf.Tensor) -> tf.Tensor:
    """A WebP with alpha or several frames as PNG: the colours alone, of the first frame."""
    return _as_png(_four_channels(data)[..., :3])


def _four_channels(data: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(data, channels=4, expand_animations=False)


def _bitmap_with_alpha(bitmap: Bitmap) -> tf.Tensor:
    return _as_png(tf.concat([bitmap.pixels(), bitmap.alpha()], -1))


def _frame_with_alpha(frame: FirstFrame) -> tf.Tensor:
    colours, transparent = (
        tf.io.decode_image(each, channels=3, expand_animations=False) for each in (frame.alone(), frame.transparent())
    )
    return _as_png(tf.concat([colours, 255 - transparent[..., :1]], -1))


def _as_png(pixels: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.EncodePng(image=pixels, compression=0)  # stored, because it is decoded next
