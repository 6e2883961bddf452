"""Exports load on Keras's JAX and PyTorch backends, with the outputs of the run's network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import backend_reader
import numpy as np
import pytest
from diagnosing import composed
from exported_networks import NARROW, NETWORKS
from exports import export_of
from keras_writer import fill, images

from trainer.inference.export import writers
from trainer.inference.export.proof import TOLERANCE
from trainer.training.state import build_state
from trainer.training.step import inference


@pytest.mark.long
@pytest.mark.skipif("BACKENDS" not in os.environ, reason="BACKENDS names no Python that has Keras, JAX and PyTorch")
@pytest.mark.parametrize("network", NETWORKS)
def test_an_export_gives_the_same_logits_on_every_backend_of_keras(network: str, tmp_path: Path) -> None:
    config = composed(*NETWORKS[network])
    state = build_state(config)
    fill(state.model)
    given = images(config.preprocess.image_size) * 2.0 - 1.0
    np.save(tmp_path / "images.npy", given)
    export = export_of(state, config)
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
