"""The classifiers of keras.applications: the same network, without anything hidden that decides the future."""

from __future__ import annotations

import math
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import NARROW, Trainer, assert_same_run

from trainer.config.check import check
from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.config.schema.networks import ApplicationName, BatchStatisticsConfig, KerasApplicationConfig
from trainer.errors import UsageError
from trainer.fingerprint.structure import model_facts
from trainer.inference.export.stock_model import stock_model
from trainer.models.exact import exact
from trainer.models.keras_application import BUILDERS
from trainer.models.registry import build_model
from trainer.models.size import bound, measure
from trainer.training.state import variable_name

STATISTICS = BatchStatisticsConfig(synchronized=True, group_size=32, warmup=True, initial_updates=0)
SIZE = 32
APPLICATIONS = typing.get_args(ApplicationName)


def config_of(name: str) -> KerasApplicationConfig:
    config = compose(["model=keras_application", f"model.name={name}", "model.num_classes=10"]).model
    assert isinstance(config, KerasApplicationConfig)
    return config


def draws(model: keras.Model, seed: int) -> tf.Tensor:
    return tf.random.stateless_uniform([4, model.input["dropout"].shape[-1]], [seed, 0])


def images(size: int = SIZE) -> tf.Tensor:
    return tf.random.stateless_uniform([4, size, size, 3], [1, 2], -1.0, 1.0)


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return build_model(config_of("MobileNet"), SIZE, 7, "float32")


def test_the_list_of_names_is_that_of_keras_applications() -> None:
    assert set(BUILDERS) == {name for name in dir(keras.applications) if name[0].isupper()}


def test_a_network_is_a_function_of_its_configuration_whatever_was_built_before(mobilenet: keras.Model) -> None:
    again = build_model(config_of("MobileNet"), SIZE, 7, "float32")
    assert model_facts(again) == model_facts(mobilenet)
    for one, other in zip(mobilenet.variables, again.variables, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    kernels = [v.numpy() for v in mobilenet.variables if v.shape == (1, 1, 512, 512)]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels) > 1  # each layer draws from a seed of its own


def test_variables_that_keras_names_have_the_names_of_a_new_process_whatever_was_built_before() -> None:
    for _ in range(2):
        with tf.Graph().as_default():
            model = build_model(config_of("ConvNeXtTiny"), 32, None, "float32")
        scales = [
            variable_name(variable).rpartition("/")[2] for variable in model.variables if "variable" in variable.path
        ]
        assert scales == [f"variable_{number}" for number in range(18, 36)]  # those of checkpoints since 0.2.0
    assert keras.layers.Dense(1).name != keras.layers.Dense(1).name


def test_with_the_same_weights_the_logits_are_those_of_the_application(mobilenet: keras.Model) -> None:
    original = keras.applications.MobileNet(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=10, classifier_activation=None
    )
    for one, other in zip(original.weights, mobilenet.weights, strict=True):
        assert one.shape == other.shape
        one.assign(other)
    found = mobilenet({"image": images(), "dropout": draws(mobilenet, 0)}, training=False)["logits"]
    np.testing.assert_allclose(found, original(images(), training=False), rtol=1e-5, atol=1e-6)
    exported = stock_model(mobilenet, {variable_name(v): v.value for v in mobilenet.variables})
    np.testing.assert_allclose(found, exported(images(), training=False), rtol=1e-5, atol=1e-6)


def test_what_dropout_drops_is_decided_by_the_draws_alone(mobilenet: keras.Model) -> None:
    dropout = next(layer for layer in mobilenet.layers if layer.name == "dropout.keyed")
    ones, uniform = tf.ones([4, 1, 1, 1024]), tf.reshape(draws(mobilenet, 1), [4, 1, 1, 1024])
    dropped = dropout([ones, uniform], training=True).numpy()
    np.testing.assert_array_equal(dropped == 0.0, uniform.numpy() < dropout.rate)
    assert all(variable.dtype == "float32" for variable in mobilenet.variables)


def test_a_layer_whose_draws_cannot_be_replaced_is_refused_by_name() -> None:
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GaussianNoise(0.1, name="noisy")(image)
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    with pytest.raises(UsageError, match=r"layer noisy \(GaussianNoise\) keeps seed_generator_state"):
        exact(model, STATISTICS, "noise", 0, "float32")


