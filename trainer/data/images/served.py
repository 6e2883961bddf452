"""``readable`` of ``trainer.data.images.decoding`` with TensorFlow's operations alone, for a graph that is served.

A server has neither Python nor Pillow. What a graph cannot read exactly as training does, it refuses by name.
``tests/inference/test_input_table.py`` walks every format through both.
"""

from __future__ import annotations

import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import JPEG, OTHER, EncodedImage
from trainer.data.images.orientation import UPRIGHT


def served_image(data: tf.Tensor, config: PreprocessConfig) -> EncodedImage:
    """The image in ``data``, string ``[]``, the bytes of an image file.

    Raises, when the graph runs:
        InvalidArgumentError: they are not an image, or one that the graph does not read as training does.
    """
    jpeg = tf.io.is_jpeg(data)
    size = tf.cond(
        jpeg,
        lambda: tf.image.extract_jpeg_shape(data)[:2],
        lambda: tf.shape(tf.io.decode_image(data, channels=3, expand_animations=False))[:2],
    )
    return EncodedImage(data, tf.concat([size, [UPRIGHT, tf.where(jpeg, JPEG, OTHER)]], 0))
