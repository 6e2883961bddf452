"""Preprocessing and the network together, as a function of encoded images."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.images.draw import Draw
from trainer.data.images.served import served_image
from trainer.data.images.transforms import network_input


class Classifier(tf.Module):
    """The contents of a SavedModel: from encoded images to probabilities."""

    def __init__(self, model: keras.Model, config: Config, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self._model = model
        self._parameters = [variable.value for variable in model.weights]  # where tf.Module looks for variables
        self._preprocess = config.preprocess
        self._seed = config.seed
        self._class_names = tf.constant(class_names)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")], autograph=False)
    def classify(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classify ``image_bytes``, string ``[n]``, each the bytes of an image file. The network gets the pixels that
        evaluation gives it, upright, to the bit: docs/data.md has the formats.

        Returns ``classes`` string ``[n, classes]`` and ``probabilities`` float32 ``[n, classes]``, both in label
        order: the shapes of TensorFlow Serving's classification signature.

        Raises, when the graph runs:
            InvalidArgumentError: one is not an image, or one that a graph does not read as training does. The message
                has its number in the request, from 0 on, and says what it is.
        """
        size, draw = self._preprocess.image_size, Draw(self._seed, tf.constant(0, tf.int64))
        images = tf.map_fn(
            lambda each: network_input(
                served_image(each[0], tf.strings.join(["image ", tf.strings.as_string(each[1])]), self._preprocess),
                self._preprocess.eval,
                self._preprocess,
                draw,
            ),
            (image_bytes, tf.range(tf.shape(image_bytes)[0])),
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )
        probabilities = tf.nn.softmax(self._model(images, training=False))
        return {
            "classes": tf.broadcast_to(self._class_names, tf.shape(probabilities)),
            "probabilities": probabilities,
        }
