"""Networks for ONNX Runtime and LiteRT: they run there, and give what the run gives, before they appear."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import exports_table
import keras
import numpy as np
import pytest
import tensorflow as tf
from exported_networks import OF_RECIPE
from processes import Trainer
from small_plugin import SMALL, install, installed_here
from stored_runs import keep_this_process

from trainer.__main__ import run
from trainer.config import stored as config_file
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.errors import RestoreRefused, UsageError
from trainer.inference import predictor as predictors
from trainer.inference.export import litert, onnx_runtime, pixels, proof
from trainer.inference.export.converting import converting
from trainer.inference.export.stock_model import stock_model
from trainer.inference.export.validation import ValidationImages
from trainer.run import restore
from trainer.run.restore import Restored

SIZE = 42  # the crop of 48 pixels, to the pixel
SETTINGS = (
    *(key for key in SMALL if "_examples" not in key),
    f"preprocess.image_size={SIZE}",
    "preprocess.train=[decode,central_crop,resize,normalize]",
    "preprocess.eval=[decode,central_crop,resize,normalize]",
    "preprocess.normalize.channels=bgr",  # normalisation that no symmetry hides
    "preprocess.normalize.mean=[0.2,0.4,0.6]",
    "preprocess.normalize.std=[0.3,0.5,0.7]",
    "train.global_batch_size=32",
    "optimizer=adam",
    "optimizer.learning_rate=0.01",
    "train.steps=400",
    "evaluation.every_steps=400",
    "evaluation.batch_size=64",
)
NAMES = {"onnx": "m.onnx", "litert": "m.tflite"}
NETWORK = {"onnx": onnx_runtime.network, "litert": litert.network}
# Follows the document beside each network, without this program and without TensorFlow.
STRANGER = """
import json, sys
import numpy as np
from PIL import Image
for absent in ("trainer", "tensorflow", "keras"):
    sys.modules[absent] = None
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
def fed(file, about):
    image = Image.open(file).convert("RGB")
    for step in about["preprocessing"]:
        if step["step"] == "central_crop":
            width, height = (round(side * step["fraction"]) for side in image.size)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        elif step["step"] == "resize":
            assert image.size == (step["size"], step["size"]), "every library resizes to the same size alike"
        else:
            assert step["step"] == "decode", step
    assert about["input"]["values"] == "red, green and blue from 0 to 255, after preprocessing"
    return np.asarray(image, about["input"]["dtype"])
found = {}
for path in sys.argv[1:]:
    about = json.load(open(path + ".json"))
    given = {about["input"]["name"]: np.stack([fed(f"{number}.png", about) for number in range(5)])}
    if path.endswith(".onnx"):
        logits = onnxruntime.InferenceSession(path).run([about["output"]["name"]], given)[0]
    else:
        logits = Interpreter(path).get_signature_runner()(**given)[about["output"]["name"]]
    found[path] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert about["classes"][3] == "three"
