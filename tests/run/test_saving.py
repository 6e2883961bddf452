"""Saving: the files are TensorFlow's, the background changes nothing, and the disk may refuse any call."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from diagnosing import composed, narrow_state
from processes import NARROW, Trainer, checkpoint_names

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.tensors import StateFile
from trainer.checkpoint.verification import verify
from trainer.errors import NotSaved, NoValidCheckpoint, TrainingFailed
from trainer.monitoring.terminal import Terminal
from trainer.run.checkpointer import Checkpointer, Contents, Store, newest_good
from trainer.run_directory.history import History
from trainer.run_directory.metrics import Record, read_metrics
from trainer.run_directory.which_checkpoint import named
from trainer.storage import durable
from trainer.training.state import Progress, Tree, flatten

DATA, INDEX = "state.data-00000-of-00001", "state.index"


def test_files_are_byte_for_byte_those_of_tf_train_checkpoint_and_it_restores_them(tmp_path: Path) -> None:
    tree = narrow_state().tree()
    flat = flatten(tree)
    for number, variable in enumerate(flat.values()):
        variable.assign(tf.cast(tf.fill(variable.shape, number), variable.dtype))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    file = StateFile(tree, flat)
    file.write(file.snapshot(), ours)
    tf.train.Checkpoint(**tree).write(str(theirs / "state"))
    for name in (DATA, INDEX):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    expected = {name: variable.numpy().tobytes() for name, variable in flat.items()}
    for variable in flat.values():
        variable.assign(tf.zeros_like(variable))
    status = tf.train.Checkpoint(**tree).read(str(ours / "state"))
    status.assert_consumed()
    status.assert_existing_objects_matched()
    assert {name: variable.numpy().tobytes() for name, variable in flat.items()} == expected


class Training:
    """A checkpointer around a small state that a compiled step moves in place, as an optimizer does."""

    def __init__(self, run_dir: Path, *overrides: str) -> None:
        run_dir.mkdir()
        config = composed("checkpoint.keep_last=1000", *overrides)
        self.checkpoints = run_dir / "checkpoints"
        self.progress = Progress(loss_scale=1.0)
        self.weights = {f"layer_{number}": tf.Variable(tf.fill([64, 64], float(number))) for number in range(20)}
        velocity = {name: tf.Variable(tf.zeros_like(weight)) for name, weight in self.weights.items()}
        tree: Tree = {"model": self.weights, "optimizer": {"momentum": velocity}, "progress": self.progress.tree()}
        self.history = History(run_dir, 0)
        self.terminal = Terminal(run_dir / "train.log", 0, 100)
        state_file = StateFile(tree, flatten(tree))
        retention = Retention(config.checkpoint.keep_last, 0, None, "accuracy")
        self.checkpointer = Checkpointer(
            Contents(config, (), ("a", "b"), 100, {}, (), self.progress, state_file),
            Store(self.checkpoints, retention, mirror=None, last_good=None),
            self.history,
            self.terminal,
            lambda: None,
        )

        @tf.function(autograph=False)
        def step() -> None:
            for name, weight in self.weights.items():
                tf.raw_ops.ResourceApplyMomentum(
                    var=weight.handle, accum=velocity[name].handle, lr=0.01, grad=weight * 0.5 + 1.0, momentum=0.9
                )
            self.progress.step.assign_add(1)
            self.progress.examples.assign_add(8)

        self._step = step

    def step(self) -> None:
        self._step()
        number = int(self.progress.step.numpy())
        self.history.add(Record(number, "train", {"loss": 1.0 / number}, {"closing": False}))

    def close(self) -> None:
        self.checkpointer.close()
        self.history.close()
        self.terminal.close()

    @property
    def committed(self) -> list[str]:
        return [path.name for path in directory.committed(self.checkpoints)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Training]]:
    started = []

    def begin(name: str, *overrides: str) -> Training:
        started.append(Training(tmp_path / name, *overrides))
        return started[-1]

    yield begin
    for training in started:
        training.close()


def test_100_consecutive_asynchronous_saves_while_training_are_those_of_synchronous_ones(
    start: Callable[..., Training],
) -> None:
    behind, at_once = start("behind"), start("at_once", "checkpoint.async_save=false")
    for training in (behind, at_once):
        for _ in range(100):
            training.step()
            training.checkpointer.save()
            training.checkpointer.check()
            training.step()  # while the other thread writes
        training.checkpointer.finish()
    assert behind.committed == at_once.committed == [directory.name_of(step) for step in range(1, 200, 2)]
    for name in behind.committed:
        left, right = behind.checkpoints / name, at_once.checkpoints / name
        for file in (DATA, INDEX):
            assert (left / file).read_bytes() == (right / file).read_bytes(), (name, file)
        facts = [manifests.read(place / manifests.FILE_NAME) for place in (left, right)]
        assert facts[0].step == facts[1].step == directory.step_of(left)
        assert facts[0].examples == facts[1].examples == 8 * directory.step_of(left)


def test_a_save_in_flight_is_committed_before_anyone_says_so(
    start: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    training, gate = start("run"), threading.Event()
    monkeypatch.setattr(directory, "sync", lambda path: gate.wait(120) and durable.sync(path))
    training.step()
    training.checkpointer.save()
    training.step()
    training.checkpointer.check()
    assert training.committed == []
    gate.set()
    training.checkpointer.finish()
    assert training.committed == ["step-00000001"]
    assert verify(training.checkpoints / "step-00000001", "full").step == 1


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, part: str) -> None:
    """Let the disk refuse to sync what has ``part`` in its path."""

    def failing(path: Path) -> None:
        if part in str(path):
            raise OSError(number, os.strerror(number), str(path))
        durable.sync(path)

    monkeypatch.setattr(directory, "sync", failing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("overrides", [(), ("checkpoint.async_save=false",)])
def test_a_disk_that_refuses_is_survived_twice_and_stops_the_run_at_the_third_time(
    number: int, overrides: tuple[str, ...], start: Callable[..., Training], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    training = start("run", *overrides)
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    refuse(monkeypatch, number, DATA)
    for attempt in (2, 3):
        training.step()
        save_and_look(training)
        output = capsys.readouterr().out.replace("\n", " ")
        assert f"warning: step-0000000{attempt} was not saved: " in output
        assert f"{DATA}: {os.strerror(number)} ({errno.errorcode[number]})" in output
        assert "the last good checkpoint is" in output
    training.step()
    with pytest.raises(NotSaved, match=r"step-00000004 was not saved.*3 saves failed in a row") as stopped:
        save_and_look(training)
    assert stopped.value.exit_status == 1
    assert [path.name for path in training.checkpoints.iterdir()] == ["step-00000001"]
    verify(training.checkpoints / "step-00000001", "full")


def save_and_look(training: Training) -> None:
    """Save, let the background end, and look at the result as the loop does before its next step."""
    training.checkpointer.save()
    training.checkpointer._background.submit(lambda: None).result(20)
    training.checkpointer.check()


def save_and_finish(training: Training) -> None:
    training.checkpointer.save()
    training.checkpointer.finish()


def test_a_save_that_succeeds_makes_the_failures_before_it_forgotten(
    start: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = start("run")
    for number in range(9):
        training.step()
        refuse(monkeypatch, errno.EIO, DATA if number % 3 else "nothing")
        save_and_look(training)
    assert training.committed == [directory.name_of(step) for step in (1, 4, 7)]


def test_a_checkpoint_whose_validation_is_not_finite_is_not_called_good(start: Callable[..., Training]) -> None:
    training = start("run")
    assert training.checkpointer.last_good() == "the last good checkpoint is none"
    for loss in (0.5, None, math.nan, math.inf):
        training.step()
        number = int(training.progress.step.numpy())
        if loss is not None:
            values = {"loss": loss, "accuracy": 0.1, "skipped": 0}
            training.history.add(Record(number, "val", values, {"closing": False}))
        save_and_finish(training)
    last, good = training.checkpoints / "step-00000004", training.checkpoints / "step-00000002"
    assert training.checkpointer.last_good() == (
        f"the last checkpoint is {last}, whose validation is not finite; the last good one is {good}"
    )
    shutil.rmtree(good)
    shutil.rmtree(training.checkpoints / "step-00000001")
    assert training.checkpointer.last_good().endswith("; the last good one is none")
    with pytest.raises(NoValidCheckpoint, match="has a validation with a finite loss, so none is the best"):
        named(training.checkpoints.parent, "best", "full", print)
    assert training.checkpointer.way_on().startswith(f"the last checkpoint is {last}, whose validation is not finite")
    training.step()
    save_and_finish(training)
    assert training.checkpointer.last_good() == f"the last good checkpoint is {training.checkpoints}/step-00000005"
    outside = Path("/elsewhere/mine")
    assert newest_good(outside, {}) == f"the last good checkpoint is {outside}"


def test_with_on_error_stop_the_first_failure_ends_the_run(
    start: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = start("run", "checkpoint.on_error=stop")
    refuse(monkeypatch, errno.EIO, INDEX)
    training.step()
    with pytest.raises(NotSaved, match="the last good checkpoint is none"):
        save_and_look(training)


def test_the_last_save_of_a_run_must_succeed(start: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    training = start("run")
    refuse(monkeypatch, errno.ENOSPC, "checkpoints")
    training.step()
    training.checkpointer.save()
    with pytest.raises(NotSaved, match="No space left on device"):
        training.checkpointer.finish()


def test_errors_of_the_writer_are_errors_of_the_operating_system_with_a_name(tmp_path: Path) -> None:
    tree: Tree = {"a": tf.Variable(1.0)}
    file = StateFile(tree, flatten(tree))
    with pytest.raises(FileNotFoundError) as gone:
        file.write(file.snapshot(), Path("/proc/nowhere"))
    assert gone.value.filename == "/proc/nowhere/state"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        file.write(file.snapshot(), tmp_path / "file")


def test_a_run_directory_that_is_deleted_is_not_made_again(start: Callable[..., Training], tmp_path: Path) -> None:
    import shutil

    training = start("run", "checkpoint.on_error=stop")
    training.step()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(NotSaved, match=r"metrics.jsonl: No such file or directory \(ENOENT\)"):
        save_and_finish(training)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("overrides", [(), ("checkpoint.async_save=false",)])
def test_a_variable_that_is_not_finite_is_never_committed(
    overrides: tuple[str, ...], start: Callable[..., Training]
) -> None:
    training = start("run", *overrides)
    training.step()
    training.weights["layer_3"].assign(tf.fill([64, 64], float("nan")))
    with pytest.raises(TrainingFailed, match=r"model/layer_3 .* not finite at step 1"):
        save_and_finish(training)
    assert training.committed == []


class SmallDisk:
    """An open file on a disk with room for so many bytes, which takes the part of a line that fits."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self.room = room

    def write(self, content: bytes) -> int:
        fitting = content[: self.room]
        self.room -= len(fitting)
        if not fitting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(fitting))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_loses_no_line_of_the_history_and_no_checkpoint_refers_to_a_missing_one(
    start: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    training = start("run")
    disk = SmallDisk(training.history._metrics, 150)
    monkeypatch.setattr(training.history, "_metrics", disk)
    path = tmp_path / "run" / "metrics.jsonl"
    for _ in range(4):
        training.step()
        training.checkpointer.check()
    assert 1 <= len(list(read_metrics(path))) < 4
    assert capsys.readouterr().out.count("metrics.jsonl: No space left on device (ENOSPC)") == 1
    save_and_look(training)
    assert training.committed == []
    disk.room = 10_000
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4, 5]
    assert path.read_bytes().count(b"\n") == 5
    assert training.committed == ["step-00000005"]


@pytest.mark.long
def test_100_saves_in_the_background_of_a_real_run_are_those_of_one_that_waits(trainer: Trainer) -> None:
    arguments = (*NARROW, "checkpoint.every_steps=1", "train.steps=100")
    for name, more in (("behind", ()), ("at_once", ("checkpoint.async_save=false",))):
        trainer.run("train", f"run_dir={name}", *arguments, *more)
    behind, at_once = trainer.cwd / "behind", trainer.cwd / "at_once"
    assert checkpoint_names(behind) == checkpoint_names(at_once) == [directory.name_of(step) for step in range(1, 101)]
    for name in checkpoint_names(behind):
        for file in (DATA, INDEX):
            left, right = (run_dir / "checkpoints" / name / file for run_dir in (behind, at_once))
            assert left.read_bytes() == right.read_bytes(), (name, file)
