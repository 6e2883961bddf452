"""``doctor`` says what is in checkpoints of other programs, what can be taken, and gives a command that does it."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import other_program_writer
import pytest
import tensorflow as tf
from torch_files import Tensor, save

from trainer.__main__ import run
from trainer.command_line import python_command
from trainer.interchange.other_programs import pickled


def said_of(path: Path, capsys: pytest.CaptureFixture[str], status: int = 3) -> str:
    assert run(["doctor", f'checkpoint="{path}"']) == status
    return capsys.readouterr().out


def state_dict(prefix: str = "") -> OrderedDict[str, Tensor]:
    shapes = {"conv1.weight": (8, 3, 3, 3), "bn1.running_mean": (8,), "fc.weight": (10, 8)}
    return OrderedDict((prefix + name, Tensor(np.ones(shape, np.float32))) for name, shape in shapes.items())


SLOTS = {"state": {0: {"exp_avg": Tensor(np.zeros(3, np.float32)), "exp_avg_sq": Tensor(np.zeros(3, np.float32))}}}
LIGHTNING = {
    "epoch": 4,
    "global_step": 1000,
    "pytorch-lightning_version": "2.5.5",
    "state_dict": state_dict("model."),
    "optimizer_states": [SLOTS],
    "lr_schedulers": [{"last_epoch": 4}],
}
TIMM = {
    "epoch": 9,
    "arch": "resnet50",
    "state_dict": state_dict(),
    "optimizer": SLOTS,
    "version": 2,
    "args": argparse.Namespace(lr=0.1),
    "state_dict_ema": state_dict(),
    "metric": 71.5,
}


def command_in(said: str) -> list[str]:
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith("python -c")]
    return shlex.split(line)


def test_a_checkpoint_of_lightning_is_described_without_loading_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "it's=8.ckpt", LIGHTNING)
    said = said_of(path, capsys)
    assert "a checkpoint of PyTorch Lightning 2.5.5; it was read without loading it" in said
    assert "weights in state_dict: 3 tensors, 304 values (model.conv1.weight, model.bn1.running_mean" in said
    assert "it also says epoch=4, global_step=1000" in said
    assert "not taken: optimizer_states (2 tensors)" in said
    assert "not taken: lr_schedulers" in said
    code = command_in(said)[2]
    assert "weights_only=True" in code
    compile(code, "command", "exec")
    assert f'checkpoint="{path}.safetensors"\'' in said.replace("'\"'\"'", "'")


def test_a_checkpoint_of_timm_is_described_and_its_arguments_are_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(save(tmp_path / "last.pth.tar", TIMM), capsys)
    assert "a checkpoint of timm's training script, of its network resnet50" in said
    assert "weights in state_dict: 3 tensors" in said
    assert "not taken: state_dict_ema (3 tensors)" in said
    assert "not taken: optimizer (2 tensors)" in said
    assert "add_safe_globals([argparse.Namespace])" in command_in(said)[2]
    directory = said_of(tmp_path, capsys)
    assert "of its network resnet50" in directory
    assert f"is a checkpoint of PyTorch ({tmp_path / 'last.pth.tar'})" in directory


def test_a_pickle_that_names_other_code_is_loaded_only_where_its_author_is_trusted(tmp_path: Path) -> None:
    lines = "\n".join(pickled(save(tmp_path / "a.ckpt", {**LIGHTNING, "path": Path("x")})))
    assert "weights_only=False" in lines
    assert "do it only where you trust it" in lines
    assert "do it only where you trust it" not in "\n".join(pickled(save(tmp_path / "b.ckpt", LIGHTNING)))


def test_a_pickle_without_weights_or_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"epoch": 1}))
    assert pickled(tmp_path / "x.pkl") == ("it has no tensors by name, so there are no weights in it to take",)
    (tmp_path / "y.ckpt").write_bytes(b"\x80\x02")
    assert pickled(tmp_path / "y.ckpt")[0].startswith("what is in it cannot be told")
    os.mkfifo(tmp_path / "f.ckpt")
    assert "is a FIFO" in pickled(tmp_path / "f.ckpt")[0]
    (tmp_path / "link.ckpt").symlink_to(save(tmp_path / "epoch=1.ckpt", LIGHTNING))
    assert "Lightning 2.5.5" in pickled(tmp_path / "link.ckpt")[0]
    bomb: Any = [Tensor(np.ones(1, np.float32))]
    for _ in range(60):  # 2**60 ways to the same tensor
        bomb = [bomb, bomb]
    said = pickled(save(tmp_path / "z.ckpt", {"state_dict": state_dict(), "bomb": bomb}))
    assert "not taken: bomb (1 tensors)" in said


def test_orbax_says_what_it_holds_by_its_own_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = tmp_path / "12" / "default"
    item.mkdir(parents=True)
    (tmp_path / "12" / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": null}')
    paths = [("params", "conv", "kernel"), ("params", "conv", "bias"), ("opt_state", "0", "mu")]
    tree = {str(path): {"key_metadata": [{"key": key, "key_type": 2} for key in path]} for path in paths}
    (item / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    said = said_of(tmp_path, capsys)
    assert "is a checkpoint of Orbax" in said
    assert "it was not finished: Orbax has not committed it" in said
    assert "default has 3 values, in opt_state, params: params.conv.kernel, params.conv.bias" in said
    compile(command_in(said)[2], "command", "exec")
    (item / "_METADATA").write_text("[]")
    assert "what is in it cannot be told" in said_of(tmp_path, capsys)


def test_a_backup_of_keras_says_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    callback = keras.callbacks.BackupAndRestore(str(tmp_path), delete_checkpoint=False)
    model.fit(tf.zeros([4, 2]), tf.zeros([4, 1]), epochs=2, callbacks=[callback], verbose=0)
    said = said_of(tmp_path, capsys)
    assert re.search(r"it stopped in epoch \d, batch \d; this position and the optimizer's state stay behind", said)


def test_a_command_for_python_is_one_argument_for_the_shell() -> None:
    assert shlex.split(python_command('print("it\'s")')) == ["python", "-c", 'print("it\'s")']


@pytest.mark.long
@pytest.mark.skipif("TORCH" not in os.environ, reason="TORCH names no Python that has torch, timm and lightning")
@pytest.mark.parametrize("program", other_program_writer.PROGRAMS)
def test_the_command_for_a_real_checkpoint_makes_weights_that_start_a_run(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(
        [os.environ["TORCH"], other_program_writer.__file__, program, str(tmp_path)], check=True, capture_output=True
    )
    (path,) = [path for path in tmp_path.iterdir() if path.name.startswith("last")]
    truth = json.loads((tmp_path / "truth.json").read_text())
    said = said_of(path, capsys)
    print(said)
    assert f"{truth['said']}" in said
    assert f"weights in state_dict: {len(truth['shapes'])} tensors" in said
    _, *arguments = command_in(said)
    subprocess.run([os.environ["TORCH"], *arguments], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        overrides = ["model=keras_application", "model.name=ResNet50", "model.conventions=torch", "train.steps=0"]
        overrides += ["preprocess.image_size=64", "data.train_examples=40", "data.validation_examples=20"]
        overrides += ["allow=[preprocess]", f"init_from={path.name}.safetensors", "run_dir=run"]
        command = ["-m", "trainer", "train", *overrides]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "variables loaded" in done.stdout


@pytest.mark.long
@pytest.mark.skipif("ORBAX" not in os.environ, reason="ORBAX names no Python that has orbax-checkpoint and safetensors")
def test_the_command_for_a_checkpoint_of_orbax_makes_a_file_of_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys, numpy as np, orbax.checkpoint as o; "
        "t = {'params': {'conv': {'kernel': np.ones((3, 2), np.float32)}}, 'opt_state': [np.zeros(2, np.float32)]}; "
        "m = o.CheckpointManager(sys.argv[1]); m.save(12, args=o.args.StandardSave(t)); m.wait_until_finished()"
    )
    subprocess.run([os.environ["ORBAX"], "-c", code, str(tmp_path / "run")], check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    said = said_of(tmp_path / "run", capsys)
    assert "default has 2 values, in opt_state, params: " in said
    subprocess.run([os.environ["ORBAX"], *command_in(said)[1:]], check=True, capture_output=True)
    assert run(["inspect", f"checkpoint={tmp_path}/orbax-default.safetensors"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"params/\n  conv/kernel +f32 +\[3, 2\]", said)
    assert re.search(r"opt_state/0 +f32 +\[2\]", said)
