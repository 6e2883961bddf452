"""The network behind its preprocessing, as a function of encoded images."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.transforms import Draw, apply_transforms


class Classifier(tf.Module):
    """From encoded images to probabilities; what a SavedModel holds."""

    def __init__(self, model: keras.Model, config: Config, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self._model = model
        self._parameters = [variable.value for variable in model.weights]  # where tf.Module looks for variables
        self._preprocess = config.preprocess
        self._seed = config.seed
        self._class_names = tf.constant(class_names)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")], autograph=False)
    def classify(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """``image_bytes`` are string ``[n]``, each an image in a format that ``decode`` reads. Preprocessing is that
        of evaluation.

        Returns ``classes`` string ``[n, classes]`` and ``probabilities`` float32 ``[n, classes]``, both in label
        order: the shapes of TensorFlow Serving's classification signature.
        """
        size, draw = self._preprocess.image_size, Draw(self._seed, tf.constant(0, tf.int64))
        images = tf.map_fn(
            lambda encoded: apply_transforms(encoded, self._preprocess.eval, self._preprocess, draw),
            image_bytes,
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )
        probabilities = tf.nn.softmax(self._model(images, training=False))
        return {
            "classes": tf.broadcast_to(self._class_names, tf.shape(probabilities)),
            "probabilities": probabilities,
        }
