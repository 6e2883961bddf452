"""Any classifier of Keras's own layers, made a function of what the state tree holds.

A network that Keras builds keeps part of its future in hidden places: dropout counts its calls, initialisers draw from
the process, layers are numbered by what else was built before, batch norm knows nothing of replicas. Here it is built
once more from its layers' configurations, with each of these replaced.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import keras

from trainer.config.schema.networks import BatchStatisticsConfig, ConventionsName
from trainer.config.schema.training import Precision
from trainer.errors import UsageError
from trainer.models.conventions import as_torch, epsilon
from trainer.models.layers import Draws, FusedBatchNormalization, KeyedDropout
from trainer.runtime.seeds import derive_seed

NUMBER = re.compile(r"_\d+$")
PREPROCESSING = (keras.layers.Rescaling, keras.layers.Normalization)


@dataclasses.dataclass(frozen=True)
class _Dropped:
    """A dropout layer of the original and where its draws begin in the ``dropout`` input."""

    first: int
    shape: tuple[int, ...]


def exact(
    model: keras.Model,
    statistics: BatchStatisticsConfig,
    name: str,
    seed: int | None,
    precision: Precision,
    conventions: ConventionsName = "keras",
) -> keras.Model:
    """``model``, from one image to logits, with the inputs and outputs of ``build_inception_v3``.

    - dropout, of features or of whole branches, takes its draws from the input ``dropout``;
    - batch norm over the last axis is the fused one, with the momentum and epsilon that ``model`` has;
    - every initialiser draws from a seed that only ``seed`` and its layer's name decide; without one it makes zeros;
    - layers that Keras has numbered are numbered from the beginning of this network;
    - layers that rescale the image are left out: ``preprocess.normalize`` does it. Such a layer further on is a part of
      the network, but was left out by earlier versions, too: only a network that is restored is still made so;
    - batch norm, the classifier and what follows it are float32 in any ``precision``;
    - with ``conventions="torch"`` it computes what torchvision's network does, see ``trainer.models.conventions``.

    Raises:
        UsageError: a layer keeps state or draws numbers in a way that cannot be replaced, or is used twice; names it.
    """
    layers = _flat(model)
    names = _names(layers)
    classifier = max((number for number, layer in enumerate(layers) if hasattr(layer, "kernel")), default=0)
    full = {id(layer) for layer in layers[classifier:]}
    dropped = _dropped(layers)
    image = keras.Input(model.input.shape[1:], name="image")
    width = sum(math.prod(each.shape) for each in dropped.values())
    dropout = keras.Input((width,), name="dropout")

    by_name = {layer.name: layer for layer in layers}

    def rebuilt(layer: keras.Layer, config: dict[str, Any]) -> keras.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            added = layer.epsilon if conventions == "keras" else epsilon(name, layer.epsilon)
            return _batch_norm(layer, statistics, names[id(layer)], added)
        config = _seeded(config, seed, names[id(layer)])
        dtype = "float32" if id(layer) in full else precision
        return type(layer).from_config({**config, "name": names[id(layer)], "dtype": dtype})

    used: set[int] = set()

    def apply(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(layer, keras.Layer) and id(layer) in used:
            raise UsageError(f"{name}: layer {layer.name} is used twice; give each place a layer of its own")
        used.add(id(layer))
        if isinstance(layer, keras.Sequential):
            (x,) = arguments
            for inner in layer.layers:
                x = apply(inner, x)
            return x
        if isinstance(layer, PREPROCESSING) and arguments[0] is not image and seed is not None:
            raise UsageError(
                f"{name}: layer {layer.name} ({type(layer).__name__}) does not work on the image itself, and would be "
                "left out like one that does, because preprocess.normalize replaces those\n"
                "write it as operations, such as x * scale + offset, or as a layer of your own"
            )
        if isinstance(layer, PREPROCESSING) or (id(layer) in dropped and layer.rate == 0.0):
            return arguments[0]
        if id(layer) in dropped:
            each = dropped[id(layer)]
            draws = Draws(each.first, each.shape, name=f"{names[id(layer)]}.draws", dtype="float32")(dropout)
            keyed = KeyedDropout(layer.rate, name=f"{names[id(layer)]}.keyed", dtype=precision, autocast=False)
            return keyed([arguments[0], draws])
        if isinstance(layer, keras.Layer):
            around, config = (0, layer.get_config()) if conventions == "keras" else as_torch(layer, by_name)
            if around:
                pad = keras.layers.ZeroPadding2D(around, name=f"{names[id(layer)]}.pad", dtype=precision)
                arguments = (pad(arguments[0]), *arguments[1:])
            return rebuilt(layer, config)(*arguments, **keywords)
        return layer(*arguments, **keywords)  # an operation without variables, such as an addition

    draws = keras.Input(dropout.shape[1:])  # an input of the original too, because the twin is made from both
    joined = keras.Model([model.input, draws], [model.output, draws])
    twin = keras.models.clone_model(
        joined, input_tensors=[image, dropout], clone_function=lambda layer: layer, call_function=apply
    )
    logits = keras.layers.Activation("linear", name="output", dtype="float32")(twin.output[0])
    built = keras.Model({"image": image, "dropout": dropout}, {"logits": logits}, name=name)
    _refuse_hidden_state(built)
    return built


def _flat(model: keras.Model) -> list[keras.Layer]:
    """The layers in the order the data flows, those of nested stacks in their place."""
    layers: list[keras.Layer] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential):
            raise UsageError(f"{model.name}: {layer.name} is a model within the model; call its layers one by one")
        layers += _flat(layer) if isinstance(layer, keras.Sequential) else [layer]
    return layers


def _names(layers: list[keras.Layer]) -> dict[int, str]:
    """Names that do not depend on what else the process has built: ``conv2d_95`` of the first becomes ``conv2d``."""
    names = {id(layer): layer.name for layer in layers}
    numbered: dict[str, list[keras.Layer]] = {}
    for layer in layers:
        stem = NUMBER.sub("", layer.name)
        if stem.replace("_", "") == type(layer).__name__.lower():  # as Keras names a layer that was given no name
            numbered.setdefault(stem, []).append(layer)
    for stem, found in numbered.items():
        ordered = sorted(found, key=lambda layer: int(layer.name.removeprefix(stem).removeprefix("_") or 0))
        names |= {id(layer): f"{stem}_{place}" if place else stem for place, layer in enumerate(ordered)}
    return names


def _dropped(layers: list[keras.Layer]) -> dict[int, _Dropped]:
    """Which draws each dropout layer takes, one for each value that is dropped on its own."""
    dropped: dict[int, _Dropped] = {}
    first = 0
    for layer in layers:
        if type(layer) is keras.layers.Dropout:
            inner = layer.input.shape[1:]
            pattern = inner if layer.noise_shape is None else layer.noise_shape[1:]
            shape = tuple(size if fixed is None else fixed for fixed, size in zip(pattern, inner, strict=True))
            dropped[id(layer)] = _Dropped(first, shape)
            first += math.prod(shape)
    return dropped


def _seeded(config: Any, seed: int | None, *purpose: str) -> Any:
    """A layer's configuration with the seed of each of its initialisers, or zeros; penalties are in the objective."""
    if isinstance(config, list | tuple):
        return [_seeded(entry, seed, *purpose, str(place)) for place, entry in enumerate(config)]
    if not isinstance(config, dict):
        return config
    changed: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_regularizer"):
            changed[name] = None
        elif name.endswith("_initializer") and isinstance(value, dict) and "seed" in value["config"]:
            if seed is None:
                changed[name] = "zeros"
                continue
            drawn = derive_seed(seed, "initializer", *purpose, name)
            changed[name] = {**value, "config": {**value["config"], "seed": drawn}}
        else:
            changed[name] = _seeded(value, seed, *purpose, name)
    return changed


