"""What one image and one exchange of gradients cost, counted from a built network."""

from __future__ import annotations

import dataclasses
import math

import keras

from trainer.config.schema import Config
from trainer.models.size import unallocated

# the gradients with respect to the inputs, and those with respect to the weights, each cost as much as the forward pass
TRAINING = 3
MATRIX_RANK = 2  # weights of a lower rank scale or shift: they cost next to nothing


@dataclasses.dataclass(frozen=True)
class Cost:
    """``multiply_adds`` are those of the convolutions and classifiers in the forward pass of one image; None where a
    layer has weights that this module cannot count. ``parameters`` are trainable values.
    """

    multiply_adds: int | None
    parameters: int

    @property
    def training_flops(self) -> int | None:
        """Floating-point operations of a training step for one image; a multiply-add is two."""
        return None if self.multiply_adds is None else TRAINING * 2 * self.multiply_adds

    @property
    def gradient_bytes(self) -> int:
        """What the replicas exchange once a step: gradients are float32 whatever the precision."""
        return 4 * self.parameters


def cost(config: Config) -> Cost:
    """The cost of the network of a complete configuration, which is built without values for it."""
    return cost_of(unallocated(config))


def cost_of(model: keras.Model) -> Cost:
    """The cost of a network. All layers count as trained."""
    counted = [_multiply_adds(layer) for layer in model._flatten_layers(include_self=False)]
    known = [count for count in counted if count is not None]
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return Cost(sum(known) if len(known) == len(counted) else None, parameters)


def _multiply_adds(layer: keras.Layer) -> int | None:
    """Each value of the output is a sum over all dimensions of the kernel except the last. A depthwise convolution sums
    over the window alone.
    """
    if isinstance(layer, keras.layers.SeparableConv2D):
        *window, channels, multiplier = layer.depthwise_kernel.shape
        height_width = math.prod(layer.output.shape[1:-1])
        return height_width * (math.prod(window) * channels * multiplier + channels * multiplier * layer.filters)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:2])
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:-1])
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    return None if any(len(variable.shape) >= MATRIX_RANK for variable in own) else 0
