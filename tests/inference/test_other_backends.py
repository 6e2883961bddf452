"""Exports load on Keras's JAX and PyTorch backends, with the outputs of the run's network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import backend_reader
import numpy as np
import pytest
from diagnosing import composed
from keras_writer import fill, images

from trainer.inference.export import writers
from trainer.inference.export.proof import TOLERANCE
from trainer.inference.export.stock_model import own_names, stock_model
from trainer.training.state import build_state
from trainer.training.step import inference

SIZE, APPLICATION_SIZE = 75, 64
NARROW = ("model.width=0.1", "model.min_depth=8", f"preprocess.image_size={SIZE}")
APPLICATION = ("model=keras_application", "model.num_classes=10", f"preprocess.image_size={APPLICATION_SIZE}")
# layers that no other of these has: both kinds of average pooling, squeeze and excite, LayerScale, padding as torch's
NETWORKS = {
    "inception_v3": NARROW,
    "inception_v3 of torchvision": (*NARROW, "model.count_include_pad=true", "model.batch_norm.scale=true"),
    "inception_v3 in 16 bits": (*NARROW, "runtime.precision=mixed_bfloat16"),
    "MobileNetV3Small": (*APPLICATION, "model.name=MobileNetV3Small"),
    "EfficientNetB0": (*APPLICATION, "model.name=EfficientNetB0"),
    "ConvNeXtTiny": (*APPLICATION, "model.name=ConvNeXtTiny"),
    "ResNet50 of torchvision": (*APPLICATION, "model.name=ResNet50", "model.conventions=torch"),
    "NASNetMobile": (*APPLICATION, "model.name=NASNetMobile"),
}


@pytest.mark.long
@pytest.mark.skipif("BACKENDS" not in os.environ, reason="BACKENDS names no Python that has Keras, JAX and PyTorch")
@pytest.mark.parametrize("network", NETWORKS)
def test_an_export_gives_the_same_logits_on_every_backend_of_keras(network: str, tmp_path: Path) -> None:
    config = composed(*NETWORKS[network])
    state = build_state(config)
    fill(state.model)
    given = images(config.preprocess.image_size) * 2.0 - 1.0
    np.save(tmp_path / "images.npy", given)
    names = tuple(map(str, range(10)))
    stock = stock_model(state.model, state.weights("raw"))
    export = writers.Export(stock, config, names, {}, own_names(state.model, stock), lambda place: None)
    for name, form in (("m.keras", writers.KERAS), ("m.weights.h5", writers.WEIGHTS_H5)):
        form.write(export, tmp_path / name)
    writers.SAFETENSORS.write(export, tmp_path / "m.safetensors")
    exact = state
    if config.runtime.precision != "float32":
        exact = build_state(composed(*NARROW))
        for variable, value in state.variables.items():
            exact.variables[variable].assign(value)
    expected = inference(exact, "raw")(given).numpy()
    assert np.median(np.ptp(expected, axis=0)) > 20 * TOLERANCE, "outputs that do not depend on the image"
    for backend in ("jax", "torch"):
        environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("PYTHONPATH", None)
        command = [os.environ["BACKENDS"], backend_reader.__file__, str(tmp_path)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert process.returncode == 0, process.stderr
        found = np.load(tmp_path / "found.npz")
        assert str(found["backend"]) == backend
        assert set(found["types"]) - {"uint32", "int64"} == {"float32"}
        for file in ("m.keras", "m.weights.h5", "m.safetensors"):
            difference = float(np.abs(found[file] - expected).max() / max(1.0, np.abs(expected).max()))
            print(f"| {network} | {backend} | {file} | {difference:.0e} |")
            assert difference < TOLERANCE, (backend, file)
