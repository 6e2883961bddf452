"""The cost of one image and of one exchange of gradients, counted from the built network."""

from __future__ import annotations

import dataclasses
import math

import keras

from trainer.config.schema import Config
from trainer.models.size import unallocated

# the gradients with respect to the inputs, and those with respect to the weights, each cost as much as the forward pass
TRAINING = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """``multiply_adds`` are those of the convolutions and classifiers in the forward pass of one image;
    ``parameters`` are trainable values.
    """

    multiply_adds: int
    parameters: int

    @property
    def training_flops(self) -> int:
        """Floating-point operations of a training step for one image; a multiply-add is two."""
        return TRAINING * 2 * self.multiply_adds

    @property
    def gradient_bytes(self) -> int:
        """What the replicas exchange once a step: gradients are float32 whatever the precision."""
        return 4 * self.parameters


def cost(config: Config) -> Cost:
    """The cost of the network of a complete configuration."""
    model = unallocated(config)
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return Cost(sum(_multiply_adds(layer) for layer in model.layers), parameters)


def _multiply_adds(layer: keras.Layer) -> int:
    """Each value of the output is a sum over all dimensions of the kernel except the last."""
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return 0
    return math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:-1])