np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of the small network that knows the digits."""
    place = tmp_path_factory.mktemp("trained")
    install(place)
    trainer = Trainer(place)
    trainer.run("train", "run_dir=run", *SETTINGS)
    trainer.close()
    with installed_here(place), pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        yield place / "run"


@pytest.fixture(scope="module")
def restored(trained: Path) -> Restored:
    return restore.restore(trained, "latest", ())


def test_a_program_that_follows_the_document_gets_the_probabilities_of_predict(
    trained: Path, restored: Restored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, name in NAMES.items():
        assert run(["export", f"run_dir={trained}", f"format={form}", f"output={tmp_path / 'm'}"]) == 0
        said = capsys.readouterr().out
        assert f"{tmp_path / name}: {form} of " in said
        assert f"{tmp_path / name}.json: how an image becomes its input" in said
    side = round(SIZE / restored.config.preprocess.central_crop.fraction)
    images = [tmp_path / f"{number}.png" for number in range(5)]
    for number, file in enumerate(images):
        colours = np.random.default_rng(number).integers(0, 256, [side, side, 3], np.uint8)
        file.write_bytes(tf.io.encode_png(colours).numpy())
    expected = predictors.predictor(trained, "latest", None, ()).predict(images)
    assert np.ptp(expected, axis=0).max() > 0.01, "outputs that do not depend on the image prove nothing"
    command = [sys.executable, "-I", "-c", STRANGER, *NAMES.values()]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stderr
    for name, found in np.load(tmp_path / "found.npz").items():
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)
        about = json.loads((tmp_path / f"{name}.json").read_text())
        assert config_file.from_text(about["trainer/config.yaml"]) == restored.config
        assert json.loads(about["trainer/origin.json"])["checkpoint_digest"] == restored.digest
        assert about["quantization"] is None
    _, onnxruntime = onnx_runtime.libraries()
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["trainer/origin.json"])["checkpoint_digest"] == restored.digest
    assert session.get_inputs()[0].shape == ["n", SIZE, SIZE, 3]


@pytest.mark.parametrize(("form", "name"), NAMES.items())
def test_a_network_that_gives_something_else_in_its_own_runtime_does_not_appear(
    form: str,
    name: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The normalisation in the file has red first, and the run blue."""
    of = pixels.pixel_model
    normalize = {"channels": "rgb"}

    def wrong(stock: keras.Model, config: PreprocessConfig) -> keras.Model:
        return of(stock, dataclasses.replace(config, normalize=dataclasses.replace(config.normalize, **normalize)))

    monkeypatch.setattr(pixels, "pixel_model", wrong)
    assert run(["export", f"run_dir={trained}", f"format={form}", f"output={tmp_path / name}"]) == 3
    assert re.search(rf"{name}, read again, differs from the run's network by", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def types_within(path: Path) -> set[str]:
    """Of the weights in a file, and for LiteRT of the activations too."""
    if path.suffix == ".tflite":
        details = litert.library().Interpreter(str(path)).get_tensor_details()
        return {np.dtype(each["dtype"]).name for each in details}
    onnx, _ = onnx_runtime.libraries()
    return {onnx.TensorProto.DataType.Name(each.data_type).lower() for each in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(("form", "name"), NAMES.items())
def test_eight_bits_are_calibrated_and_measured_on_validation_images(
    form: str,
    name: str,
    trained: Path,
    restored: Restored,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twelve filters may lose a point, which is refused; Inception V3 does not, see the long proof below."""
    monkeypatch.setattr(proof, "LOST_ACCURACY", 0.05)
    monkeypatch.setitem(sys.modules, "sympy", None)  # which ONNX Runtime does not install
    path = tmp_path / name
    assert run(["export", f"run_dir={trained}", f"format={form}", "quantization=int8", f"output={tmp_path / 'm'}"]) == 0
    said = capsys.readouterr().out
    assert f"{path}: {form} in int8 of " in said
    kinds = types_within(path)
    assert {"onnx": "uint8", "litert": "int8"}[form] in kinds
    assert form == "litert" or "int8" not in kinds, "products with signed weights overflow on processors without VNNI"
    count, right = 0, 0
    for images, labels in ValidationImages(restored)._batches(ValidationImages(restored)._source.spread(1000)):
        count += len(labels)
        right += int((NETWORK[form](path)(images).argmax(1) == labels).sum())
    assert right / count > 0.6, "a network that knows nothing has nothing to lose"
    about = json.loads((tmp_path / f"{name}.json").read_text())["quantization"]
    exact = about["validation"].pop("right_in_float32")
    assert about == {"type": "int8", "validation": {"images": count, "right": right}}
    assert f"{right} of {count} validation images are right, {exact} in float32" in said
    assert sorted(each.name for each in tmp_path.iterdir()) == [name, f"{name}.json"]


@pytest.mark.parametrize(("form", "name"), NAMES.items())
def test_eight_bits_that_cost_more_than_a_point_do_not_appear(
    form: str,
    name: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Calibrated on images that are nearly black, as with the wrong scale: ranges are too small."""
    calibration = ValidationImages.calibration
    monkeypatch.setattr(ValidationImages, "calibration", lambda images: (each / 255 for each in calibration(images)))
    arguments = ["export", f"run_dir={trained}", f"format={form}", "quantization=int8"]
    assert run([*arguments, f"output={tmp_path / name}"]) == 3
    assert re.search(
        rf"{name} has \d+ of \d+ validation images right, the network in float32 \d+; more than 1 point of ",
        capsys.readouterr().err,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_inception_v3_in_eight_bits_knows_the_digits_as_well_as_in_float32(
    trainer: Trainer,
) -> None:
    output = trainer.run("train", "run_dir=run")  # the recipe of the digits
    (last,) = re.findall(r"last +validation accuracy ([\d.]+)", output)  # what is exported, and not the best
    accuracy = float(last)
    assert accuracy > 0.95
    runtimes = {"onnx": exports_table.ONNX_RUNTIME, "litert": exports_table.LITERT_RUNTIME}
    images = ValidationImages(restore.restore(trainer.cwd / "run", "latest", ()))
    for form, name in NAMES.items():
        trainer.run("export", "run_dir=run", f"format={form}", "quantization=int8", "output=m")
        network, count, right = NETWORK[form](trainer.cwd / name), 0, 0
        for given, labels in images._batches(images._source.spread(1000)):
            count += len(labels)
            right += int((network(given).argmax(1) == labels).sum())
        assert right / count >= accuracy - 0.01, form
        about = json.loads((trainer.cwd / f"{name}.json").read_text())["quantization"]["validation"]
        in_float32 = about["right_in_float32"]
        assert in_float32 == round(accuracy * count), form
        result = exports_table.of_int8(right, count, in_float32)
        exports_table.note_words(exports_table.INT8[form], runtimes[form], OF_RECIPE, result)


def test_a_point_is_what_eight_bits_may_cost() -> None:
    for right in (89, 95):
        proof.refuse_lost_accuracy(proof.Accuracy(100, right, right_in_float32=90), "m.tflite")
    with pytest.raises(RestoreRefused, match=r"m\.tflite has 88 of 100 validation images right"):
        proof.refuse_lost_accuracy(proof.Accuracy(100, 88, right_in_float32=90), "m.tflite")


def test_images_to_measure_with_are_spread_over_all_classes(restored: Restored) -> None:
    source = ValidationImages(restored)._source
    part = source.spread(100)
    assert 50 < part.count <= 100
    assert len(set(part.labels())) == 10
    assert source.spread(10**6).count == source.count


@pytest.mark.parametrize(
    ("form", "module"), [("onnx", "tf2onnx"), ("onnx", "onnxruntime"), ("litert", "ai_edge_litert")]
)
def test_a_runtime_that_is_not_installed_is_named_before_anything_is_read(
    form: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert run(["export", "run_dir=nowhere", f"format={form}", f"output={tmp_path / 'm'}"]) == 2
    assert f"pip install 'resumable-trainer[{form}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_a_converter_does_not_know_is_refused_with_its_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    @keras.saving.register_keras_serializable("test")
    class Odd(keras.layers.Layer):
        def call(self, values: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.Betainc(a=values, b=values, x=values)

    image = keras.Input((8, 8, 3), name=pixels.INPUT)
    model = keras.Model({pixels.INPUT: image}, {pixels.OUTPUT: Odd()(image)})
    with pytest.raises(UsageError, match=r"format=litert: this network cannot be converted: .*Betainc"):
        litert.write(model, tmp_path / "m.tflite")
    onnx_runtime.write(model, {}, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"format=onnx: ONNX Runtime does not take this network: .*Betainc"):
        onnx_runtime.network(tmp_path / "m.onnx")


def test_grouped_convolutions_and_gelu_run_in_onnx_runtime_though_tf2onnx_knows_neither(tmp_path: Path) -> None:
    image = keras.Input((24, 24, 8), name=pixels.INPUT)
    features = keras.layers.Conv2D(16, 3, strides=2, padding="same", groups=4, activation="gelu")(image)
    features = keras.layers.Conv2D(16, 5, padding="same", groups=16, dilation_rate=2)(features)
    inner = keras.Model(image, keras.layers.GlobalAveragePooling2D()(features))
    outer = keras.Input((24, 24, 8), name=pixels.INPUT)
    model = keras.Model({pixels.INPUT: outer}, {pixels.OUTPUT: inner(outer)})
    onnx_runtime.write(model, {}, tmp_path / "m.onnx")
    given = np.random.default_rng(0).normal(size=(3, 24, 24, 8)).astype(np.float32)
    expected = model({pixels.INPUT: given})[pixels.OUTPUT].numpy()
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(onnx_runtime.network(tmp_path / "m.onnx")(given), expected, rtol=0, atol=1e-6)


def test_steps_after_the_normalisation_are_left_to_the_program_too(restored: Restored) -> None:
    """The network is then fed what those steps give, and normalises nothing."""
    preprocess = dataclasses.replace(restored.config.preprocess, eval=("decode", "normalize", "resize"))
    config = dataclasses.replace(restored.config, preprocess=preprocess)
    about = json.loads(pixels.description(config, tuple("0123456789"), {}, None))
    assert [step["step"] for step in about["preprocessing"]] == ["decode", "normalize", "resize"]
    assert about["preprocessing"][1]["mean"] == [0.2, 0.4, 0.6]
    assert about["input"]["values"] == "what preprocessing gives"
    found = proof.probe(config, restored.state, "raw")
    assert np.array_equal(found.fed, found.images.numpy())
    stock = stock_model(restored.state.model, restored.state.weights("raw"))
    logits = pixels.pixel_model(stock, preprocess)({pixels.INPUT: found.fed}, training=False)[pixels.OUTPUT]
    np.testing.assert_allclose(logits, found.logits, rtol=0, atol=1e-4)


def test_what_a_converter_says_is_shown_where_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def convert(reason: str | None) -> None:
        with converting("onnx"):
            os.write(2, b"progress\n")
            if reason is not None:
                raise KeyError(reason)

    convert(None)
    assert "progress" not in capfd.readouterr().err
    with pytest.raises(UsageError, match="format=onnx: this network cannot be converted: KeyError: 'odd'"):
        convert("odd")
    assert "progress" in capfd.readouterr().err
