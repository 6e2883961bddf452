"""Exports are read by the runtimes that they are for, and give the logits of the run's network there.

``scripts/make_exports_table`` makes the table of ``docs/evaluation.md`` of what these tests note. A runtime that no
variable of the environment names is not tried.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import backend_reader
import exports_table
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow_reader
import torch_reader
from diagnosing import composed
from document_tables import NOT_TRIED
from exported_networks import NETWORKS, OF_RECIPE
from exports import export_of
from keras_writer import fill

from trainer.config.schema import Config
from trainer.config.schema.networks import KerasApplicationConfig
from trainer.errors import UsageError
from trainer.inference.export import litert, onnx_runtime, proof, writers
from trainer.interchange import torch_state
from trainer.models.heads import head_layers
from trainer.training.state import build_state

FILES = {
    "m.keras": writers.KERAS,
    "m.weights.h5": writers.WEIGHTS_H5,
    "m.safetensors": writers.SAFETENSORS,
    "served": writers.SAVED_MODEL,
}
READ_BY_KERAS = {
    exports_table.KERAS: "m.keras",
    exports_table.WEIGHTS_H5: "m.weights.h5",
    exports_table.SAFETENSORS: "m.safetensors",
}
PYTHONS = {"tensorflow": sys.executable, "jax": os.environ.get("BACKENDS"), "torch": os.environ.get("BACKENDS")}
TENSORFLOWS = {
    exports_table.TENSORFLOW: ("2.21", sys.executable),
    exports_table.TENSORFLOW_2_15: ("2.15", os.environ.get("KERAS_2")),
}


LARGEST = 20.0  # logit, so that no probability of a SavedModel is rounded to 0


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network, what it was exported as in ``place``, and images with what it makes of them."""

    network: str
    config: Config
    export: writers.Export
    place: Path
    probe: proof.Probe

    def compare(self, export: str, runtime: str, found: npt.NDArray[np.float32]) -> None:
        """Hold logits to those of the run's network, and note their difference."""
        expected = self.probe.logits
        assert found.shape == expected.shape
        relative = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
        assert relative < proof.TOLERANCE, (export, runtime, relative)
        exports_table.note(export, runtime, self.network, relative)


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    config = composed(*NETWORKS[request.param])
    state = build_state(config)
    fill(state.model)
    probe = proof.probe(config, state, "raw")
    largest = float(np.abs(probe.logits).max())
    if largest > LARGEST:
        head = head_layers(state.model)[-1]
        for name, variable in state.variables.items():
            if name.startswith(f"{head}/"):
                variable.assign(variable * (LARGEST / largest))
        probe = proof.probe(config, state, "raw")
        assert np.abs(probe.logits).max() < 1.01 * LARGEST
    place, export = tmp_path_factory.mktemp("exported"), export_of(state, config)
    assert np.median(np.ptp(probe.logits, axis=0)) > 20 * proof.TOLERANCE, "outputs that do not depend on the image"
    np.save(place / "images.npy", probe.images.numpy())
    encoded = {str(number): np.frombuffer(data, np.uint8) for number, data in enumerate(probe.encoded)}
    np.savez(place / "encoded.npz", **encoded)
    for name, form in FILES.items():
        form.write(export, place / name)
    return Exported(request.param, config, export, place, probe)


