"""A directory of another program is called what it is, by every command, with what can be done with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.__main__ import run
from trainer.diagnosis.prescription import next_command
from trainer.interchange.findings import Unusable
from trainer.interchange.locate import locate
from trainer.run_directory import foreign


def network() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def backup(place: Path) -> None:
    """By the callback itself, which has a file ``training_metadata.json`` beside the weights."""
    model = network()
    model.compile(loss="mse")
    callback = keras.callbacks.BackupAndRestore(str(place), delete_checkpoint=False)
    model.fit(tf.zeros([4, 2]), tf.zeros([4, 1]), callbacks=[callback], verbose=0)


def bundle(place: Path, *parts: str) -> None:
    folder = place.joinpath(*parts)
    tf.train.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), folder, 3, checkpoint_name="ckpt").save(1)


def files(*names: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"\x80\x02")

    return make


def table(file: Path) -> None:
    """By the saver of TensorFlow 1, whose first format is one file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("InceptionV3/Logits/biases", [2])
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, str(file), write_meta_graph=True, write_state="-" in file.name)


LAYOUTS: dict[str, tuple[Callable[[Path], None], str, str | None]] = {
    # how it is made, what it is called, the file that can be read
    "Keras 3": (backup, "a backup of Keras's BackupAndRestore", "latest.weights.h5"),
    "Keras 3, below": (
        lambda place: backup(place / "backup"),
        "a backup of Keras's BackupAndRestore",
        "backup/latest.weights.h5",
    ),
    "Keras 2": (lambda place: bundle(place, "chief"), "a backup of Keras's BackupAndRestore", "chief/ckpt-1"),
    "TensorFlow": (bundle, "a TensorFlow checkpoint", "ckpt-1"),
    "Orbax": (files("12/_CHECKPOINT_METADATA", "12/default/manifest.ocdbt"), "a checkpoint of Orbax", None),
    "Orbax, version 1": (files("0/orbax.checkpoint", "0/pytree/_METADATA"), "a checkpoint of Orbax", None),
    "Lightning": (
        files("lightning_logs/version_0/checkpoints/epoch=1-step=8.ckpt", "lightning_logs/version_0/config.yaml"),
        "a checkpoint of PyTorch Lightning",
        None,
    ),
    "Lightning's version": (files("checkpoints/epoch=1-step=8.ckpt"), "a checkpoint of PyTorch Lightning", None),
    "PyTorch": (files("pytorch_model.bin"), "a checkpoint of PyTorch", None),
    "SavedModel": (lambda place: tf.saved_model.save(tf.Module(), str(place)), "a SavedModel", ""),
    "Keras's export": (lambda place: network().export(place, verbose=False), "a SavedModel", ""),
    "SavedModels of a server": (lambda place: tf.saved_model.save(tf.Module(), str(place / "7")), "a SavedModel", "7"),
    "SavedModel as text": (files("saved_model.pbtxt"), "a SavedModel as text", None),
    "TensorFlow 1": (lambda place: table(place / "model.ckpt-8"), "a TensorFlow V1 checkpoint", "model.ckpt-8"),
    "TF-Slim": (lambda place: table(place / "inception_v3.ckpt"), "a TensorFlow V1 checkpoint", "inception_v3.ckpt"),
    "Keras's weights in parts": (
        files("m.weights.json", "m_00000.weights.h5", "m_00001.weights.h5"),
        "Keras's index of weights in several files",
        None,
    ),
    "TensorFlow.js": (files("model.json", "group1-shard1of1.bin"), "a model for TensorFlow.js", None),
    "ONNX": (files("network.onnx"), "a model in ONNX", None),
    "timm": (files("model_best.pth.tar"), "a checkpoint of PyTorch", None),
    "DeepSpeed": (files("global_step5/mp_rank_00_model_states.pt"), "a checkpoint of PyTorch", None),
    "Hugging Face": (files("config.json", "model.safetensors"), "a directory with weights", "model.safetensors"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_command_names_what_the_directory_is_and_what_can_be_done(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, name, readable = LAYOUTS[layout]
    place = tmp_path / "it's a=b"
    make(place)
    before = sorted(tmp_path.rglob("*"))
    line = {command: (command, f'run_dir="{place}"') for command in ("verify", "resume", "evaluate", "report")}
    line["diff"] = ("diff", f'left="{place}"', f'right="{place}"')
    for command, arguments in line.items():
        assert run(list(arguments)) == 4, command
        said = capsys.readouterr().err
        assert name in said, said
        assert "holds no checkpoint" not in said
        assert ("python -m trainer doctor" in said) == (readable is not None), said
        if readable is not None:
            (printed,) = [text for text in said.splitlines() if text.startswith("  python -m trainer")]
            assert shlex.split(printed)[4] == f'checkpoint="{place / readable}"'
        else:
            assert "safetensors" in said or ".weights.h5" in said or "saved_model.pb" in said
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written, not even a lock"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_doctor_and_inspect_read_is_the_file_in_the_directory(layout: str, tmp_path: Path) -> None:
    make, name, readable = LAYOUTS[layout]
    make(tmp_path)
    if readable is None:
        with pytest.raises(Unusable, match=name) as refused:
            locate(tmp_path)
        assert refused.value.finding.details
        findings = [refused.value.finding]
        assert next_command(tmp_path, None, [], findings, foreign=True).startswith("ls "), "it cannot be trained from"
    else:
        located = locate(tmp_path)
        inner = "variables/variables" if name == "a SavedModel" else ""
        assert located.path == tmp_path / readable / inner
        kind = name.removeprefix("a ").removeprefix("TensorFlow ")  # of TensorFlow's own, the finding says what is read
        assert layout == "TensorFlow" or any(kind.split()[0] in finding.title for finding in located.findings)


def test_the_newest_of_several_is_named_and_what_is_ours_is_not_foreign(tmp_path: Path) -> None:
    files("9/_CHECKPOINT_METADATA", "10/_CHECKPOINT_METADATA")(tmp_path)
    found = foreign.of(tmp_path)
    assert found is not None
    assert f"{tmp_path}/10/" in found.description
    files("own/manifest.json", "own/weights.safetensors", "empty/x.txt")(tmp_path)
    assert foreign.of(tmp_path / "own") is None
    assert foreign.of(tmp_path / "empty") is None
    assert foreign.of(tmp_path / "missing") is None


FILES: dict[str, tuple[Callable[[Path], None], str, str, str | None]] = {
    # how it is made, the file that is given, what it is called, what can be read
    "weights": (files("m.weights.h5"), "m.weights.h5", "a file of weights", "m.weights.h5"),
    "SavedModel": (LAYOUTS["SavedModel"][0], "saved_model.pb", "a SavedModel", ""),
    "a prefix": (bundle, "ckpt-1", "a TensorFlow checkpoint", "ckpt-1"),
    "an index": (bundle, "ckpt-1.index", "a TensorFlow checkpoint", "ckpt-1"),
    "values": (bundle, "ckpt-1.data-00000-of-00001", "a TensorFlow checkpoint", "ckpt-1"),
    "TF-Slim": (LAYOUTS["TF-Slim"][0], "inception_v3.ckpt", "a TensorFlow V1 checkpoint", "inception_v3.ckpt"),
    "a pickle": (files("last.ckpt"), "last.ckpt", "a checkpoint of PyTorch Lightning", None),
    "ONNX": (files("n.onnx"), "n.onnx", "a model in ONNX", None),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_in_place_of_a_run_is_called_what_it_is(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, file, name, readable = FILES[kind]
    make(tmp_path)
    given = f'"{tmp_path / file}"'
    lines = [(command, f"run_dir={given}") for command in ("verify", "resume", "evaluate", "report")]
    lines += [("diff", f"left={given}", f"right={given}"), ("evaluate", f"run_dir={tmp_path}", f"checkpoint={given}")]
    for arguments in lines:
        assert run(list(arguments)) == 4, arguments
        said = capsys.readouterr().err
        assert f"it is {name}" in said, said
        if readable is not None:
            (printed,) = [text for text in said.splitlines() if text.startswith("  python -m trainer doctor")]
            assert shlex.split(printed)[4] == f"checkpoint={tmp_path / readable}"


def test_other_files_in_place_of_a_run_are_no_run_and_a_file_of_a_checkpoint_names_its_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files("notes.txt", "step-00000003/manifest.json", "step-00000003/state.index")(tmp_path)
    for command in ("verify", "resume", "evaluate"):
        assert run([command, f"run_dir={tmp_path}/notes.txt"]) == 2
        assert "notes.txt is a file; name the directory of a run" in capsys.readouterr().err
    for file in ("manifest.json", "state.index"):
        assert run(["verify", f"run_dir={tmp_path}", f"checkpoint={tmp_path}/step-00000003/{file}"]) == 4
        assert f"name its directory: checkpoint={tmp_path}/step-00000003\n" in capsys.readouterr().err


def test_a_file_of_a_format_that_is_not_read_is_called_by_it(tmp_path: Path) -> None:
    for name in ("network.onnx", "graph.pb"):
        (tmp_path / name).write_bytes(b"\x08\x07\x12")
    np.savez(tmp_path / "arrays.npz", kernel=np.ones(3))
    for name, what in (
        ("network.onnx", "a model in ONNX"),
        ("graph.pb", "a frozen graph"),
        ("arrays.npz", "arrays of"),
    ):
        with pytest.raises(Unusable, match=f"{name} is {what}") as refused:
            locate(tmp_path / name)
        assert "write the weights as .safetensors" in refused.value.finding.details[0]


@pytest.mark.parametrize("version", [tf.compat.v1.train.SaverDef.V1, tf.compat.v1.train.SaverDef.V2])
def test_the_graph_beside_values_of_tensorflow_1_leads_to_them(version: int, tmp_path: Path) -> None:
    if version == tf.compat.v1.train.SaverDef.V1:
        table(tmp_path / "model.ckpt-8")
    else:
        bundle(tmp_path)
        (tmp_path / "ckpt-1.index").rename(tmp_path / "model.ckpt-8.index")
        (tmp_path / "ckpt-1.data-00000-of-00001").rename(tmp_path / "model.ckpt-8.data-00000-of-00001")
        files("model.ckpt-8.meta")(tmp_path)
    located = locate(tmp_path / "model.ckpt-8.meta")
    assert located.path == tmp_path / "model.ckpt-8"
    assert "is a graph of TensorFlow 1; its values are in" in located.findings[0].title
