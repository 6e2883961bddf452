"""Exports are read by programs that do not have this one, and give what the checkpoint gives."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from diagnosing import NARROW, composed
from stored_runs import keep_this_process, lively, store_run

from trainer.__main__ import run
from trainer.config import stored as config_file
from trainer.config.schema.sources import DigitsConfig
from trainer.data.batches import evaluation_batches
from trainer.data.sources.digits import DigitsSplit
from trainer.data.sources.source import open_source
from trainer.diagnosis.overview import overview
from trainer.errors import UsageError
from trainer.inference import predictor as predictors
from trainer.inference.export import writers
from trainer.inference.export.stock_model import stock_model
from trainer.run import restore, warm_start
from trainer.run.warm_start import WarmStart
from trainer.training.state import build_state, variable_name
from trainer.training.step import inference

FORMATS = {"m.keras": "keras", "served": "savedmodel", "m.weights.h5": "weights", "m.safetensors": "weights"}
# Reads every export with the libraries alone: an import of this project fails.
STRANGER = """
import importlib.abc, json, os, sys, zipfile
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "trainer":
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import h5py, keras, numpy as np, tensorflow as tf
from safetensors import safe_open
given = np.load("given.npz", allow_pickle=True)
model = keras.models.load_model("m.keras")
found = {"keras": model(given["images"], training=False)}
fresh = keras.models.model_from_json(model.to_json())
fresh.load_weights("m.weights.h5")
found["weights_h5"] = fresh(given["images"], training=False)
with safe_open("m.safetensors", "np") as file:
    metadata = file.metadata()
    for weight in fresh.weights:
        weight.assign(tf.zeros_like(weight))
    for weight in fresh.weights:
        weight.assign(file.get_tensor(weight.path.replace(".", "/")))
    assert len(fresh.weights) == len(file.keys())
found["safetensors"] = fresh(given["images"], training=False)
served = tf.saved_model.load("served").signatures["serving_default"](image_bytes=tf.constant(list(given["encoded"])))
found["probabilities"], found["classes"] = served["probabilities"], served["classes"].numpy().astype("S")
kinds = {type(layer).__module__.partition(".")[0] for layer in model.layers}
assert kinds == {"keras"} and not any(name.partition(".")[0] == "trainer" for name in sys.modules), kinds
np.savez("found.npz", **{name: np.asarray(value) for name, value in found.items()})
origins = {"safetensors": metadata}
with zipfile.ZipFile("m.keras") as archive:
    origins["keras"] = {name: archive.read(name).decode() for name in archive.namelist() if name.startswith("trainer/")}
with h5py.File("m.weights.h5") as file:
    origins["weights.h5"] = dict(file.attrs)
extra = "served/assets.extra"
origins["savedmodel"] = {f"trainer/{name}": open(f"{extra}/{name}").read() for name in os.listdir(extra)}
json.dump(origins, open("origins.json", "w"))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        settings = ("model.batch_norm.momentum=0", "ema.decay=0.9")
        yield store_run(tmp_path_factory.mktemp("stored") / "run", lively, *settings)