def in_another_process(python: str, *arguments: str, **environment: str) -> None:
    """Nothing of this project can be imported there, and no GPU is used."""
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    variables.pop("PYTHONPATH", None)
    process = subprocess.run(
        [python, *arguments], env=variables, capture_output=True, text=True, check=False, timeout=900
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.long
@pytest.mark.parametrize("backend", exports_table.BACKENDS)
def test_every_backend_of_keras_gives_the_same_logits(backend: str, exported: Exported) -> None:
    python = PYTHONS[backend]
    if python is None:
        pytest.skip("BACKENDS names no Python that has Keras, JAX and PyTorch")
    in_another_process(python, backend_reader.__file__, str(exported.place), KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    found = np.load(exported.place / "found.npz")
    assert str(found["backend"]) == backend
    assert set(found["types"]) - {"uint32", "int64"} == {"float32"}
    for export, file in READ_BY_KERAS.items():
        exported.compare(export, exports_table.BACKENDS[backend], found[file])


@pytest.mark.long
@pytest.mark.parametrize("runtime", TENSORFLOWS)
def test_a_tensorflow_serves_the_saved_model_and_its_keras_reads_what_it_can(runtime: str, exported: Exported) -> None:
    version, python = TENSORFLOWS[runtime]
    if python is None:
        pytest.skip("KERAS_2 names no Python that has TensorFlow 2.15")
    place = exported.place
    model = exported.config.model
    is_keras_s = isinstance(model, KerasApplicationConfig) and model.conventions == "keras"
    in_another_process(python, tensorflow_reader.__file__, str(place), *([model.name] if is_keras_s else []))
    found, refused = np.load(place / "found.npz"), json.loads((place / "refused.json").read_text())
    assert str(found["version"]).startswith(version)
    logs = np.log(found["served"].astype(np.float64))  # the logits, but for a constant in each row
    constant = (exported.probe.logits - logs).mean(axis=1, keepdims=True)
    exported.compare(exports_table.SAVED_MODEL, runtime, logs + constant)
    if runtime == exports_table.TENSORFLOW:
        assert refused == {}  # the same files as above, which a backend of Keras has read
        return
    assert "keras.src.models.functional cannot be imported" in refused["m.keras"]
    exports_table.note_words(exports_table.KERAS, exports_table.KERAS_2, exported.network, exports_table.NOT_READ)
    if not is_keras_s:
        word = exports_table.NO_MODEL
    elif "m.weights.h5" in refused:
        print(refused["m.weights.h5"])
        word = exports_table.NOT_READ
    else:
        exported.compare(exports_table.WEIGHTS_H5, exports_table.KERAS_2, found["m.weights.h5"])
        return
    exports_table.note_words(exports_table.WEIGHTS_H5, exports_table.KERAS_2, exported.network, word)


@pytest.mark.long
@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_onnx_runtime_and_litert_give_the_same_logits(form: str, exported: Exported) -> None:
    export, runtime, network = {
        "onnx": (exports_table.ONNX, exports_table.ONNX_RUNTIME, onnx_runtime.network),
        "litert": (exports_table.LITERT, exports_table.LITERT_RUNTIME, litert.network),
    }[form]
    ((ending, kind),) = writers.FORMATS[form].items()
    kind.write(exported.export, exported.place / f"m{ending}")
    exported.compare(export, runtime, network(exported.place / f"m{ending}")(exported.probe.fed))


@pytest.mark.long
@pytest.mark.skipif("TORCH" not in os.environ, reason="TORCH names no Python that has torch, torchvision and timm")
@pytest.mark.parametrize("library", exports_table.OF_TORCH)
def test_networks_of_torchvision_and_timm_load_what_they_have(library: torch_state.Library, exported: Exported) -> None:
    export = exports_table.OF_TORCH[library]
    try:
        torch_state.refuse_other_network(exported.config, library)
    except UsageError as error:
        print(error)
        exports_table.note_words(export, library, exported.network, exports_table.OTHER_NETWORK)
        return
    file = exported.place / f"{library}.safetensors"
    writers.TORCH[library].write(exported.export, file)
    constructor = torch_state.constructor(exported.config, library, exported.probe.logits.shape[1])
    in_another_process(os.environ["TORCH"], torch_reader.__file__, str(file), constructor)
    exported.compare(export, library, np.load(exported.place / "logits.npy"))


def test_the_table_of_the_document_is_what_its_script_writes_and_claims_nothing_that_no_test_notes() -> None:
    document = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    table = exports_table.PLACE.shown(document)
    known = exports_table.known(document)
    assert table == exports_table.rendered(known)
    for (export, runtime, network), cell in known.items():
        if export in exports_table.INT8.values():
            assert network == OF_RECIPE
            right, images, in_float32 = exports_table.counts(cell)
            assert in_float32 - right <= proof.LOST_ACCURACY * images
        elif exports_table.is_number(cell):
            assert float(cell) <= proof.TOLERANCE, (export, runtime, network)
        else:
            assert cell in exports_table.REFUSALS, cell
    assert NOT_TRIED not in {known.get(place, NOT_TRIED) for place in tried_here()}


def tried_here() -> list[tuple[str, str, str]]:
    """What the long tests try without another environment."""
    here = {
        exports_table.BACKENDS["tensorflow"],
        exports_table.TENSORFLOW,
        exports_table.ONNX_RUNTIME,
        exports_table.LITERT_RUNTIME,
    }
    return [
        (export, runtime, network)
        for export, runtime in exports_table.LINES
        for network in ((OF_RECIPE,) if export in exports_table.INT8.values() else NETWORKS)
        if runtime in here
    ]
