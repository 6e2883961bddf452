"""The doctor on our own checkpoints, on Keras's files, on safetensors and on what must not be opened."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from diagnosing import NARROW, Doctor, causes, commit, composed, expected, narrow_config, narrow_state
from diagnosing import one_build_for_each_configuration as shared_builds
from foreign_files import cut, flip, random_arrays, save_safetensors, torch
from processes import Trainer

from trainer.diagnosis.comparison import aux_window
from trainer.diagnosis.widths import Width, infer
from trainer.interchange import hdf5_files
from trainer.models.inception_v3_units import PUBLISHED
from trainer.storage.durable import digest

DATA = "state.data-00000-of-00001"


@pytest.fixture(scope="module", autouse=True)
def _shared_builds() -> Iterator[None]:
    with shared_builds():
        yield


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    return Doctor(capsys, tmp_path)


@pytest.fixture(scope="module")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    for step in (5, 10):
        commit(run_dir, step, narrow_state(), narrow_config())
    return run_dir


@pytest.fixture
def own(_run: Path, tmp_path: Path) -> Path:
    """The newer of the two checkpoints of a run, in a copy that a test may damage."""
    shutil.copytree(_run, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "step-00000010"


# --- our own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DATA, "state.index", "config.yaml", "manifest.json"])
@pytest.mark.parametrize("kind", ["FIFO", "symbolic link"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(kind: str, name: str, doctor: Doctor, own: Path) -> None:
    moved = own.parents[2] / "moved"
    (own / name).rename(moved)
    if kind == "FIFO":
        os.mkfifo(own / name)
    else:
        (own / name).symlink_to(moved)
    status, said = doctor(own)
    assert status == 4
    assert f"{own / name} is a {kind}" in said


def test_a_whole_checkpoint_would_restore(doctor: Doctor, own: Path) -> None:
    status, output = doctor(own)
    assert (status, causes(output)) == (0, [])
    assert "would restore as it is" in output
    assert f"next: python -m trainer resume run_dir={own.parent.parent} checkpoint={own}" in output
    status, output = doctor(own.parent.parent)
    assert (status, causes(output)) == (0, [])
    assert "is a run directory; its newest valid checkpoint is step-00000010" in output


def test_a_prefix_or_a_file_given_for_a_directory(doctor: Doctor, own: Path) -> None:
    status, output = doctor(own / "state")
    assert (status, causes(output)) == (3, ["prefix_for_directory"])
    assert f"the directory {own}" in output
    assert f"checkpoint={own}\n" in output
    status, output = doctor(own / "manifest.json")
    assert (status, causes(output)) == (3, ["file_for_directory"])


@pytest.mark.parametrize(
    ("override", "cause", "words"),
    [
        ("model.min_depth=5", "width", "fit model.width=0.01 model.min_depth=4, the model has width=0.01 min_depth=5"),
        (
            "model.activation=sigmoid",
            "setting",
            "model.activation is relu in the checkpoint's configuration and sigmoid",
        ),
        ("model.num_classes=12", "classes", "the checkpoint has 10 classes, the model 12"),
        ("model.aux_logits=false", "aux_unexpected", "has an auxiliary head, the model has none"),
        ("optimizer=sgd", "optimizer", "adam's slots (m, v), the model's optimizer is sgd (momentum)"),
        ("optimizer=adamw", "optimizer", "adam's slots (m, v), the model's optimizer is adamw (m, v)"),
        ("optimizer.beta_1=0.8", "setting", "optimizer.beta_1 is 0.9 in the checkpoint's configuration and 0.8"),
        ("ema.decay=0.99", "ema", "no moving averages, the model 196 (ema.decay=0.99)"),
        ("seed=4", "setting", "seed is 0 in the checkpoint's configuration and 4 in the model"),
    ],
)
def test_an_override_that_does_not_match_is_the_one_cause(
    override: str, cause: str, words: str, doctor: Doctor, own: Path
) -> None:
    status, output = doctor(own, override)
    assert (status, causes(output)) == (3, [cause])
    assert words in output
    assert f"next: python -m trainer resume run_dir={own.parent.parent} checkpoint={own}" in output


def test_flipped_bytes_name_tensor_file_and_both_digests(doctor: Doctor, own: Path) -> None:
    name = "mixed_6b/branch_1/conv2d_0c_7x1/conv/kernel"
    before = digest(own / DATA)
    content = (own / DATA).read_bytes()
    flip(own / DATA, content.index(narrow_state().variables[name].numpy().tobytes()) + 8)
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["flipped"])
    assert f"checksum does not match: model/{name}" in output
    assert f"is {digest(own / DATA)[:16]}…, the manifest says {before[:16]}…" in output
    assert f"next: python -m trainer resume run_dir={own.parent.parent} checkpoint=step-00000005" in output


def test_a_file_missing_cut_short_and_not_finished(doctor: Doctor, own: Path) -> None:
    size = (own / DATA).stat().st_size
    cut(own / DATA, 0.25)
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["truncated"])
    assert f"{own / DATA} ends too early: {size // 4} bytes" in output
    (own / DATA).unlink()
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["missing_shard"])
    assert f"{own / DATA} is missing" in output
    (own / "state.index").unlink()
    status, output = doctor(own)
    assert (status, causes(output)[0]) == (4, "missing_index")
    unfinished = own.with_name(".writing-step-00000015")
    shutil.copytree(own.with_name("step-00000005"), unfinished)
    (unfinished / "manifest.json").unlink()
    status, output = doctor(unfinished)
    assert (status, causes(output)) == (4, ["unfinished"])


def test_config_and_manifest_missing_unreadable_or_edited(doctor: Doctor, own: Path) -> None:
    config, manifest = own / "config.yaml", own / "manifest.json"
    texts = {path: path.read_text() for path in (config, manifest)}
    config.write_text(texts[config].replace("width: 0.01", "width: 0.02"))
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["digest"])
    assert f"{config} was changed after it was written" in output
    assert "fit model.width=0.01 model.min_depth=4, the model has width=0.02" in output
    config.write_text("model: [")
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["config"])
    assert f"{config} is not a stored configuration of this version" in output
    config.unlink()
    assert causes(doctor(own)[1]) == ["config"]
    config.write_text(texts[config])
    manifest.write_text(texts[manifest][:-9])
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["manifest"])
    assert f"{manifest} cannot be read" in output
    manifest.unlink()
    status, output = doctor(own)
    assert (status, causes(output)) == (4, ["manifest"])
    assert f"{manifest} is missing" in output
    (own.with_name("step-00000005") / "notes.txt").write_text("mine")
    status, output = doctor(own.with_name("step-00000005"))
    assert (status, causes(output)) == (0, []), "a file of somebody else's is no damage"
    assert "note: foreign_file: step-00000005 also has notes.txt, which its manifest does not name" in output


# --- Keras -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras", "model.h5"])
def test_files_of_keras_are_read_and_their_damage_found(name: str, doctor: Doctor, tmp_path: Path) -> None:
    path = tmp_path / name
    model = narrow_state().model
    (model.save_weights if name.endswith(".weights.h5") else model.save)(str(path))
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (3, ["foreign_format"])
    assert "names as Keras writes them" in output
    assert causes(doctor(path, *NARROW, "model.num_classes=12")[1]) == ["foreign_format", "classes"]
    if name == "model.keras":
        place = path.read_bytes().index(
            narrow_state().variables["mixed_5b/branch_1/conv2d_0b_5x5/conv/kernel"].numpy().tobytes()
        )
        flip(path, place)
        status, output = doctor(path, *NARROW)
        assert (status, causes(output)) == (4, ["flipped"])
        assert "model.weights.h5 is damaged: Bad CRC-32" in output
        flip(path, place)
    size = path.stat().st_size
    cut(path, 0.5)
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (4, ["truncated"])
    assert name == "model.keras" or f"it has {size // 2} bytes and was written with {size}" in output


def test_a_file_on_which_the_hdf5_library_never_ends_is_damaged(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.weights.h5"
    narrow_state().model.save_weights(str(path))
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 64  # in the heap of texts: an entry of length 0 is followed for ever
    content[place : place + 64] = bytes(64)
    path.write_bytes(content)
    monkeypatch.setattr(hdf5_files, "SECONDS_ALLOWED", 3.0)
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (4, ["damaged"])
    assert "was still reading it after 3 seconds" in output


def test_the_network_of_keras_applications(doctor: Doctor, tmp_path: Path) -> None:
    model = keras.applications.InceptionV3(weights=None, input_shape=(75, 75, 3), classes=11)
    path = tmp_path / "application.weights.h5"
    model.save_weights(str(path))
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (3, ["foreign_format", "aux_absent", "width", "classes"])
    assert "fit model.width=1 model.min_depth=4, the model has width=0.01 min_depth=4" in output
    assert "conv2d_1a_3x3, has 32 in the checkpoint and 4 in the model" in output
    assert "model.aux_logits=false model.width=1 model.num_classes=11" in output


def test_a_keras_model_in_a_tensorflow_checkpoint_is_read_by_full_names(doctor: Doctor, tmp_path: Path) -> None:
    model = narrow_state().model
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    prefix = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "keras"))
    status, output = doctor(prefix, *NARROW)
    assert (status, causes(output)) == (3, ["foreign_format"])
    assert "object-based" in output
    status, output = doctor(prefix, *NARROW, "optimizer=sgd")
    assert (status, causes(output)) == (3, ["foreign_format", "optimizer"])
    assert "adam's slots (momentum, velocity), the model's optimizer is sgd (momentum)" in output


# --- safetensors, pickles, and pieces --------------------------------------------------------------------------------


def test_torch_weights_are_channels_first_with_gamma(doctor: Doctor, tmp_path: Path) -> None:
    scaled = expected(composed(*NARROW, "model.batch_norm.scale=true")).model
    arrays = torch(random_arrays({name: scaled[name] for name in _built_order(scaled)}))
    path = save_safetensors(tmp_path / "model.safetensors", arrays)
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (3, ["foreign_format", "channel_order", "setting", "gamma"])
    assert "out×in×height×width" in output
    assert "model.count_include_pad is true in networks of torchvision or timm and false in the model" in output
    suggested = "model.count_include_pad=true model.batch_norm.scale=true"
    assert suggested in output.partition("next: ")[2]
    status, output = doctor(path, *NARROW, *suggested.split())
    assert (status, causes(output)) == (3, ["foreign_format", "channel_order"])
    cut(path, 0.9)
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (4, ["truncated"])
    assert "AuxLogits" in output or "Mixed" in output or "fc" in output
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    assert causes(doctor(path, *NARROW)[1]) == ["truncated"]
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (4, ["damaged"])
    assert f"takes {2**42} bytes, but its place has 4" in output


def _built_order(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    order = [*PUBLISHED, "aux_logits/logits", "logits/logits"]
    return sorted(shapes, key=lambda name: next(n for n, unit in enumerate(order) if name.startswith(f"{unit}/")))


def test_pickles_are_refused_unopened(doctor: Doctor, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "opened"),))

    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    status, output = doctor(path)
    assert (status, causes(output)) == (3, ["pickle"])
    assert "runs whatever code its author put into it" in output
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    path.write_bytes(content.getvalue())
    assert causes(doctor(path)[1]) == ["pickle"]
    (tmp_path / "notes.txt").write_text("hello")
    assert causes(doctor(tmp_path / "notes.txt")[1]) == ["unknown_format"]


def test_the_published_filter_counts_are_the_builders() -> None:
    model = expected(composed("model.width=1", "model.min_depth=1")).model
    built = {unit: model[f"{unit}/conv/kernel"][-1] for unit in PUBLISHED}
    assert built == PUBLISHED
    assert len(built) == sum(name.endswith("conv/kernel") for name in model)


@pytest.mark.parametrize(
    "width", [Width(1.0, 16), Width(0.25, 16), Width(0.5, 8), Width(1 / 16, 4), Width(0.35, 1), Width(2.0, 16)]
)
def test_a_width_is_inferred_from_filter_counts(width: Width) -> None:
    filters = {unit: width.filters(unit) for unit in PUBLISHED}
    found = infer(filters, Width(0.01, 4))
    assert found.fitting(filters) == set(filters)
    assert found.width == width.width
    odd = {**filters, "mixed_5b/branch_0/conv2d_0a_1x1": 7}
    assert len(infer(odd, Width(0.01, 4)).fitting(odd)) == len(filters) - 1


def test_the_window_of_the_auxiliary_head_follows_the_size_of_the_images() -> None:
    assert [aux_window(size) for size in (75, 200, 299)] == [1, 2, 5]  # 200: TF-Slim's Conv2d_2a_2x2
    large = expected(composed(*NARROW, "preprocess.image_size=200")).model
    assert large["aux_logits/conv2d_2a_5x5/conv/kernel"][:2] == (2, 2)


def test_a_real_process_answers_in_one_screen(trainer: Trainer) -> None:
    commit(trainer.cwd, 5, narrow_state(), narrow_config())
    path = "checkpoints/step-00000005"
    output = trainer.run("doctor", f"checkpoint={path}", "model.activation=sigmoid", status=3)
    assert re.findall(r"^- (\w+):", output, re.MULTILINE) == ["setting"]
    assert output.startswith("checkpoint  ")
    assert len(output.splitlines()) <= 12
    assert "unknown key model.widht=1; did you mean model.width?" in trainer.run(
        "doctor", f"checkpoint={path}", "model.widht=1", status=2
    )
