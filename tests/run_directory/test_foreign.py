"""A directory of another program is called what it is, by every command, with what can be done with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import keras
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
            assert "safetensors" in said
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
        assert located.path == tmp_path / readable
        assert layout == "TensorFlow" or name in located.findings[0].title


def test_the_newest_of_several_is_named_and_what_is_ours_is_not_foreign(tmp_path: Path) -> None:
    files("9/_CHECKPOINT_METADATA", "10/_CHECKPOINT_METADATA")(tmp_path)
    found = foreign.of(tmp_path)
    assert found is not None
    assert f"{tmp_path}/10/" in found.description
    files("own/manifest.json", "own/weights.safetensors", "empty/x.txt")(tmp_path)
    assert foreign.of(tmp_path / "own") is None
    assert foreign.of(tmp_path / "empty") is None
    assert foreign.of(tmp_path / "missing") is None
