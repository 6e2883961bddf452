"""Keras files of models in which Inception V3 is one layer of several, or has other layers on top of it."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from diagnosing import NARROW, composed, narrow_arrays
from foreign_files import Arrays
from keras.src.backend.common import global_state
from keras_files import MODELS, SAVERS, fill, narrow_base, once, save_keras, save_legacy, save_weights, sequential

from trainer.errors import RestoreRefused
from trainer.models.inception_v3_units import BODY, unit_of
from trainer.run import warm_start
from trainer.run.warm_start import WarmStart
from trainer.training.state import TrainingState, build_state

pytestmark = pytest.mark.usefixtures("in_this_process")

WIDTH = (0.01, 4)  # of NARROW


@functools.cache
def own_state() -> TrainingState:
    return build_state(composed(*NARROW, "model.aux_logits=false"))


def body() -> Arrays:
    return {name: value for name, value in narrow_arrays().items() if unit_of(name) in BODY}


def filled(dtype: str = "float32") -> keras.Model:
    base = once(*WIDTH, dtype)
    fill(base, body(), list(BODY))
    return base


def load(path: Path) -> list[str]:
    """Load into a network of zeros; the lines."""
    state, config = own_state(), composed(*NARROW, "model.aux_logits=false")
    for variable in state.variables.values():
        variable.assign(np.zeros(variable.shape, np.float32))
    start = WarmStart(warm_start.find(path), (), classes_follow_data=True)
    return warm_start.load(start, config, state, tuple(map(str, range(10))))


def assert_loaded(tolerance: float = 0.0) -> None:
    for name, value in body().items():
        np.testing.assert_allclose(own_state().variables[name].numpy(), value, rtol=tolerance, atol=0, err_msg=name)


FILES = (
    *(("functional", saver) for saver in SAVERS),
    *(("deeper", saver) for saver in SAVERS if saver != "checkpoint"),  # where nested names have no scope
    *(("sequential", saver) for saver in (".keras", ".h5")),
    *(("flat", saver) for saver in (".weights.h5", ".h5")),
)


@pytest.mark.parametrize(("model", "saver"), FILES)
def test_every_value_of_the_network_inside_arrives_and_the_rest_is_listed(
    model: str, saver: str, tmp_path: Path
) -> None:
    lines = load(SAVERS[saver](MODELS[model](filled()), tmp_path))
    assert_loaded()
    text = "\n".join(lines)
    kernels = {"functional": ["answer/kernel [24, 4]"], "flat": ["answer/kernel [5, 4]"], "sequential": ["[24, 4]"]}
    wanted = kernels[model] if model in kernels else ["hidden/kernel [5, 6]", "predictions/kernel [6, 4]"]
    (head,) = [line for line in lines if "of its own" in line]
    assert all(name in head for name in wanted), text
    assert ("a head of its own with 2 dense layers" in head) == (model == "deeper")
    others = [line for line in lines if "nothing in this network has such a name" in line]
    assert len(others) == (model in ("deeper", "flat")), text
    assert "freshly initialised: logits/logits/kernel [24, 10], logits/logits/bias [10]" in text


def test_names_as_keras_2_wrote_them_arrive(tmp_path: Path) -> None:
    path = save_legacy(sequential(filled()), tmp_path)
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        for name in names:
            file.move(name, f"{name}:0")
    load(path)
    assert_loaded()


@pytest.mark.parametrize("saver", [".keras", ".h5"])
def test_a_network_that_keras_stored_in_bfloat16_arrives_to_its_precision(saver: str, tmp_path: Path) -> None:
    load(SAVERS[saver](sequential(filled("bfloat16")), tmp_path))
    assert_loaded(2**-8)


def test_the_classifier_that_keras_builds_is_taken_and_one_above_other_layers_is_not(tmp_path: Path) -> None:
    base = narrow_base(*WIDTH, classes=10)
    fill(base, body(), list(BODY))
    lines = load(save_weights(base, tmp_path))
    assert lines == [f"weights from {tmp_path / 'model.weights.h5'}: 378 of 378 variables loaded"]
    kernel = base.get_layer("predictions").kernel.numpy()
    assert np.array_equal(own_state().variables["logits/logits/kernel"].numpy(), kernel)
    x = keras.layers.GlobalAveragePooling2D()(filled().output)
    x = keras.layers.Dense(24, activation="relu", name="hidden")(x)
    fits = keras.Model(filled().input, keras.layers.Dense(10, name="predictions")(x))
    lines = load(save_weights(fits, tmp_path))
    assert "a head of its own with 2 dense layers" in "\n".join(lines)
    assert "predictions/kernel [24, 10]" in "\n".join(lines)


def test_the_state_of_an_optimizer_is_mentioned(tmp_path: Path) -> None:
    model = sequential(filled())
    model.compile(keras.optimizers.Adam(name="adam"), "mse")
    model.optimizer.build(model.trainable_variables)
    lines = load(save_keras(model, tmp_path))
    assert "tensors of the optimizer's state of adam (a new run begins with its own)" in lines[-1]


def test_equal_names_in_a_checkpoint_without_scopes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The base is numbered as in a process that has built nothing before. Numbers go on where they were after this test,
    # or a layer that another one adds to a base would get a number that the base has.
    monkeypatch.setattr(global_state, "GLOBAL_STATE_TRACKER", threading.local())
    base = narrow_base(*WIDTH)
    fill(base, body(), list(BODY))
    with pytest.raises(RestoreRefused, match=r"twice, with different values.*\n  conv2d_1a_3x3/\S+: conv2d/kernel and"):
        load(SAVERS["checkpoint"](MODELS["deeper"](base), tmp_path))


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    image = keras.Input((75, 75, 3))
    other = narrow_base(*WIDTH, name="other")
    model = keras.Model(image, [filled()(image), other(image)])
    with pytest.raises(RestoreRefused, match=r"(?s)has 376 variables twice.* functional/\S+ and functional_1/"):
        load(save_weights(model, tmp_path))


@pytest.mark.parametrize("model", ["functional", "flat", "sequential"])
def test_a_file_without_the_names_of_its_layers_arrives(model: str, tmp_path: Path) -> None:
    """Keras 2.15 and early Keras 3 number layers in the order of the data flow, not in that of their creation."""
    path = save_weights(MODELS[model](filled()), tmp_path)
    with h5py.File(path, "a") as file:
        file.visititems(lambda name, node: node.attrs.pop("name", None) and None)
    load(path)
    assert_loaded()


def test_an_adapter_before_the_network_shifts_no_number_unseen(tmp_path: Path) -> None:
    """In a flat model its convolution has the first number, and takes the place of the network's first one."""
    image = keras.Input((75, 75, 1))
    model = narrow_base(*WIDTH, input_tensor=keras.layers.Conv2D(3, 1)(image))
    with pytest.raises(RestoreRefused, match="is not this network"):
        load(save_weights(model, tmp_path))


def test_what_the_network_lacks_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(RestoreRefused, match="0 of the 94 convolutions"):
        load(save_legacy(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), tmp_path))
