"""Whether a configuration could fit the machine at all, decided before anything of it is allocated.

A stored configuration may ask for a network of terabytes. The count here is less than training really takes, so no
configuration is refused that could run.
"""

from __future__ import annotations

import math
import os

import keras
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config, KerasApplicationConfig
from trainer.errors import UsageError
from trainer.models.registry import build_model
from trainer.runtime.devices import physical_gpus

FLOAT_BYTES = 4
CHANNELS = 3
# NVIDIA B300, the largest accelerator that is sold (data sheet of NVIDIA HGX B300)
LARGEST_DEVICE_BYTES = 288 * 10**9
# Inception V3 at its published size: variables with 1000 classes, outputs of convolutions for an image of 299 x 299,
# features of the two classifiers, filters of the narrowest layer. A test holds them against the network.
PUBLISHED_VARIABLES = 27.2e6
PUBLISHED_OUTPUTS = 9.0e6
PUBLISHED_SIZE = 299
PUBLISHED_FEATURES = 2048 + 768
NARROWEST = 32
# The same of the largest networks of keras.applications at the size of their publication, with their classifiers:
# ConvNeXtXLarge, VGG with its features; outputs for one pixel of the image. A test holds them, too.
LARGEST_VARIABLES = 351e6
LARGEST_SIZE = 224
LARGEST_FEATURES = 4096
LARGEST_OUTPUTS = 1000.0  # EfficientNetV2L has 480


def refuse_excess(config: Config) -> None:
    """Refuse a configuration that cannot fit into this machine, however it is run. ``config`` must be complete.

    Raises:
        UsageError: names what does not fit, both sizes, and the keys that decide it.
    """
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = config.preprocess.image_size
    batch = max(config.train.global_batch_size, config.evaluation.batch_size)
    images = batch * size * size * CHANNELS * FLOAT_BYTES
    if images > host:
        keys = f"train.global_batch_size={config.train.global_batch_size}, "
        keys += f"evaluation.batch_size={config.evaluation.batch_size}, preprocess.image_size={size}"
        raise UsageError(_refusal("the images of one batch", images, host, keys))
    memory = host + len(physical_gpus()) * LARGEST_DEVICE_BYTES
    if _bytes(config, *bound(config)) <= memory:
        return
    needed = _bytes(config, *measure(config))
    if needed > memory:
        model = config.model
        width = ""
        if isinstance(model, InceptionV3Config):
            width = f"model.width={model.width:g}, model.min_depth={model.min_depth}, "
        keys = f"model.name={model.name}, {width}model.num_classes={model.num_classes}, "
        keys += f"preprocess.image_size={size}, train.global_batch_size={config.train.global_batch_size}"
        raise UsageError(_refusal("the network, its gradients and what they are computed from", needed, memory, keys))


def _bytes(config: Config, variables: float, outputs: float) -> float:
    """Variables and their gradients, and what the backward pass needs of one part of a batch."""
    part = config.train.global_batch_size // config.train.accumulate_steps
    return FLOAT_BYTES * (2 * variables + part * outputs)


def bound(config: Config) -> tuple[float, float]:
    """Upper bounds of the network's variables, and of its convolutions' outputs for one image; costs nothing."""
    model = config.model
    assert model.num_classes is not None
    if isinstance(model, KerasApplicationConfig):
        pixels = config.preprocess.image_size**2
        inner = max(1.0, pixels / LARGEST_SIZE**2)
        return LARGEST_VARIABLES * inner + LARGEST_FEATURES * model.num_classes, LARGEST_OUTPUTS * pixels
    if not isinstance(model, InceptionV3Config):
        return math.inf, math.inf  # nothing is known of it before it is built
    scale = max(model.width, model.min_depth / NARROWEST)
    classifiers = PUBLISHED_FEATURES * max(scale, 1.0) * model.num_classes
    variables = PUBLISHED_VARIABLES * max(scale, scale * scale) + classifiers
    return variables, PUBLISHED_OUTPUTS * scale * (config.preprocess.image_size / PUBLISHED_SIZE) ** 2


def measure(config: Config) -> tuple[int, int]:
    """The numbers that ``bound`` bounds, from the network itself."""
    model = unallocated(config)
    variables = sum(math.prod(variable.shape) for variable in model.variables)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    return variables, sum(math.prod(layer.output.shape[1:]) for layer in convolutions)


def unallocated(config: Config) -> keras.Model:
    """The network for counting only: built in a graph, where no variable has a value."""
    with tf.Graph().as_default():
        return build_model(config.model, config.preprocess.image_size, config.seed, config.runtime.precision)


def _refusal(what: str, needed: float, there: float, keys: str) -> str:
    return (
        f"{what} would take at least {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB; nothing was "
        f"allocated\ndecided by {keys}"
    )
