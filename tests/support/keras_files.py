"""``keras.applications.InceptionV3`` with narrow layers, alone and inside models that Keras's recipes make of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import keras
import tensorflow as tf
from foreign_files import Arrays
from keras.src.applications import inception_v3

NUMBER = re.compile(r"(\d*)$")
IMAGE = (75, 75, 3)


def narrow_base(
    width: float, min_depth: int, dtype: str = "float32", classes: int = 0, **options: object
) -> keras.Model:
    """The network as Keras builds it, with fewer filters; ``classes`` gives it its classifier ``predictions``."""
    convolution = inception_v3.conv2d_bn

    def narrow(x: object, filters: int, *arguments: object, **keywords: object) -> object:
        return convolution(x, max(int(filters * width), min_depth), *arguments, **keywords)

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        with mock.patch.object(inception_v3, "conv2d_bn", narrow):
            return keras.applications.InceptionV3(
                weights=None, include_top=classes > 0, input_shape=IMAGE, classes=classes or 1000, **options
            )
    finally:
        keras.config.set_dtype_policy(before)


def fill(base: keras.Model, arrays: Arrays, units: list[str]) -> None:
    """Give ``base`` our values: Keras creates its layers in the order of ``units``, and numbers them so."""
    for kind, layer_type in (("conv", keras.layers.Conv2D), ("batch_norm", keras.layers.BatchNormalization)):
        layers = [layer for layer in base.layers if isinstance(layer, layer_type)]
        layers.sort(key=lambda layer: int(NUMBER.findall(layer.name)[0] or 0))
        for unit, layer in zip(units, layers, strict=True):
            for variable in layer.variables:
                variable.assign(arrays[f"{unit}/{kind}/{variable.name}"])


def functional(base: keras.Model) -> keras.Model:
    """https://keras.io/guides/transfer_learning: the base is a layer, and a classifier is put on top."""
    image = keras.Input(IMAGE)
    x = keras.layers.GlobalAveragePooling2D()(base(image, training=False))
    return keras.Model(image, keras.layers.Dense(4, name="answer")(keras.layers.Dropout(0.2)(x)))


def sequential(base: keras.Model) -> keras.Model:
    return keras.Sequential([keras.Input(IMAGE), base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])


def deeper(base: keras.Model) -> keras.Model:
    """A model in a model in a model, with two convolutions, batch norms and dense layers on top. They have the names
    that Keras gives in a process that has loaded the base and built none.
    """
    image = keras.Input(IMAGE)
    x = keras.layers.Conv2D(3, 3, padding="same", name="conv2d")(image)
    x = keras.layers.BatchNormalization(name="batch_normalization")(x)
    x = keras.layers.Conv2D(5, 1)(sequential_features(base)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    return keras.Model(image, keras.layers.Dense(4, name="predictions")(keras.layers.Dense(6, name="hidden")(x)))


def sequential_features(base: keras.Model) -> keras.Model:
    return keras.Sequential([keras.Input(IMAGE), base], name="features")


def flat(base: keras.Model) -> keras.Model:
    """The other recipe: the base's own layers are the model's, and a head with batch norm follows."""
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(5, 1)(base.output))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(base.input, keras.layers.Dense(4, name="answer")(x))


def save_keras(model: keras.Model, place: Path) -> Path:
    model.save(place / "model.keras")
    return place / "model.keras"


def save_legacy(model: keras.Model, place: Path) -> Path:
    model.save(place / "model.h5")
    return place / "model.h5"


def save_weights(model: keras.Model, place: Path) -> Path:
    model.save_weights(place / "model.weights.h5")
    return place / "model.weights.h5"


def save_checkpoint(model: keras.Model, place: Path) -> Path:
    return Path(tf.train.Checkpoint(model=model).write(str(place / "model")))


MODELS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "functional": functional,
    "sequential": sequential,
    "deeper": deeper,
    "flat": flat,
}
SAVERS: dict[str, Callable[[keras.Model, Path], Path]] = {
    ".keras": save_keras,
    ".h5": save_legacy,
    ".weights.h5": save_weights,
    "checkpoint": save_checkpoint,
}
once = functools.cache(narrow_base)
