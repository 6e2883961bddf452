"""A network that Keras's layers make is known by its definition; one with anything else in it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest

from trainer.models.definition import definition


def network(
    activation: Any = "relu", filters: int = 4, dense: Callable[..., Any] = keras.layers.Dense, **kernel: Any
) -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(filters, 3, activation=activation, name="conv", **kernel)(image)
    x = keras.ops.mean(x + 1.0, axis=(1, 2))
    return keras.Model(image, dense(2, name="classifier")(x), name="network")


def test_the_same_network_has_the_same_definition_however_its_weights_are_drawn() -> None:
    text = definition(network())
    assert text is not None
    assert '"class_name": "Mean"' in text, "operations are a part of it"
    assert definition(network(kernel_initializer=keras.initializers.HeNormal(seed=3))) == text


def test_another_network_has_another_definition() -> None:
    found = {definition(network()), definition(network(filters=5)), definition(network("silu"))}
    assert len(found) == 3
    assert None not in found


class OwnDense(keras.layers.Dense):  # type: ignore[misc]
    pass


class Positive(keras.constraints.Constraint):  # type: ignore[misc]
    def __call__(self, weight: Any) -> Any:
        return keras.ops.relu(weight)


def relu(x: Any) -> Any:
    """Stored under a name that Keras has, too."""
    return keras.ops.relu(x) * 2.0


def with_another_call() -> keras.Model:
    model = network()
    model.get_layer("conv").call = lambda x: x
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(relu),
        lambda: network(dense=OwnDense),
        lambda: network(kernel_constraint=Positive()),
        lambda: network(dense=lambda *_, **__: keras.layers.Lambda(lambda x: x + 1.0)),
        with_another_call,
    ],
    ids=["a function", "a class of layers", "an object of a layer", "a lambda", "a method replaced"],
)
def test_a_network_with_anything_else_in_it_has_none(make: Callable[[], keras.Model]) -> None:
    assert definition(make()) is None
