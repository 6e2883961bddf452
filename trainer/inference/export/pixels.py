"""What a converted network is fed: pixels of a resized image, and a description of the rest of preprocessing.

A runtime that reads no image files leaves decoding, cropping and resizing to its program. The normalisation is in the
network, where it cannot be forgotten.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import encoded_image
from trainer.data.images.draw import Draw
from trainer.data.images.transforms import network_input

NORMALIZE = "normalize"
WHITE = 255.0
INPUT, OUTPUT = "image", "logits"
DECODING = ("orientation", "background", "sixteen_bit_range")  # keys of preprocess that say how a file is read


def outside(config: PreprocessConfig) -> PreprocessConfig:
    """``config`` with the steps of evaluation that the program around a converted network makes: all but the
    normalisation at their end.
    """
    steps = config.eval
    return dataclasses.replace(config, eval=steps[:-1]) if steps[-1] == NORMALIZE else config


def fed(data: bytes, config: Config) -> tf.Tensor:
    """What the network of ``pixel_model`` is fed for the image file ``data``: float32 ``[S, S, 3]``."""
    rest = outside(config.preprocess)
    draw = Draw(config.seed, tf.constant(0, tf.int64))
    return network_input(encoded_image(data, rest), rest.eval, rest, draw) * scale(config.preprocess)


def scale(config: PreprocessConfig) -> float:
    """What the values after the steps outside are multiplied by: they are pixels from 0 to 255 for whoever feeds the
    network, unless they were normalised before the last step.
    """
    return WHITE if NORMALIZE not in outside(config).eval else 1.0


def pixel_model(stock: keras.Model, config: PreprocessConfig) -> keras.Model:
    """``stock``, a model of ``stock_model``, behind its normalisation: from what ``fed`` gives, float32
    ``[n, S, S, 3]``, to logits float32 ``[n, classes]``.
    """
    size = config.image_size
    image = keras.Input((size, size, 3), name=INPUT)
    values = image / scale(config)
    if config.eval[-1] == NORMALIZE:
        mean, std = (np.array(each, np.float32) for each in (config.normalize.mean, config.normalize.std))
        if config.normalize.channels == "bgr":
            values, mean, std = values[..., ::-1], mean[::-1], std[::-1]
        values = (values - mean) / std
    return keras.Model({INPUT: image}, {OUTPUT: stock(values)}, name=stock.name)


def description(
    config: Config, class_names: tuple[str, ...], origin: Mapping[str, str], quantization: Mapping[str, Any] | None
) -> str:
    """The JSON document beside a converted network: what to feed, what comes out, where it comes from, and
    ``quantization``, what is known of a network of 8 bits.
    """
    rest, side = outside(config.preprocess), config.preprocess.image_size
    is_pixels = scale(config.preprocess) == WHITE
    values = "red, green and blue from 0 to 255, after preprocessing" if is_pixels else "what preprocessing gives"
    about = {
        "preprocessing": [_step(name, rest) for name in rest.eval],
        "input": {"name": INPUT, "dtype": "float32", "shape": ["n", side, side, 3], "values": values},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["n", len(class_names)], "values": "logits"},
        "classes": list(class_names),
        "quantization": quantization,
        **origin,
    }
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"


def _step(name: str, config: PreprocessConfig) -> dict[str, Any]:
    """One step of preprocessing with the keys that decide it."""
    tree = dataclasses.asdict(config)
    if name == "decode":
        return {"step": name, **{key: tree[key] for key in DECODING}}
    keys = tree["plugins"].get(name, tree.get(name, {}))
    size = {"size": config.image_size} if name == "resize" else {}
    return {"step": name, **size, **keys}
