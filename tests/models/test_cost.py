"""The multiplications of a network, beside the figures of its publication."""

from __future__ import annotations

import keras
import pytest

from trainer.models.cost import TRAINING, cost_of

# 10^9 multiply-adds for one image of the size of the publication, with 1000 classes
PUBLISHED = {
    "MobileNetV2": (224, 0.30),  # arXiv 1801.04381, table 4
    "EfficientNetB0": (224, 0.39),  # arXiv 1905.11946, table 2
    "MobileNet": (224, 0.569),  # arXiv 1704.04861, table 4
    "ResNet50": (224, 3.8),  # arXiv 1512.03385, table 1
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiplications_are_counted_as_published(name: str) -> None:
    size, billions = PUBLISHED[name]
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    counted = cost_of(model)
    assert counted.multiply_adds is not None
    assert counted.multiply_adds / 1e9 == pytest.approx(billions, rel=0.05)
    assert counted.training_flops == 2 * TRAINING * counted.multiply_adds


def test_a_network_within_a_network_is_counted() -> None:
    base = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3, use_bias=False)])
    whole = keras.Sequential([keras.Input((8, 8, 3)), base, keras.layers.Flatten(), keras.layers.Dense(2)])
    assert cost_of(whole).multiply_adds == 6 * 6 * 5 * (3 * 3 * 3) + 6 * 6 * 5 * 2


def test_a_separable_convolution_costs_its_two_parts() -> None:
    separable = keras.layers.SeparableConv2D(7, 3, depth_multiplier=2, use_bias=False)
    whole = keras.Sequential([keras.Input((8, 8, 3)), separable])
    assert cost_of(whole).multiply_adds == 6 * 6 * (3 * 3 * 3 * 2 + 3 * 2 * 7)


def test_a_layer_that_cannot_be_counted_leaves_the_cost_unknown() -> None:
    class Own(keras.layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            self.kernel = self.add_weight(shape=(shape[-1], 4))

        def call(self, inputs: object) -> object:
            return keras.ops.matmul(inputs, self.kernel)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5), Own()])
    assert cost_of(model).multiply_adds is None
    assert cost_of(model).training_flops is None
    assert cost_of(model).parameters == 3 * 5 + 5 + 5 * 4
