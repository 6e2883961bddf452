"""A trained network ready for use: images in, probabilities out."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import keras
import numpy as np
import numpy.typing as npt
import PIL.Image
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
from trainer.inference.given_images import KINDS, Image, contents
from trainer.inference.notebook_html import table
from trainer.inference.probabilities import Network, Probabilities, make_network, most_probable
from trainer.run.restore import restore

Images = Sequence[Image] | npt.NDArray[np.uint8]
Labels = list[list[tuple[str, float]]]


@dataclasses.dataclass(frozen=True, repr=False)
class Predictor:
    """The network of a checkpoint, with the meaning of its inputs and outputs.

    ``model`` is a Keras model of Keras's own layers, from the images of ``preprocess`` to logits, float32
    ``[n, classes]``, without the auxiliary classifier. ``class_names`` has a name for each of its outputs. ``weights``
    says which weights of ``checkpoint``, made at ``step``, the model has. ``network`` is the function that evaluates
    the run, from the images of ``preprocess`` to probabilities, in the run's own precision.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    config: Config
    checkpoint: Path
    step: int
    weights: WeightsName
    network: Network

    def __repr__(self) -> str:
        return f"<Predictor: {', '.join(f'{name} {value}' for name, value in self._facts())}>"

    def _repr_html_(self) -> str:
        return table("Predictor", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        size = self.config.preprocess.image_size
        return [
            ("network", self.config.model.name),
            ("classes", str(len(self.class_names))),
            ("images", f"{size} x {size}"),
            ("weights", self.weights),
            ("checkpoint", str(self.checkpoint)),
        ]

    def preprocess(self, images: Images) -> npt.NDArray[np.float32]:
        """The network's input, float32 ``[n, S, S, 3]``: images decoded and transformed as in evaluation.

        ``images`` are paths of files in any format that training reads, images of Pillow, or arrays uint8 in 0..255:
        ``[height, width]`` of grey, ``[height, width, 3]`` of RGB, or ``[height, width, 4]`` of RGB and opacity; each
        of any size. One array of them, with a first dimension ``n``, also works.

        Raises:
            UsageError: a file cannot be read, or an image is something else.
            BadRecord: a file is not an image that can be decoded.

        Warns, with the file's name, of a damaged JPEG that libjpeg repairs, and of an image of 16 bits a channel whose
        values are almost one shade for the network.
        """
        inputs = [self._input(image) for image in _several(images)]
        size = self.config.preprocess.image_size
        return np.stack(inputs) if inputs else np.zeros([0, size, size, 3], np.float32)

    @overload
    def predict(self, images: Images, *, top: None = None) -> Probabilities: ...

    @overload
    def predict(self, images: Images, *, top: int) -> Labels: ...

    def predict(self, images: Images, *, top: int | None = None) -> Probabilities | Labels:
        """Probabilities, float32 ``[n, classes]`` in the order of ``class_names``; each row adds up to 1.

        With ``top``, for each image instead the ``top`` most probable classes, or all where there are fewer, as pairs
        of name and probability, the most probable first.

        ``images`` as for ``preprocess``. The network computes ``evaluation.batch_size`` of them at a time, and where
        there are more, the last batch is filled up: so are the batches of ``evaluate``, and the values have its bits.

        Raises:
            UsageError, BadRecord: as in ``preprocess``.
        """
        if top is not None and top < 1:
            raise UsageError(f"top={top} must be at least 1")
        images, size = _several(images), self.config.evaluation.batch_size
        parts = []
        for start in range(0, len(images), size):
            part = self.preprocess(images[start : start + size])
            fillers = np.repeat(part[-1:], size - len(part) if start else 0, axis=0)
            parts.append(self.network(tf.constant(np.concatenate([part, fillers]))).numpy()[: len(part)])
        found = np.concatenate(parts) if parts else np.zeros([0, len(self.class_names)], np.float32)
        if top is None:
            return found
        return [
            [(name, float(value)) for name, value in most_probable(values, self.class_names, top)] for values in found
        ]

    def _input(self, image: Image) -> tf.Tensor:
        """One image, which takes the path of files."""
        config, draw = self.config.preprocess, Draw(self.config.seed, tf.constant(0, tf.int64))
        data = contents(image, config)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else None
        failed, reason = None, None
        with listening() as heard:
            try:
                found = network_input(encoded_image(data, config), config.eval, config, draw)
            except (ImageFault, tf.errors.InvalidArgumentError) as error:
                failed, reason = error, fault(data, config)
        if failed is not None:
            if reason is None or name is None:
                raise failed
            raise BadRecord(f"{name} cannot be decoded: {reason}")
        if name is not None:
            for text in (*dict.fromkeys(heard), *dark(data, config)):
                warnings.warn(f"{name}: {text}", stacklevel=4)
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
        network=make_network(restored.state, which),
    )


def _several(images: Images) -> Images:
    """``images``, unless it is one: a path, a picture, or an array that could be one picture or several."""
    if isinstance(images, str | os.PathLike):
        raise UsageError(f"{images} is one path; give a list: [{str(images)!r}]")
    if isinstance(images, PIL.Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        shape = "" if isinstance(images, PIL.Image.Image) else f" {list(images.shape)}"
        raise UsageError(f"{type(images).__name__}{shape} is one image; give a list: [image]. An image is {KINDS}")
    return images
