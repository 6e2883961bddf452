"""A trained network ready for use: images in, probabilities out."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.data.images.decoding import encoded_image, fault
from trainer.data.images.draw import Draw
from trainer.data.images.headers import ImageFault
from trainer.data.images.libjpeg import listening
from trainer.data.images.transforms import network_input
from trainer.data.sixteen_bits import dark
from trainer.errors import BadRecord, UsageError
from trainer.inference.export.stock_model import stock_model
from trainer.run.restore import restore

Image = str | os.PathLike[str] | npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """The network of a checkpoint, with the meaning of its inputs and outputs.

    ``model`` is a Keras model of Keras's own layers, from the images of ``preprocess`` to logits, float32
    ``[n, classes]``, without the auxiliary classifier. ``class_names`` has a name for each of its outputs. ``weights``
    says which weights of ``checkpoint``, made at ``step``, the model has.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    config: Config
    checkpoint: Path
    step: int
    weights: WeightsName

    def preprocess(self, images: Sequence[Image] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's input, float32 ``[n, S, S, 3]``: images decoded and transformed as in evaluation.

        ``images`` are paths of files in any format that training reads, or arrays uint8 ``[height, width, 3]`` of RGB
        in 0..255, each of any size. One array ``[n, height, width, 3]`` also works.

        Raises:
            UsageError: a file cannot be read, or an array is something else.
            BadRecord: a file is not an image that can be decoded.

        Warns, with the file's name, of a damaged JPEG that libjpeg repairs, and of an image of 16 bits a channel whose
        values are almost one shade for the network.
        """
        inputs = [self._input(image) for image in _several(images)]
        size = self.config.preprocess.image_size
        return np.stack(inputs) if inputs else np.zeros([0, size, size, 3], np.float32)

    def predict(self, images: Sequence[Image] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities, float32 ``[n, classes]`` in the order of ``class_names``; each row adds up to 1.

        ``images`` as for ``preprocess``. The network computes ``evaluation.batch_size`` of them at a time.

        Raises:
            UsageError, BadRecord: as in ``preprocess``.
        """
        images, size = _several(images), self.config.evaluation.batch_size
        parts = [
            tf.nn.softmax(self.model(self.preprocess(images[start : start + size]), training=False)).numpy()
            for start in range(0, len(images), size)
        ]
        return np.concatenate(parts) if parts else np.zeros([0, len(self.class_names)], np.float32)

    def _input(self, image: Image) -> tf.Tensor:
        """One image. Pixels are encoded without loss, so that all images take one path."""
        config, draw = self.config.preprocess, Draw(self.config.seed, tf.constant(0, tf.int64))
        data = _contents(image)
        failed, reason = None, None
        with listening() as heard:
            try:
                found = network_input(encoded_image(data, config), config.eval, config, draw)
            except (ImageFault, tf.errors.InvalidArgumentError) as error:
                failed, reason = error, fault(data, config)
        if failed is not None:
            if reason is None or isinstance(image, np.ndarray):
                raise failed
            raise BadRecord(f"{os.fspath(image)} cannot be decoded: {reason}")
        if not isinstance(image, np.ndarray):
            for text in (*dict.fromkeys(heard), *dark(data, config)):
                warnings.warn(f"{os.fspath(image)}: {text}", stacklevel=4)
        return found


def predictor(run_dir: Path, checkpoint: str, weights: WeightsName | None, allow: Sequence[str]) -> Predictor:
    """The network of a checkpoint; see ``trainer.api.load``."""
    restored = restore(run_dir, checkpoint, allow)
    which = restored.weights(weights)
    if restored.doubt is not None:
        warnings.warn(restored.doubt, stacklevel=3)
    return Predictor(
        model=stock_model(restored.state.model, restored.state.weights(which)),
        class_names=restored.output_names,
        config=restored.config,
        checkpoint=restored.path,
        step=restored.manifest.step,
        weights=which,
    )


def _several(images: Sequence[Image] | npt.NDArray[np.uint8]) -> Sequence[Image] | npt.NDArray[np.uint8]:
    if isinstance(images, str | os.PathLike):
        raise UsageError(f"{images} is one path; give a list: [{str(images)!r}]")
    return images


def _contents(image: Image) -> bytes:
    """The bytes of an image file."""
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UsageError(f"{os.fspath(image)} cannot be read: {error.strerror}") from error
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(f"an image is {found}, but must be a path or an array uint8 [height, width, 3]")
    return bytes(tf.io.encode_png(image).numpy())
