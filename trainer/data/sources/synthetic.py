"""Made-up images for benchmarks, without any file.

With ``data.decode`` they are JPEG files of about the size and texture of photographs, which go through the real
decoder and all transforms; without it they are the network's input itself, so that nothing but the network is
measured. A split has ``DISTINCT`` different images, and record r shows image r mod ``DISTINCT``: what is measured is
decoding, not making them up. Labels are record numbers modulo the number of classes; there is nothing to learn.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.contracts import Split
from trainer.config.schema.sources import SyntheticConfig
from trainer.data.sources.class_names import numbered
from trainer.errors import NoSuchSplit
from trainer.runtime.seeds import derive_seed

Numbers = npt.NDArray[np.int64]

DISTINCT = 32
PATCH = 32  # pixels between the corners of the colour gradients
NOISE = 12.0  # standard deviation, of 0..255; with quality 92 a 500x375 image has about 80 KB
QUALITY = 92


class SyntheticSplit:
    """One split of made-up images."""

    def __init__(self, config: SyntheticConfig, split: Split) -> None:
        if split == "test":
            raise NoSuchSplit("data=synthetic has no test split, only train and validation: it is made up")
        self.count = config.train_examples if split == "train" else config.validation_examples
        self.class_names = numbered(config.num_classes)
        self._config = config
        self._split = split

    @functools.cached_property
    def _images(self) -> list[bytes]:
        """Made by the first read: before a run has configured TensorFlow, no operation may be executed."""
        seeds = [derive_seed(0, "synthetic", self._split, number) for number in range(DISTINCT)]
        pictures = [_picture(self._config, seed) for seed in seeds]
        if self._config.decode:
            return [bytes(tf.io.encode_jpeg(picture, quality=QUALITY).numpy()) for picture in pictures]
        return [picture.numpy().tobytes() for picture in pictures]

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        return [self._images[record % DISTINCT] for record in records], records % len(self.class_names)

    def labels(self) -> Numbers:
        return np.arange(self.count, dtype=np.int64) % len(self.class_names)

    def place(self, record: int) -> str:
        return f"synthetic {self._split} record {record}"

    def listing(self, records: Numbers) -> None:
        """None: the program makes all of it."""

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]


def ready_input(pixels: tf.Tensor, config: SyntheticConfig) -> tf.Tensor:
    """The record of ``decode=false`` as float32 ``[height, width, 3]`` in -1..1."""
    image = tf.reshape(tf.io.decode_raw(pixels, tf.uint8), [config.height, config.width, 3])
    return tf.cast(image, tf.float32) / 127.5 - 1.0


def _picture(config: SyntheticConfig, seed: int) -> tf.Tensor:
    """Smooth colour gradients with noise, uint8 ``[height, width, 3]``."""

    def noise(shape: list[int], purpose: int) -> tf.Tensor:
        return tf.random.stateless_normal(shape, [seed, purpose], alg="philox")

    corners = noise([config.height // PATCH + 2, config.width // PATCH + 2, 3], 0)
    size = [config.height, config.width]
    picture = 128.0 + 64.0 * tf.image.resize(corners, size, "bicubic") + NOISE * noise([*size, 3], 1)
    return tf.cast(tf.clip_by_value(picture, 0.0, 255.0), tf.uint8)
