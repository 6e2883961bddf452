"""An export is read as its users read it, and compared with the run's own network, before it becomes visible."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.data.images.decoding import encoded_image
from trainer.data.images.draw import Draw
from trainer.data.images.transforms import network_input
from trainer.errors import RestoreRefused
from trainer.inference.export import pixels
from trainer.training.state import TrainingState, build_state
from trainer.training.step import inference

PROBES = 4
COARSE = 6  # sides of the grid of colours that a probe is enlarged from, so that it survives a resize
# of the largest logit, or of 1; the sums of Inception V3 in another order differ by 1e-6 to 1e-5
TOLERANCE = 1e-4
LOST_ACCURACY = 0.01  # that 8 bits may cost


@dataclasses.dataclass(frozen=True)
class Probe:
    """Images and what the run's network makes of them in float32.

    ``encoded`` has the bytes of ``PROBES`` image files. ``images`` are the same for the network, float32
    ``[n, S, S, 3]``, and ``logits`` its outputs, float32 ``[n, classes]``. ``fed`` are the same for a network that
    normalises them itself, see ``pixels.fed``.
    """

    encoded: tuple[bytes, ...]
    images: tf.Tensor
    logits: npt.NDArray[np.float32]
    fed: npt.NDArray[np.float32]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """The softmax of ``logits``."""
        probabilities: npt.NDArray[np.float32] = tf.nn.softmax(self.logits).numpy()
        return probabilities


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Of so many validation ``images``, how many a network of 8 bits has ``right``, and how many the one in float32."""

    images: int
    right: int
    right_in_float32: int


def probe(config: Config, state: TrainingState, weights: WeightsName) -> Probe:
    """Images of colours drawn at random, the same in every process, through the network with ``weights``.

    A network of 16 bits is built again in float32, as which it is exported.
    """
    draw = Draw(config.seed, tf.constant(0, tf.int64))
    encoded = tuple(_picture(number, config.preprocess.image_size) for number in range(PROBES))
    images = tf.stack(
        [
            network_input(encoded_image(data, config.preprocess), config.preprocess.eval, config.preprocess, draw)
            for data in encoded
        ]
    )
    if config.runtime.precision != "float32":
        exact = build_state(in_float32(config), drawn=False)
        _copy(state.weights(weights), exact.weights("raw"))
        state, weights = exact, "raw"
    fed = np.stack([pixels.fed(data, config).numpy() for data in encoded])
    return Probe(encoded, images, inference(state, weights)(images).numpy(), fed)


def in_float32(config: Config) -> Config:
    """``config`` with the precision of exports."""
    return dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, precision="float32"))


def refuse_difference(
    expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], what: str, tolerance: float = TOLERANCE
) -> None:
    """
    Raises:
        RestoreRefused: ``what``, read again, gives values that differ by more than ``tolerance``, relative to the
            largest or to 1. Names the largest difference.
    """
    if expected.shape != found.shape:
        raise RestoreRefused(
            f"{what} gives outputs of the shape {list(found.shape)}, the run's network {list(expected.shape)}; "
            "nothing was written"
        )
    limit = tolerance * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(found - expected).max())
    if not difference <= limit and not np.array_equal(expected, found, equal_nan=True):
        raise RestoreRefused(
            f"{what}, read again, differs from the run's network by {difference:.2g}, of which {limit:.2g} would be "
            f"rounding; nothing was written\n"
            "a layer of a plug-in that does not give in get_config() all that it computes with can cause this"
        )


def refuse_lost_accuracy(found: Accuracy, what: str) -> None:
    """
    Raises:
        RestoreRefused: the network in float32 has more than ``LOST_ACCURACY`` more of the images right than ``what``.
    """
    if found.right_in_float32 - found.right > LOST_ACCURACY * found.images:
        raise RestoreRefused(
            f"{what} has {found.right} of {found.images} validation images right, the network in float32 "
            f"{found.right_in_float32}; more than {100 * LOST_ACCURACY:g} point of accuracy is lost, and nothing was "
            "written"
        )


def _picture(number: int, size: int) -> bytes:
    """A PNG file of ``size`` pixels a side."""
    colours = np.random.default_rng(number).integers(0, 256, [COARSE, COARSE, 3], np.uint8)
    content = io.BytesIO()
    Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC).save(content, "png")
    return content.getvalue()


def _copy(values: Mapping[str, tf.Variable], variables: Mapping[str, tf.Variable]) -> None:
    for name, variable in variables.items():
        variable.assign(values[name])
