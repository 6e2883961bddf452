"""What ``inspect`` shows of each format, for people and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
from diagnosing import commit, narrow_arrays, narrow_config, narrow_state
from foreign_files import cut, save_safetensors, save_with_saver, slim, torch
from processes import Trainer

from trainer.__main__ import run

PARAMETERS = 11_627


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of every format, all of the narrow network."""
    place = tmp_path_factory.mktemp("files")
    commit(place / "run", 5, narrow_state(), narrow_config())
    model = narrow_state().model
    model.save_weights(str(place / "model.weights.h5"))
    model.save(str(place / "model.keras"))
    model.save(str(place / "legacy.h5"))
    tf.train.Checkpoint(model=model).write(str(place / "object"))
    save_with_saver(place / "named" / "model.ckpt", slim(narrow_arrays()))
    save_safetensors(place / "model.safetensors", torch(narrow_arrays()))
    return place


def overview(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["inspect", *arguments, "format=json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)  # nothing but JSON on stdout
    assert isinstance(found, dict)
    return found


def test_our_own_checkpoint_tells_step_configuration_and_tensors(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = overview(capsys, f"run_dir={files / 'run'}")
    assert found == overview(capsys, f"checkpoint={files / 'run' / 'checkpoints' / 'step-00000005'}") | {
        "remarks": found["remarks"]
    }
    assert found["kind"] == "checkpoint of this trainer"
    assert (found["own"]["step"], found["own"]["examples"], found["own"]["classes"]) == (5, 160, 10)
    assert found["config"]["model.width"] == 0.01
    assert (found["parameters"], found["optimizer"]) == (PARAMETERS, "adam")
    (kernel,) = [tensor for tensor in found["tensors"] if tensor["name"] == "model/conv2d_1a_3x3/conv/kernel"]
    assert (kernel["shape"], kernel["dtype"]) == ([3, 3, 3, 4], "float32")


@pytest.mark.parametrize(
    ("name", "kind", "scheme", "key", "label"),
    [
        ("model.weights.h5", "Keras 3 weights", "Keras", "layers/conv2d/vars/0", "conv2d_1a_3x3.conv/kernel"),
        ("model.keras", "Keras 3 model", "Keras", "layers/conv2d/vars/0", "conv2d_1a_3x3.conv/kernel"),
        (
            "legacy.h5",
            "legacy Keras",
            "Keras",
            "model_weights/conv2d_1a_3x3.conv/conv2d_1a_3x3.conv/kernel",
            "conv2d_1a_3x3.conv/kernel",
        ),
        ("object", "object-based (tf.train.Checkpoint)", "Keras", None, "conv2d_1a_3x3.conv/kernel"),
        (
            "named/model.ckpt",
            "name-based (tf.compat.v1.train.Saver)",
            "TF-Slim",
            "InceptionV3/Conv2d_1a_3x3/weights",
            "InceptionV3/Conv2d_1a_3x3/weights",
        ),
        ("model.safetensors", "safetensors", "torch", "Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.conv.weight"),
    ],
)
def test_every_format_is_listed(
    name: str, kind: str, scheme: str, key: str | None, label: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = overview(capsys, f"checkpoint={files / name}")
    assert kind in found["kind"]
    assert scheme in found["names"]
    assert found["parameters"] == PARAMETERS
    (kernel,) = [tensor for tensor in found["tensors"] if tensor["name"] == label]
    assert sorted(kernel["shape"]) == [3, 3, 3, 4]
    if key is None:
        assert kernel["key"].startswith("model/_")  # positional: the object graph's full name is what tells
    else:
        assert kernel["key"] == key


def test_the_table_groups_tensors_and_states_the_totals(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", f"run_dir={files / 'run'}"]) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert "own         step: 5" in lines
    assert "config      model.width: 0.01" in lines
    assert f"parameters  {PARAMETERS:,}" in lines
    assert "model/mixed_5b/branch_1/conv2d_0b_5x5/" in lines
    assert any(line.split() == ["conv/kernel", "float32", "[5,", "5,", "4,", "4]"] for line in lines)


def test_a_saved_model_is_read_through_its_variables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tf.Module()
    module.weights = tf.Variable(np.zeros((2, 3), np.float32), name="weights")
    tf.saved_model.save(module, str(tmp_path / "saved"))
    found = overview(capsys, f"checkpoint={tmp_path / 'saved'}")
    assert "is a SavedModel" in found["remarks"][0]
    assert [tensor["shape"] for tensor in found["tensors"] if tensor["name"] == "weights"] == [[2, 3]]


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["private"] = np.arange(3)
    path = tmp_path / "linked.h5"
    with h5py.File(path, "w") as file:
        file["a/kernel:0"] = np.zeros((2, 2))
        file["stolen"] = h5py.ExternalLink(str(secret), "/private")
        file["soft"] = h5py.SoftLink("/a")
        file.create_dataset("outside", (8,), "u1", external=[(str(secret), 0, 8)])
    found = overview(capsys, f"checkpoint={path}")
    assert [tensor["name"] for tensor in found["tensors"]] == ["a/kernel"]


def test_what_cannot_be_read_is_one_message(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes((files / "model.weights.h5").read_bytes())
    cut(broken, 0.5)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, status, message in (
        ([f"checkpoint={broken}"], 4, "ends too early"),
        ([f"checkpoint={tmp_path / 'nothing'}"], 4, "does not exist"),
        ([f"run_dir={tmp_path}"], 4, "ends too early"),  # the weights in it
        ([f"run_dir={empty}"], 4, "holds no checkpoint"),
        ([], 2, "inspect needs either run_dir=DIR or checkpoint=PATH"),
        (["run_dir=a", "checkpoint=b"], 2, "inspect needs either"),
        (["checkpoint=a", "format=xml"], 2, "format=xml does not exist; allowed: table, json"),
        (["checkpoint=a", "fromat=json"], 2, "did you mean format?"),
    ):
        assert run(["inspect", *arguments]) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err


def test_a_real_process_writes_json_only_and_survives_a_closed_pipe(files: Path, trainer: Trainer) -> None:
    command = [sys.executable, "-m", "trainer", "inspect", f"run_dir={files / 'run'}", "format=json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "{\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(120) == 0
    for name in ("inspect", "doctor"):
        assert f"python -m trainer {name} " in trainer.run(name, "--help")