def test_a_process_without_this_project_gets_the_same_outputs_from_every_export(stored: Path, tmp_path: Path) -> None:
    there = restore.restore(stored, "latest", ())
    for name, form in FORMATS.items():
        writers.write(there, "ema", form, tmp_path / name)
    batch = next(iter(evaluation_batches(open_source(there.config.data, "validation"), there.config)))
    encoded, _ = DigitsSplit(DigitsConfig("digits", None, None, None, None, "fail"), "validation").read(np.arange(16))
    np.savez(tmp_path / "given.npz", images=batch["image"].numpy(), encoded=np.array(encoded, object))
    expected = inference(there.state, "ema")(batch["image"]).numpy()
    assert np.ptp(expected, axis=0).min() > 0.1, "outputs that do not depend on the image prove nothing"
    assert np.abs(expected - inference(there.state, "raw")(batch["image"]).numpy()).max() > 0.01
    command = [sys.executable, "-I", "-c", STRANGER]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "meta_optimizer" not in process.stderr  # where TensorFlow cannot optimize a graph
    found = np.load(tmp_path / "found.npz")
    for name in ("keras", "weights_h5", "safetensors"):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)
    probabilities = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], probabilities, rtol=0, atol=1e-4)
    assert [text.decode() for text in found["classes"][3]] == list(there.manifest.class_names)
    digest = hashlib.sha256((there.path / "manifest.json").read_bytes()).hexdigest()
    origins = json.loads((tmp_path / "origins.json").read_text())
    assert origins.keys() == {"keras", "savedmodel", "weights.h5", "safetensors"}
    for name, texts in origins.items():
        assert config_file.from_text(texts["trainer/config.yaml"]) == there.config, name
        origin = json.loads(texts["trainer/origin.json"])
        assert origin["checkpoint_digest"] == digest, name
        assert (origin["weights"], origin["class_names"][0]) == ("ema", "zero"), name
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    state = build_state(there.config)
    for name in ("m.keras", "m.weights.h5", "m.safetensors"):  # and back again
        seen = overview(tmp_path / name)
        assert (seen["origin"]["checkpoint_digest"], seen["origin"]["weights"]) == (digest, "ema"), name
        assert seen["config"]["model.min_depth"] == there.config.model.min_depth, name
        assert all(len(str(text)) < 100 for text in seen["file"].values()), name
        for variable in state.variables.values():
            variable.assign(tf.zeros_like(variable))
        exported = WarmStart(warm_start.find(tmp_path / name), (), classes_follow_data=False)
        warm_start.load(exported, there.config, state, there.manifest.class_names)
        for variable, values in there.state.weights("ema").items():
            if not variable.startswith("aux_logits"):
                assert np.array_equal(state.variables[variable].numpy(), values.numpy()), (name, variable)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_run_in_16_bits_is_exported_in_float32_throughout(precision: str, tmp_path: Path) -> None:
    keras_file = tmp_path / "m.keras"
    config = composed(*NARROW, f"runtime.precision={precision}")
    trained, same = build_state(config), build_state(composed(*NARROW))
    generator = np.random.default_rng(2)
    for name, variable in trained.variables.items():
        if name.endswith(("kernel", "beta", "bias")):
            variable.assign_add(generator.normal(0.0, 0.1, variable.shape).astype(np.float32))
        same.variables[name].assign(variable)
    images = generator.normal(size=(4, 75, 75, 3)).astype(np.float32)
    expected = inference(same, "raw")(images).numpy()
    assert np.abs(inference(trained, "raw")(images).numpy() - expected).max() > 1e-4, "16 bits would not be seen"
    export = writers.Export(stock_model(trained.model, trained.weights("raw")), config, tuple("0123456789"), {})
    writers.FORMATS["keras"][".keras"](export, keras_file)
    with zipfile.ZipFile(keras_file) as archive:
        assert b"float16" not in archive.read("config.json")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            found: list[Any] = []
            file.visititems(lambda name, node: found.append(node.dtype) if isinstance(node, h5py.Dataset) else None)
    assert {dtype for dtype in found if dtype.kind != "u"} == {np.dtype("float32")}  # a seed is unsigned
    model = keras.models.load_model(keras_file)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert np.array_equal(np.asarray(model(images, training=False)), expected)


def test_an_operation_that_asks_for_16_bits_itself_is_refused_by_name() -> None:
    image = keras.Input((8, 8, 3), name="image")
    features = keras.layers.GlobalAveragePooling2D()(keras.ops.cast(image, "bfloat16"))
    model = keras.Model({"image": image}, {"logits": keras.layers.Dense(2)(features)})
    with pytest.raises(UsageError, match=r"cast\S* of functional\S* computes in bfloat16, and exports are float32"):
        stock_model(model, {variable_name(variable): variable.value for variable in model.weights})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("format=keras", "output=there.keras"), "output=there.keras exists, and is not overwritten"),
        (("format=savedmodel", "output=nowhere/served"), "the directory nowhere does not exist"),
        (("format=keras", "output=model.h5"), "output=model.h5 must end with .keras for format=keras"),
        (
            ("format=savedmodel", f"output={os.fsdecode(bytes([0xE9]))}"),
            "is not UTF-8, and TensorFlow writes format=saved",
        ),
        (("format=weights", "output=w.h5"), "must end with .weights.h5 or .safetensors"),
        (("format=onnx", "output=x"), "format=onnx does not exist; allowed: keras, savedmodel, weights"),
        (("output=x",), "export needs format=…, one of keras, savedmodel, weights"),
        (("format=keras", "output=x.keras", "step=3"), "export does not know step=3"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.keras").write_text("mine")
    assert run(["export", "run_dir=nowhere", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.keras").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.keras"]


@pytest.mark.parametrize("loss", [float("nan"), 2.0])
def test_a_network_whose_validation_was_not_finite_is_given_away_with_a_warning(
    loss: float, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = restore.restore(stored, "latest", ())
    manifest = dataclasses.replace(there.manifest, validation={"loss": loss, "accuracy": 0.0, "skipped": 0.0})
    validated = dataclasses.replace(there, manifest=manifest)
    monkeypatch.setattr(restore, "restore", lambda *arguments: validated)
    monkeypatch.setattr(predictors, "restore", lambda *arguments: validated)
    said = f"the validation of {there.path} had no finite loss, so its outputs mean nothing"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        predictors.predictor(stored, "latest", None, ())
    assert run(["export", f"run_dir={stored}", "format=keras", f"output={tmp_path / 'x.keras'}"]) == 0
    finite = np.isfinite(loss)
    assert (said in capsys.readouterr().err) is not finite
    assert any(said in str(warning.message) for warning in heard) is not finite


def test_a_writer_that_fails_leaves_nothing(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(export: object, path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setitem(writers.FORMATS, "keras", {".keras": fail})
    with pytest.raises(OSError, match="disk full"):
        run(["export", f"run_dir={stored}", "format=keras", f"output={tmp_path / 'm.keras'}"])
    assert list(tmp_path.iterdir()) == []
