"""The network for inference in Keras's own layers, for programs where this trainer is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.models.layers import FusedBatchNormalization, KeyedDropout
from trainer.training.state import variable_name


def stock_model(model: keras.Model, values: Mapping[str, tf.Variable]) -> keras.Model:
    """``model`` with ``values`` (name → variable) for its weights, from ``image`` to ``logits`` only.

    The input is float32 ``[n, S, S, 3]`` from preprocessing, the output float32 ``[n, classes]``. Layers keep their
    names. The auxiliary classifier is left out: it serves training only.
    """
    twin = keras.models.clone_model(model, clone_function=_stock_layer, call_function=_call)
    image = next(tensor for tensor in twin.inputs if tensor.name == "image")
    stock = keras.Model(image, twin.output["logits"], name=model.name)
    for variable in stock.weights:  # without the state of Dropout, which is a seed
        variable.assign(values[variable_name(variable)])
    return stock


def _stock_layer(layer: Any) -> Any:
    if not isinstance(layer, keras.Layer):
        return layer  # an operation between layers, which has no variables
    config = layer.get_config()
    if isinstance(layer, FusedBatchNormalization):
        # Keras accepts synchronized=True on its TensorFlow backend only, and inference does not use it
        config.pop("group_size")
        return keras.layers.BatchNormalization.from_config({**config, "synchronized": False})
    if isinstance(layer, KeyedDropout):
        features, uniform = layer.input
        together = None if uniform.shape == features.shape else uniform.shape
        return keras.layers.Dropout(layer.rate, together, name=layer.name, dtype=config["dtype"])
    return type(layer).from_config(config)


def _call(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
    if isinstance(layer, keras.layers.Dropout):
        features, _ = arguments[0]  # Keras's layer makes its own draws; KeyedDropout takes them as an input
        return layer(features)
    return layer(*arguments, **keywords)
