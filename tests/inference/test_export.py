"""Exports are read by programs that do not have this one, and give what the checkpoint gives."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
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
from exports import export_of
from keras.src.applications.convnext import LayerScale
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
from trainer.inference.export import hub, writers
from trainer.inference.export.proof import probe
from trainer.inference.export.stock_model import own_names, stock_model
from trainer.interchange.origin import Origin
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
        assert "." not in weight.path, "Keras's PyTorch backend takes no dots"
        weight.assign(file.get_tensor(weight.path.replace("__", "/")))
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


def test_a_saved_model_rounds_as_the_run_does(stored: Path, tmp_path: Path) -> None:
    """Not as Keras's batch norm, whose last bits a network may magnify: it answers as predict and evaluate do."""
    assert run(["export", f"run_dir={stored}", "format=savedmodel", f"output={tmp_path / 'served'}"]) == 0
    loaded = predictors.predictor(stored, "latest", None, ())
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    encoded, _ = DigitsSplit(DigitsConfig("digits", None, None, None, None, "fail"), "validation").read(np.arange(3))
    for number, image in enumerate(encoded):
        file = tmp_path / f"{number}.png"
        file.write_bytes(image)
        answered = served(image_bytes=tf.constant([image]))["probabilities"].numpy()
        assert (answered == loaded.predict([file])).all()


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
    export = export_of(trained, config)
    writers.KERAS.write(export, keras_file)
    writers.KERAS.read(export, keras_file, probe(config, trained, "raw"))
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


def test_a_variable_that_its_layer_gives_no_name_is_found_by_its_place() -> None:
    """As the scales of ConvNeXt, whose variables Keras numbers through the process: in a copy they are others."""
    image = keras.Input((8, 8, 3), name="image")
    scaled = LayerScale(0.5, 3, name="scale_1")(LayerScale(0.25, 3, name="scale_0")(image))
    features = keras.layers.GlobalAveragePooling2D()(scaled)
    model = keras.Model({"image": image}, {"logits": keras.layers.Dense(2, name="dense")(features)})
    values = {variable_name(variable): variable.value for variable in model.weights}
    stock = stock_model(model, values)
    assert stock.get_layer("scale_0").weights[0].path != model.get_layer("scale_0").weights[0].path
    for number, scale in enumerate((0.25, 0.5)):
        assert np.array_equal(stock.get_layer(f"scale_{number}").weights[0].numpy(), np.full(3, scale, np.float32))
    assert set(own_names(model, stock).values()) == values.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("format=keras", "output=there.keras"), "output=there.keras exists, and is not overwritten"),
        (("format=savedmodel", "output=there.keras/served"), "there.keras is not a directory"),
        (("format=keras", "output=there"), "output=there.keras exists, and is not overwritten"),
        (("format=keras", "output=model.h5"), "output=model.h5 must end with .keras for format=keras"),
        (
            ("format=savedmodel", f"output={os.fsdecode(bytes([0xE9]))}"),
            "is not UTF-8, and TensorFlow writes format=saved",
        ),
        (("format=weights", "output=w.h5"), "must end with .safetensors or .weights.h5"),
        (
            ("format=pb", "output=x"),
            "format=pb does not exist; allowed: keras, savedmodel, weights, hub, onnx, litert, state",
        ),
        (("output=x",), "export needs format=…, one of keras, savedmodel, weights, hub, onnx, litert, state"),
        (("format=keras", "output=x.keras", "step=3"), "export does not know step=3"),
        (("format=litert", "output=m"), "output=m.tflite.json exists, and is not overwritten"),
        (("format=onnx", "output=m.tflite"), "output=m.tflite must end with .onnx for format=onnx"),
        (
            ("format=keras", "output=m", "quantization=int8"),
            "quantization=int8 is for format=onnx or format=litert, and not for format=keras",
        ),
        (("format=litert", "output=x", "quantization=int4"), "quantization=int4 does not exist; allowed: int8"),
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
    mine = {"there.keras", "m.tflite.json"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    assert run(["export", "run_dir=nowhere", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(mine, "mine")


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

    monkeypatch.setitem(writers.FORMATS, "keras", {".keras": dataclasses.replace(writers.KERAS, write=fail)})
    with pytest.raises(OSError, match="disk full"):
        run(["export", f"run_dir={stored}", "format=keras", f"output={tmp_path / 'new' / 'below' / 'm.keras'}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "form"), FORMATS.items())
def test_an_export_that_gives_something_else_when_it_is_read_again_does_not_appear(
    name: str,
    form: str,
    stored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One weight of the network in the file is not the run's."""
    (ending,) = [ending for ending in writers.FORMATS[form] if name.endswith(ending)]
    sound = writers.FORMATS[form][ending]

    def write(export: writers.Export, path: Path) -> None:
        kernel = export.model.get_layer("logits__logits").kernel
        right = kernel.numpy()
        kernel.assign(right * 1.1)
        sound.write(export, path)
        kernel.assign(right)

    monkeypatch.setitem(writers.FORMATS, form, {ending: dataclasses.replace(sound, write=write)})
    assert run(["export", f"run_dir={stored}", f"format={form}", f"output={tmp_path / name}"]) == 3
    assert re.search(rf"{name}, read again, differs from the run's network by", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_hubs_directory_says_what_the_network_expects_where_it_comes_from_and_starts_a_run(
    stored: Path, tmp_path: Path
) -> None:
    there = restore.restore(stored, "latest", ())
    place = tmp_path / "hub"
    assert run(["export", f"run_dir={stored}", "format=hub", "weights=ema", f"output={place}"]) == 0
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md",
        "config.json",
        "labels.txt",
        "model.safetensors",
    ]
    facts = json.loads((place / "config.json").read_text())
    assert facts["id2label"]["3"] == (place / "labels.txt").read_text().splitlines()[3] == "three"
    assert (facts["num_classes"], facts["image_size"]) == (10, there.config.preprocess.image_size)
    assert facts["mean"] == list(there.config.preprocess.normalize.mean)
    card = (place / "README.md").read_text()
    assert there.digest in card
    assert f"trained for {there.manifest.step} steps" in card
    assert "| weights | moving averages |" in card
    assert there.manifest.lineage[0].started in card
    assert overview(place / "model.safetensors")["origin"]["checkpoint_digest"] == there.digest


def test_a_class_name_is_no_markup_on_the_page_of_a_hub(stored: Path, tmp_path: Path) -> None:
    there = restore.restore(stored, "latest", ())
    origin = Origin("c", "0" * 64, 1, "raw", ())
    names = ("<img src=x>", "[a](b)", "`c`", *(str(number) for number in range(30)))
    hub.write_description(tmp_path, there, names, origin)
    card = (tmp_path / "README.md").read_text()
    assert r"\<img src=x\>, \[a\]\(b\), \`c\`" in card
    assert "and 13 more: labels.txt" in card


def test_an_export_takes_the_ending_of_its_format_makes_its_directory_and_says_how_it_is_loaded(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", f"run_dir={stored}", "format=keras", f"output={tmp_path / 'new' / 'v1.2'}"]) == 0
    path = tmp_path / "new" / "v1.2.keras"
    said = capsys.readouterr().out
    assert f"{path}: keras of " in said
    line = re.search("^to load it in Python: (.*)$", said, re.MULTILINE)
    assert line is not None
    assert isinstance(eval(line[1], {"keras": keras}), keras.Model)  # the line that was printed
