"""The network equals the published one."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from full_networks import NORMALISED_CHANNELS, NORMALISED_CHANNELS_AUX, PUBLISHED_TORCHVISION, build, full

from trainer.models.inception_v3 import build_inception_v3

# keras.applications.InceptionV3(classes=1000): "Total params" of its summary, moving statistics included
PUBLISHED_PARAMETERS = 23_851_784


def inputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    features = model.get_layer("dropout").output.shape[-1]
    return {"image": images, "dropout": np.zeros((len(images), features), np.float32)}


def test_parameter_counts_are_the_published_ones() -> None:
    plain = build(full(**{"model.aux_logits": False})).count_params()
    with_aux = build(full()).count_params()
    assert plain == PUBLISHED_PARAMETERS
    assert with_aux == PUBLISHED_TORCHVISION[0] + NORMALISED_CHANNELS + NORMALISED_CHANNELS_AUX
    assert plain == PUBLISHED_TORCHVISION[1] + NORMALISED_CHANNELS


def test_outputs_equal_keras_applications_with_equal_weights() -> None:
    theirs = keras.applications.InceptionV3(weights=None, classifier_activation=None)
    ours = build(full(**{"model.aux_logits": False}))
    rng = np.random.Generator(np.random.PCG64(1))
    # Keras makes the layers in the order of its source, ours in that of the published names; inside a block both go
    # branch by branch, but their module-level order of the pool branch and of 8x8 blocks differs, so the pairing is
    # by the graph: both networks are walked from the input and layers are matched by kind and position in it.
    for mine, other in zip(weighted_layers(ours), weighted_layers(theirs), strict=True):
        assert [tuple(v.shape) for v in mine.weights] == [tuple(v.shape) for v in other.weights], (
            mine.name,
            other.name,
        )
        values = [
            np.abs(rng.normal(1.0, 0.1, v.shape))
            if "variance" in v.name
            else np.asarray(v) + rng.normal(0, 0.02, v.shape)
            for v in other.weights
        ]
        other.set_weights(values)
        mine.set_weights(values)
    images = rng.uniform(-1, 1, (2, 299, 299, 3)).astype(np.float32)
    expected = np.asarray(theirs(images, training=False))
    found = np.asarray(ours(inputs(ours, images), training=False)["logits"])
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def weighted_layers(model: keras.Model) -> list[keras.Layer]:
    """Layers with weights, depth first from the output through inputs in order: the same for equal graphs."""
    seen: set[int] = set()
    ordered: list[keras.Layer] = []

    def visit(tensor: keras.KerasTensor) -> None:
        layer = tensor._keras_history.operation
        if id(layer) in seen:
            return
        seen.add(id(layer))
        for node in layer._inbound_nodes:
            for parent in node.input_tensors:
                visit(parent)
        if layer.weights:
            ordered.append(layer)

    visit(model.outputs[0])
    return ordered


def test_every_grid_and_depth_is_the_papers() -> None:
    model = build(full())
    shapes = {
        "maxpool_3a_3x3": (73, 73, 64),
        "maxpool_5a_3x3": (35, 35, 192),
        "mixed_5b.concat": (35, 35, 256),
        "mixed_5d.concat": (35, 35, 288),
        "mixed_6a.concat": (17, 17, 768),
        "mixed_6e.concat": (17, 17, 768),
        "mixed_7a.concat": (8, 8, 1280),
        "mixed_7c.concat": (8, 8, 2048),
        "aux_logits.conv2d_2a_5x5.conv": (1, 1, 768),
    }
    for name, shape in shapes.items():
        assert tuple(model.get_layer(name).output.shape[1:]) == shape, name


def test_width_and_min_depth_set_the_filters_as_in_slim() -> None:
    model = build(full(**{"model.width": 0.25, "model.min_depth": 16}), image_size=75)
    assert model.get_layer("conv2d_1a_3x3.conv").filters == 16  # int(32 x 0.25) = 8 < 16
    assert model.get_layer("conv2d_4a_3x3.conv").filters == 48  # int(192 x 0.25)


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not() -> None:
    config = full(**{"model.width": 0.05, "model.min_depth": 4})

    def weights(seed: int) -> list[np.ndarray]:
        return [
            np.asarray(v)
            for v in build_inception_v3(config.model, 10, 75, seed, "float32").trainable_variables
            if v.ndim > 1
        ]

    first, again, other = weights(1), weights(1), weights(2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert all((a != b).any() for a, b in zip(first, other, strict=True))
    shapes = [kernel.shape for kernel in first]
    twins = [(a, b) for i, a in enumerate(first) for b in first[i + 1 :] if a.shape == b.shape]
    assert len(shapes) > len(set(shapes))
    assert all((a != b).any() for a, b in twins), "layers of one shape must not start equal"


def test_dropout_is_decided_by_the_draws_it_is_given() -> None:
    model = build(full(**{"model.width": 0.05, "model.min_depth": 4, "model.dropout": 0.5}), image_size=75)
    layer = model.get_layer("logits.dropout_1b")
    features = np.ones((1, 4), np.float32)
    draws = np.array([[0.1, 0.49, 0.5, 0.9]], np.float32)
    assert np.asarray(layer([features, draws], training=True)).tolist() == [[0.0, 0.0, 2.0, 2.0]]
    assert np.asarray(layer([features, draws], training=False)).tolist() == [[1.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_norm_equals_keras_in_outputs_gradients_and_moving_statistics(training: bool) -> None:
    import tensorflow as tf

    from trainer.models.layers import FusedBatchNormalization

    rng = np.random.Generator(np.random.PCG64(2))
    images = tf.constant(rng.normal(3.0, 2.0, (4, 3, 3, 8)).astype(np.float32))
    weights = tf.constant(rng.normal(size=(4, 3, 3, 8)).astype(np.float32))
    results = []
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        own = {} if kind is keras.layers.BatchNormalization else {"group_size": 2, "synchronized": True}
        layer = kind(momentum=0.9, epsilon=1e-3, scale=False, **own)
        for _ in range(3):
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = layer(images, training=training)
                loss = tf.reduce_sum(outputs * weights)
            gradients = tape.gradient(loss, [images, layer.beta.value])
        results.append([outputs, *gradients, layer.moving_mean, layer.moving_variance])
    for keras_value, fused_value in zip(*results, strict=True):
        np.testing.assert_allclose(np.asarray(fused_value), np.asarray(keras_value), rtol=1e-4, atol=1e-5)


def test_batch_norm_in_groups_is_that_of_each_group_and_moves_the_statistics_by_their_mean() -> None:
    from trainer.models.layers import FusedBatchNormalization

    images = np.random.default_rng(0).normal(3, 2, (6, 4, 4, 5)).astype(np.float32)
    grouped = FusedBatchNormalization(group_size=2, momentum=0.9, epsilon=1e-3, scale=False, synchronized=False)
    outputs, expected, moved = grouped(images, training=True), [], []
    for group in np.split(images, 3):
        alone = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3, scale=False)
        expected.append(np.asarray(alone(group, training=True)))
        moved.append([np.asarray(alone.moving_mean), np.asarray(alone.moving_variance)])
    np.testing.assert_allclose(np.asarray(outputs), np.concatenate(expected), rtol=1e-4, atol=1e-5)
    found = [np.asarray(grouped.moving_mean), np.asarray(grouped.moving_variance)]
    np.testing.assert_allclose(found, np.mean(moved, axis=0), rtol=1e-5)


def test_synchronized_batch_norm_on_two_devices_equals_one_device_with_the_whole_batch() -> None:
    program = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from trainer.models.layers import FusedBatchNormalization
images = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 5)).astype(np.float32)
make = lambda: FusedBatchNormalization(group_size=4, momentum=0.9, epsilon=1e-3, scale=False, synchronized=True)
whole = make()
expected = whole(images, training=True)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = make()
    layer.build(images.shape)
parts = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group]))
outputs = tf.function(lambda part: strategy.run(lambda x: layer(x, training=True), (part,)))(parts)
found = np.concatenate([value.numpy() for value in strategy.experimental_local_results(outputs)])
np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
for name in ("moving_mean", "moving_variance"):
    np.testing.assert_allclose(np.asarray(getattr(layer, name)), np.asarray(getattr(whole, name)), rtol=1e-4)
print("equal")
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert process.stdout == "equal\n", process.stderr