def test_a_rescaling_of_the_image_is_left_out_and_one_further_on_is_refused_unless_a_run_was_trained_so() -> None:
    image = keras.Input((SIZE, SIZE, 3))
    prepared = keras.Sequential([keras.layers.Rescaling(2.0), keras.layers.Normalization(mean=1.0, variance=4.0)])
    x = keras.layers.Flatten()(prepared(keras.layers.Rescaling(3.0)(image)))
    first = exact(keras.Model(image, keras.layers.Dense(10)(x)), STATISTICS, "first", 0, "float32")
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in first.layers)
    within = keras.Model(image, keras.layers.Dense(10)(keras.layers.Rescaling(5.0, name="five")(x)))
    with pytest.raises(UsageError, match=r"layer five \(Rescaling\) does not work on the image itself"):
        exact(within, STATISTICS, "within", 0, "float32")
    restored = exact(within, STATISTICS, "within", None, "float32")
    assert len(restored.layers) == len(first.layers)
    by_operation = exact(keras.Model(image, keras.layers.Dense(10)(x * 5.0)), STATISTICS, "times", 0, "float32")
    logits = [
        model({"image": images(), "dropout": tf.zeros([len(images()), 0])})["logits"].numpy()
        for model in (first, by_operation)
    ]
    np.testing.assert_allclose(5.0 * logits[0], logits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=Xception", "preprocess.image_size=70"], "must be at least 71 for Xception"),
        (["model.name=ResNet50v2"], "did you mean ResNet50V2?"),
    ],
)
def test_what_an_application_cannot_do_is_refused_with_its_cause(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        check(compose(["model=keras_application", *overrides]))


def configured(name: str, size: int) -> Config:
    config = compose(["model=keras_application", f"model.name={name}", f"preprocess.image_size={size}"])
    return complete(config, 100, 10)


@pytest.mark.long
@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_application_is_built_without_hidden_state_and_within_its_bounds(name: str) -> None:
    """Its least size is that of Keras, its names are unique, and what it takes is below what was taken to be enough."""
    least = config_of(name).smallest_image()
    for size in (least, 224):
        with tf.Graph().as_default():
            model = build_model(config_of(name), size, 0, "mixed_bfloat16")
        names = [variable_name(variable) for variable in model.variables]
        assert len(set(names)) == len(names)
        assert not any(isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization) for layer in model.layers)
        assert model.output["logits"].shape == (None, 10)
        assert model.output["logits"].dtype == "float32"
        config = configured(name, size)
        assert all(most >= there for most, there in zip(bound(config), measure(config), strict=True))
    with pytest.raises(ValueError, match=r"at least|must be|Input size"):
        BUILDERS[name](weights=None, input_shape=(least - 1, least - 1, 3), classes=10)
    assert math.isfinite(sum(bound(configured(name, 299))))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("MobileNetV2", ("optimizer=sgd", "train.accumulate_steps=2")),
        ("EfficientNetB0", ("optimizer=rmsprop", "ema.decay=0.9", "evaluation.weights=ema", "ema.batch_norm=true")),
        ("MobileNetV3Small", ("model.batch_norm.synchronized=false", "runtime.precision=mixed_bfloat16")),
        ("ConvNeXtTiny", ("optimizer=adamw",)),
    ],
)
def test_an_application_resumes_bit_for_bit_in_another_process(
    name: str, overrides: tuple[str, ...], trainer: Trainer
) -> None:
    keys = [key for key in NARROW if key.partition("=")[0] not in ("model.width", "model.min_depth")]
    common = ["model=keras_application", f"model.name={name}", f"preprocess.image_size={SIZE}", *keys, *overrides]
    common += ["schedule.decay_steps=6", "evaluation.every_steps=3", "checkpoint.every_steps=2"]
    straight, resumed = trainer.cwd / "straight", trainer.cwd / "resumed"
    trainer.run("train", f"run_dir={straight}", *common, "train.steps=6")
    trainer.run("train", f"run_dir={resumed}", *common, "train.steps=3")
    trainer.run("resume", f"run_dir={resumed}", "train.steps=6")
    assert_same_run(straight, resumed)
