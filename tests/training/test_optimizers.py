"""The update rules are Keras's, and TensorFlow 1's where the paper's recipe needs it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from composing import compose

from trainer.config.complete import complete, with_leaves
from trainer.training.optimizers import Optimizer
from trainer.training.schedules import learning_rate_at

STEPS = 100
RATE = 0.01


def run_ours(option: str, changes: dict[str, object], gradients: list[list[np.ndarray]]) -> list[np.ndarray]:
    config = with_leaves(complete(compose(f"optimizer={option}"), 100, 10), {"optimizer.clip_norm": None, **changes})
    variables = {"conv/kernel": tf.Variable(start(0)), "conv/bias": tf.Variable(start(1))}
    optimizer = Optimizer(config.optimizer, variables)
    for step, pair in enumerate(gradients):
        tensors = {name: tf.constant(value) for name, value in zip(variables, pair, strict=True)}
        optimizer.apply(tensors, tf.constant(RATE), tf.constant(step, tf.int64))
    return [variable.numpy() for variable in variables.values()]


def run_keras(optimizer: keras.optimizers.Optimizer, gradients: list[list[np.ndarray]]) -> list[np.ndarray]:
    variables = [keras.Variable(start(0), name="kernel"), keras.Variable(start(1), name="bias")]
    for pair in gradients:
        optimizer.apply_gradients([(tf.constant(g), v) for g, v in zip(pair, variables, strict=True)])
    return [np.asarray(variable) for variable in variables]


def start(index: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(index))
    return rng.normal(size=(5, 7) if index == 0 else (7,)).astype(np.float32)


@pytest.fixture(scope="module")
def gradients() -> list[list[np.ndarray]]:
    rng = np.random.Generator(np.random.PCG64(9))
    return [
        [rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=(7,)).astype(np.float32)] for _ in range(STEPS)
    ]


@pytest.mark.parametrize(
    ("option", "changes", "theirs"),
    [
        ("adam", {}, lambda: keras.optimizers.Adam(RATE, 0.9, 0.999, 1e-7)),
        ("adam", {"optimizer.beta_1": 0.5}, lambda: keras.optimizers.Adam(RATE, 0.5, 0.999, 1e-7)),
        ("sgd", {"optimizer.nesterov": True}, lambda: keras.optimizers.SGD(RATE, 0.9, nesterov=True)),
        ("sgd", {"optimizer.nesterov": False}, lambda: keras.optimizers.SGD(RATE, 0.9)),
        ("sgd", {"optimizer.momentum": 0.0}, lambda: keras.optimizers.SGD(RATE)),
        (
            "rmsprop",
            {"optimizer.initial_mean_square": 0.0},
            lambda: keras.optimizers.RMSprop(RATE, rho=0.9, momentum=0.9, epsilon=1.0),
        ),
    ],
)
def test_rule_equals_keras(option, changes, theirs, gradients) -> None:  # type: ignore[no-untyped-def]
    for ours, expected in zip(run_ours(option, changes, gradients), run_keras(theirs(), gradients), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_adamw_equals_keras_with_decay_on_kernels_only(gradients: list[list[np.ndarray]]) -> None:
    theirs = keras.optimizers.AdamW(RATE, weight_decay=0.1)
    theirs.exclude_from_weight_decay(var_names=["bias"])
    ours = run_ours("adamw", {"optimizer.weight_decay": 0.1}, gradients)
    for found, expected in zip(ours, run_keras(theirs, gradients), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rmsprop_equals_tensorflow_1(gradients: list[list[np.ndarray]]) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.Variable(start(index)) for index in range(2)]
        places = [tf.compat.v1.placeholder(tf.float32, v.shape) for v in variables]
        optimizer = tf.compat.v1.train.RMSPropOptimizer(RATE, decay=0.9, momentum=0.9, epsilon=1.0)
        update = optimizer.apply_gradients(zip(places, variables, strict=True))
        session.run(tf.compat.v1.global_variables_initializer())
        for pair in gradients:
            session.run(update, dict(zip(places, pair, strict=True)))
        expected = session.run(variables)
    for found, value in zip(run_ours("rmsprop", {}, gradients), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)


def test_clipping_bounds_the_global_norm() -> None:
    config = with_leaves(
        complete(compose("optimizer=sgd"), 100, 10), {"optimizer.clip_norm": 1.0, "optimizer.momentum": 0.0}
    )
    variables = {"a/kernel": tf.Variable([0.0, 0.0]), "b/kernel": tf.Variable([0.0])}
    gradients = {"a/kernel": tf.constant([3.0, 0.0]), "b/kernel": tf.constant([4.0])}
    Optimizer(config.optimizer, variables).apply(gradients, tf.constant(1.0), tf.constant(0, tf.int64))
    np.testing.assert_allclose(variables["a/kernel"].numpy(), [-0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(variables["b/kernel"].numpy(), [-0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("schedule=constant", "schedule.warmup_steps=4"), {0: 0.25, 1: 0.5, 3: 1.0, 1000: 1.0}),
        (
            ("schedule=exponential", "schedule.decay_steps=10", "schedule.decay_rate=0.5"),
            {0: 1.0, 9: 1.0, 10: 0.5, 25: 0.25},
        ),
        (
            ("schedule=exponential", "schedule.decay_steps=10", "schedule.decay_rate=0.5", "schedule.staircase=false"),
            {0: 1.0, 5: 0.5**0.5, 20: 0.25},
        ),
        (
            ("schedule=exponential", "schedule.decay_steps=1", "schedule.minimum_fraction=0.1"),
            {100: 0.1},
        ),
        (
            ("schedule=cosine", "schedule.warmup_steps=0", "schedule.decay_steps=100"),
            {0: 1.0, 50: 0.5, 100: 0.0, 500: 0.0},
        ),
        (
            (
                "schedule=cosine",
                "schedule.warmup_steps=10",
                "schedule.decay_steps=110",
                "schedule.minimum_fraction=0.2",
            ),
            {4: 0.5, 10: 1.0, 60: 0.6, 110: 0.2},
        ),
    ],
)
def test_schedule(arguments: tuple[str, ...], expected: dict[int, float]) -> None:
    config = complete(compose(*arguments), 100, 10)
    for step, fraction in expected.items():
        rate = learning_rate_at(tf.constant(step, tf.int64), 0.1, config.schedule)
        assert float(rate) == pytest.approx(0.1 * fraction, abs=1e-8), step
