"""Imported weights give the outputs of the network they come from: TF-Slim, torchvision and Keras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
from diagnosing import composed, expected
from foreign_files import Arrays, save_safetensors, save_with_saver, slim, torch
from foreign_networks import slim_outputs, torch_outputs

from trainer.config.schema import Config
from trainer.errors import RestoreRefused
from trainer.models.inception_v3_units import PUBLISHED, unit_of
from trainer.run import warm_start
from trainer.run.warm_start import WarmStart
from trainer.training.state import TrainingState, build_state
from trainer.training.step import inference

# 107 pixels leave grids of 11, 5 and 2: the smallest size at which the auxiliary head is as published
SETTINGS = ("model.width=0.05", "model.min_depth=6", "preprocess.image_size=107")
TOLERANCE = 1e-4


def trained_arrays(config: Config, classes: int) -> Arrays:
    """Values as training leaves them, in the network's order, with logits of a size of one to three."""
    generator = np.random.default_rng(13)
    order = [*PUBLISHED, "aux_logits/logits", "logits/logits"]
    shapes = expected(config).model
    arrays = {}
    for name in sorted(shapes, key=lambda name: order.index(unit_of(name))):
        shape = (*shapes[name][:-1], classes) if "logits/logits" in name else shapes[name]
        arrays[name] = trained_value(name, shape, generator)
    return arrays


def trained_value(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if name.endswith("kernel"):
        return generator.standard_normal(shape, np.float32) * np.sqrt(2.0 / np.prod(shape[:-1])).astype(np.float32)
    if name.endswith(("moving_variance", "gamma")):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    return generator.normal(0.0, 0.1, shape).astype(np.float32)


def images(config: Config) -> np.ndarray:
    """Coarse patterns: noise would average to the same features in every image."""
    size = config.preprocess.image_size
    patches = np.random.default_rng(5).uniform(-1, 1, (4, 4, 4, 3)).astype(np.float32)
    return patches.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]


def loaded(path: Path, config: Config, *allow: str) -> TrainingState:
    state = build_state(config)
    warm_start.load(WarmStart(warm_start.find(path), allow, classes_follow_data=False), config, state, ("a", "b"))
    return state


def outputs(state: TrainingState, given: np.ndarray) -> dict[str, np.ndarray]:
    unused = np.zeros((len(given), state.dropout_features), np.float32)
    found = state.model({"image": given, "dropout": unused}, training=False)
    logits = inference(state, "raw")(given).numpy()
    np.testing.assert_allclose(found["logits"], logits, rtol=0, atol=1e-5)
    return {name: value.numpy() for name, value in found.items()}


def assert_equal(found: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == source.keys()
    for name, value in source.items():
        assert np.median(np.ptp(value, axis=0)) > 0.01, "outputs that do not depend on the image prove nothing"
        print(
            f"{name}: largest difference {np.abs(found[name] - value).max():.1e}, size {np.sqrt((value**2).mean()):.2f}"
        )
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("variant", ["as published", "averages with gamma"])
def test_slim_weights_give_the_outputs_of_slim_without_the_background(variant: str, tmp_path: Path) -> None:
    averages = variant != "as published"
    config = composed(*SETTINGS, "model.num_classes=1000", f"model.batch_norm.scale={str(averages).lower()}")
    file = slim(trained_arrays(config, 1001))
    written = {f"{name}/ExponentialMovingAverage": value for name, value in file.items()} if averages else file
    state = loaded(save_with_saver(tmp_path / "inception_v3.ckpt", written), config)
    source = slim_outputs(file, images(config))
    assert_equal(outputs(state, images(config)), {name: value[:, 1:] for name, value in source.items()})


def test_torch_weights_demand_pools_that_count_padding_and_then_give_the_outputs_of_torchvision(tmp_path: Path) -> None:
    fitting = (*SETTINGS, "model.num_classes=1000", "model.batch_norm.scale=true")
    config = composed(*fitting, "model.count_include_pad=true")
    file = torch(trained_arrays(config, 1000))
    path = save_safetensors(tmp_path / "inception_v3.safetensors", file)
    source = torch_outputs(file, images(config))
    assert_equal(outputs(loaded(path, config, "preprocess"), images(config)), source)
    other = composed(*fitting)
    with pytest.raises(
        RestoreRefused,
        match=r"(?s)model.count_include_pad: true in weights of torchvision or timm, false is configured\n"
        r"add model.count_include_pad=true, or say .*: allow=\[model.count_include_pad\]",
    ):
        loaded(path, other, "preprocess")
    state = loaded(path, other, "preprocess", "model.count_include_pad")
    difference = np.abs(outputs(state, images(other))["logits"] - source["logits"]).max()
    print(f"pools that leave padding out: largest difference {difference:.2f}")
    assert difference > 0.1


FORMATS = (
    "model.weights.h5",
    pytest.param("model.keras", marks=pytest.mark.long),
    pytest.param("model.h5", marks=pytest.mark.long),
)


@pytest.mark.parametrize("name", FORMATS)
def test_keras_weights_give_the_outputs_of_keras_applications(name: str, tmp_path: Path) -> None:
    config = composed("model.width=1", "model.min_depth=16", "model.aux_logits=false")
    source = keras.applications.InceptionV3(
        weights=None, input_shape=(75, 75, 3), classes=10, classifier_activation=None
    )
    generator = np.random.default_rng(13)
    for variable in source.weights:
        variable.assign(trained_value(variable.name, tuple(variable.shape), generator))
    source.save_weights(tmp_path / name) if name.endswith("weights.h5") else source.save(tmp_path / name)
    state = loaded(tmp_path / name, config)
    given = images(config)
    assert_equal(outputs(state, given), {"logits": np.asarray(source(given, training=False))})