def _batch_norm(
    layer: keras.layers.BatchNormalization, statistics: BatchStatisticsConfig, name: str, epsilon: float
) -> FusedBatchNormalization:
    rank = len(layer.input.shape)
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    if rank != 4 or axis not in (-1, rank - 1) or not layer.center:
        raise UsageError(
            f"layer {layer.name} normalises axis {axis} of {rank} with center={layer.center}; batch norm is supported "
            "over the channels of images [batch, height, width, channels], with a learned offset"
        )
    return FusedBatchNormalization(
        momentum=layer.momentum,
        epsilon=epsilon,
        scale=layer.scale,
        synchronized=statistics.synchronized,
        group_size=statistics.group_size,
        name=name,
        dtype="float32",
    )


def _refuse_hidden_state(model: keras.Model) -> None:
    """Refuse variables that are not floating point, as weights and statistics are: they count calls or records."""
    for layer in model.layers:
        for variable in layer.variables:
            if not keras.backend.is_float_dtype(variable.dtype):
                raise UsageError(
                    f"{model.name}: layer {layer.name} ({type(layer).__name__}) keeps {variable.name}, "
                    f"{variable.dtype} {list(variable.shape)}: what it does depends on how often it ran, so a "
                    "resumed run could not be the same\nuse keras.layers.Dropout, or a layer without random draws"
                )
