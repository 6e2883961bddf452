"""Write a network of ``keras.applications`` in the formats of the Keras that runs this.

``python keras_writer.py NAME SIZE PLACE``; it imports nothing of ``trainer``, so that another version of Keras can run
it. ``PLACE`` gets a file for each format, and ``logits.npz`` with images float32 ``[4, SIZE, SIZE, 3]`` as the network
takes them and its logits float32 ``[4, 10]``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

CLASSES = 10
CALM = 2e-6
HALVINGS = 6  # of the interval of the factor of the kernels
KERAS_3 = keras.__version__.startswith("3")


def filled(name: str, size: int) -> Any:
    """The network with values as training leaves them."""
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
    )
    fill(model)
    return model


def fill(model: Any) -> None:
    """Give a network values as training leaves them, so that every layer has a part in logits of a size of one."""
    generator = np.random.default_rng(13)
    for layer in model.layers:
        pairs = zip(layer.weights, layer.get_weights(), strict=True)
        layer.set_weights([_value(layer, weight, array, generator) for weight, array in pairs])


def _value(layer: Any, weight: Any, array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    leaf = weight.name.rpartition("/")[2].removesuffix(":0")
    if array.dtype.kind != "f" or leaf in ("mean", "variance", "count"):
        return array  # of the normalisation of images within the network
    if array.ndim >= 2:
        depthwise = "Depthwise" in type(layer).__name__ or "depthwise" in weight.name
        fan_in = np.prod(array.shape[:2]) if depthwise else np.prod(array.shape[:-1])
        return (generator.standard_normal(array.shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)
    if leaf in ("moving_variance", "gamma"):
        return generator.uniform(0.5, 1.5, array.shape).astype(np.float32)
    return generator.normal(0.0, 0.1, array.shape).astype(np.float32)


def calm(model: Any, given: np.ndarray) -> None:
    """Make the kernels smaller, by as little as it takes until the last bits of the images do not change the logits by
    more than ``CALM`` of them. A deep network of large random values is chaotic, as a trained one is not: its own
    library does not compute the same logits in batches of another size.
    """
    kernels = [(weight, weight.numpy()) for weight in model.weights if len(weight.shape) >= 2]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], given.shape)
    beside = (given * (1 + signs * np.finfo(np.float32).eps / 2)).astype(np.float32)

    def is_calm(gain: float) -> bool:
        for weight, value in kernels:
            weight.assign(value * np.float32(gain))
        logits, others = (np.asarray(model(each, training=False)) for each in (given, beside))
        return bool(np.linalg.norm(others - logits) < CALM * np.linalg.norm(logits))

    if is_calm(1.0):
        return
    least, most = 0.5, 1.0
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        least, most = (middle, most) if is_calm(middle) else (least, middle)
    is_calm(least)


def images(size: int) -> np.ndarray:
    """Coarse patterns: noise would average to the same features in every image."""
    patches = np.random.default_rng(5).uniform(0, 1, (4, 4, 4, 3)).astype(np.float32)
    return patches.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]


def save(model: Any, place: Path, only: Sequence[str]) -> None:
    """All formats of this version of Keras, or some."""
    place.mkdir(parents=True, exist_ok=True)
    if only:
        for name in only:
            model.save_weights(place / name) if name.endswith(".weights.h5") else model.save(place / name)
        return
    model.save(place / "model.keras")
    model.save(place / "model.h5")
    model.save_weights(place / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(place / "checkpoint"))
    if KERAS_3:
        model.export(str(place / "exported"), verbose=False)
    else:
        model.save_weights(str(place / "weights_only.h5"))
        model.save_weights(str(place / "tensorflow" / "weights"))
        model.save(str(place / "saved"), save_format="tf")


def main(name: str, size: int, place: Path, only: Sequence[str] = ()) -> None:
    model = filled(name, size)
    # the network's own rescaling takes pixels in 0..255, the others take what they are given
    rescales = any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers)
    given = (images(size) * (255.0 if rescales else 2.0) - (0.0 if rescales else 1.0)).astype(np.float32)
    calm(model, given)
    save(model, place, only)
    np.savez(place / "logits.npz", images=given, logits=np.asarray(model(given, training=False)), rescales=rescales)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
