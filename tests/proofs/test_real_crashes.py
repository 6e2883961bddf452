"""The same proofs end to end, with few cases: real trainers killed inside a save, on a full disk, on damaged files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interposed import environment, read_trace
from processes import NARROW, Trainer, assert_same_run, checkpoint_names

from trainer.checkpoint.differences import differing_tensors
from trainer.errors import NotSaved

pytestmark = pytest.mark.torture

STEPS = 8
KILLS = 4
ARGUMENTS = (*NARROW, "schedule.decay_steps=8", "schedule.warmup_steps=2", "evaluation.every_steps=4")
ARGUMENTS += ("checkpoint.every_steps=1", f"train.steps={STEPS}")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    place = tmp_path_factory.mktemp("reference")
    Trainer(place).run("train", f"run_dir={place / 'run'}", *ARGUMENTS)
    return place / "run"


@contextmanager
def interposed(root: Path, trace: Path | None, kill: str | None) -> Iterator[None]:
    """Processes that are started in the block run under ``interpose.c``."""
    added = {name: value for name, value in environment(root, trace, kill).items() if name not in os.environ}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in added.items():
            patch.setenv(name, value)
        yield


def mode(asynchronous: bool) -> str:
    return f"checkpoint.async_save={str(asynchronous).lower()}"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_trainer_killed_at_random_calls_of_its_saves_ends_as_if_nothing_had_happened(
    asynchronous: bool, reference: Path, trainer: Trainer, tmp_path: Path
) -> None:
    counted = tmp_path / "counted"
    with interposed(counted / "checkpoints", tmp_path / "trace", None):
        trainer.run("train", f"run_dir={counted}", *ARGUMENTS, mode(asynchronous))
    calls = len(read_trace(tmp_path / "trace", counted / "checkpoints"))
    draw = random.Random(int(asynchronous))
    for kill in range(KILLS):
        when = f"{draw.choice(['before', 'after'])} {draw.randrange(2, calls)}"
        run_dir = tmp_path / f"killed-{kill}"
        with interposed(run_dir / "checkpoints", None, when):
            process = trainer.start("train", f"run_dir={run_dir}", *ARGUMENTS, mode(asynchronous))
            assert process.wait() == -signal.SIGKILL, process.output
        committed = checkpoint_names(run_dir)
        output = trainer.run("train", f"run_dir={run_dir}", *ARGUMENTS, mode(asynchronous), "on_existing=resume")
        if committed:
            assert f"from {run_dir / 'checkpoints' / committed[-1]}" in output, when
            assert "warning" not in output, when
        assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")] == []
        assert_same_run(reference, run_dir)


def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(
    reference: Path, trainer: Trainer, tmp_path: Path
) -> None:
    """The disk is a real filesystem of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a filesystem")
    try:
        run_dir = disk / "run"
        output = trainer.run("train", f"run_dir={run_dir}", *ARGUMENTS, status=NotSaved.exit_status)
        assert "No space left on device" in output
        committed = checkpoint_names(run_dir)
        assert 0 < len(committed) < STEPS
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        output = trainer.run("resume", f"run_dir={run_dir}")
        assert f"from {run_dir / 'checkpoints' / committed[-1]}" in output
        assert_same_run(reference, run_dir)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


DAMAGED = {
    "checkpoints/step-00000006/state.data-00000-of-00001": "skipping step-00000006",
    "checkpoints/step-00000006/manifest.json": "skipping step-00000006",
    "checkpoints/step-00000006/config.yaml": "skipping step-00000006",
    "metrics.jsonl": "metrics.jsonl is damaged",
    "config.yaml": "",  # written again from the checkpoint
}


def test_a_resume_from_damaged_files_falls_back_and_ends_as_if_nothing_had_happened(
    reference: Path, trainer: Trainer, tmp_path: Path
) -> None:
    for number, (name, message) in enumerate(DAMAGED.items()):
        run_dir = tmp_path / f"damaged-{number}"
        trainer.run("train", f"run_dir={run_dir}", *ARGUMENTS, "train.steps=6")
        path = run_dir / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
        output = trainer.run("resume", f"run_dir={run_dir}", f"train.steps={STEPS}")
        assert message in output
        last = checkpoint_names(reference)[-1]
        assert differing_tensors(reference / "checkpoints" / last, run_dir / "checkpoints" / last) == []
