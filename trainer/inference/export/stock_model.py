"""The network for inference in Keras's own layers, for programs where this trainer is not installed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import UsageError
from trainer.models.layers import FusedBatchNormalization, KeyedDropout
from trainer.training.state import variable_name

FLOAT32 = "float32"
LEVEL = "__"  # between the levels of a layer's name; Keras's PyTorch backend takes no dots in names


def stock_model(
    model: keras.Model, values: Mapping[str, tf.Variable], *, keeps_batch_norm: bool = False
) -> keras.Model:
    """``model`` with ``values`` (name → variable) for its weights, from ``image`` to ``logits`` only.

    With ``keeps_batch_norm`` its batch norm is the run's own, for a graph in which layers are gone: it rounds as
    evaluation does, and Keras's layer otherwise.

    The input is float32 ``[n, S, S, 3]`` from preprocessing, the output float32 ``[n, classes]``. Layers keep their
    names, with ``LEVEL`` for dots. The auxiliary classifier is left out: it serves training only. Every layer computes
    in float32, whatever ``runtime.precision`` is: the values are float32, and TFLite and Core ML refuse layers of 16
    bits.

    Raises:
        UsageError: an operation between layers asks for 16 bits; names it.
    """
    clone = functools.partial(_stock_layer, keeps_batch_norm=keeps_batch_norm)
    twin = keras.models.clone_model(model, clone_function=clone, call_function=_call)
    image = next(tensor for tensor in twin.inputs if tensor.name == "image")
    stock = keras.Model(image, twin.output["logits"], name=model.name)
    names = own_names(model, stock)
    for variable in stock.weights:  # without the state of Dropout, which is a seed
        variable.assign(values[names[variable.path]])
    _refuse_other_precision(stock)
    return stock


def own_names(model: keras.Model, stock: keras.Model) -> dict[str, str]:
    """The path of each weight in ``stock``, the ``stock_model`` of ``model`` → its name in the state tree.

    Keras numbers the variables that their layer gives no name, such as the scales of ConvNeXt, through the process.
    They are found by their place in the layer.
    """
    by_path = {_portable(variable.path): variable_name(variable) for variable in model.weights}
    layers = {_portable(layer.name): layer for layer in model.layers}
    return {
        weight.path: by_path[weight.path]
        if weight.path in by_path
        else variable_name(layers[layer.name].weights[place])
        for layer in stock.layers
        for place, weight in enumerate(layer.weights)
    }


def _portable(name: str) -> str:
    return name.replace(".", LEVEL)


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


def _stock_layer(layer: Any, *, keeps_batch_norm: bool) -> Any:
    if not isinstance(layer, keras.Layer):
        return layer  # an operation between layers, which has no variables
    config = {**layer.get_config(), "dtype": FLOAT32, "name": _portable(layer.name)}
    if isinstance(layer, FusedBatchNormalization) and not keeps_batch_norm:
        # Keras accepts synchronized=True on its TensorFlow backend only, and inference does not use it
        config.pop("group_size")
        return keras.layers.BatchNormalization.from_config({**config, "synchronized": False})
    if isinstance(layer, KeyedDropout):
        features, uniform = layer.input
        together = None if uniform.shape == features.shape else uniform.shape
        return keras.layers.Dropout(layer.rate, together, name=config["name"], dtype=FLOAT32)
    return type(layer).from_config(config)


def _call(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
    if isinstance(layer, keras.layers.Dropout):
        features, _ = arguments[0]  # Keras's layer makes its own draws; KeyedDropout takes them as an input
        return layer(features)
    return layer(*arguments, **keywords)
