"""The network for inference in Keras's own layers, for programs where this trainer is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import UsageError
from trainer.models.layers import FusedBatchNormalization, KeyedDropout
from trainer.training.state import variable_name

FLOAT32 = "float32"


def stock_model(model: keras.Model, values: Mapping[str, tf.Variable]) -> keras.Model:
    """``model`` with ``values`` (name → variable) for its weights, from ``image`` to ``logits`` only.

    The input is float32 ``[n, S, S, 3]`` from preprocessing, the output float32 ``[n, classes]``. Layers keep their
    names. The auxiliary classifier is left out: it serves training only. Every layer computes in float32, whatever
    ``runtime.precision`` is: the values are float32, and TFLite and Core ML refuse layers of 16 bits.

    Raises:
        UsageError: an operation between layers asks for 16 bits; names it.
    """
    twin = keras.models.clone_model(model, clone_function=_stock_layer, call_function=_call)
    image = next(tensor for tensor in twin.inputs if tensor.name == "image")
    stock = keras.Model(image, twin.output["logits"], name=model.name)
    for variable in stock.weights:  # without the state of Dropout, which is a seed
        variable.assign(values[variable_name(variable)])
    _refuse_other_precision(stock)
    return stock


def _refuse_other_precision(model: keras.Model) -> None:
    for operation in model.operations:
        outputs = operation.output if isinstance(operation.output, list | tuple) else [operation.output]
        found = {tensor.dtype for tensor in outputs}
        if isinstance(operation, keras.Layer):
            found |= {operation.compute_dtype, operation.variable_dtype}
        if other := sorted(dtype for dtype in found if "float" in dtype and dtype != FLOAT32):
            raise UsageError(
                f"{operation.name} of {model.name} computes in {other[0]}, and exports are {FLOAT32} throughout\n"
                "let the network cast to the type of its input, not to a fixed one"
            )


def _stock_layer(layer: Any) -> Any:
    if not isinstance(layer, keras.Layer):
        return layer  # an operation between layers, which has no variables
    config = {**layer.get_config(), "dtype": FLOAT32}
    if isinstance(layer, FusedBatchNormalization):
        # Keras accepts synchronized=True on its TensorFlow backend only, and inference does not use it
        config.pop("group_size")
        return keras.layers.BatchNormalization.from_config({**config, "synchronized": False})
    if isinstance(layer, KeyedDropout):
        features, uniform = layer.input
        together = None if uniform.shape == features.shape else uniform.shape
        return keras.layers.Dropout(layer.rate, together, name=layer.name, dtype=FLOAT32)
    return type(layer).from_config(config)


def _call(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
    if isinstance(layer, keras.layers.Dropout):
        features, _ = arguments[0]  # Keras's layer makes its own draws; KeyedDropout takes them as an input
        return layer(features)
    return layer(*arguments, **keywords)
