"""Data that do not come, as from a filesystem that stalls: real files whose reads block, because they are pipes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_data import make_splits
from processes import Process, Trainer, assert_same_run, checkpoint_names, wait_for_step
from stalled_reads import STALLING_DIGITS
from worker_processes import cluster_of_two, finish

fuse_folder = str(Path(__file__).parents[1] / "support" / "fuse_folder.py")
# trains, and replaces the images of a folder by pipes that nobody writes to, when a step was made
PROGRAM = """
import os, sys
from pathlib import Path
from trainer.__main__ import main
from trainer.data import supply
from trainer.monitoring import terminal

folder, at, *arguments = sys.argv[1:]
shown = terminal.Terminal.step
supply.STALLED_SECONDS = 1.0
def step(self, number):
    shown(self, number)
    if number == int(at):
        images = sorted(Path("images", folder).rglob("*.jpg"))
        Path("images", folder).rename(Path("images", folder + ".away"))
        for image in images:
            image.parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(image)
terminal.Terminal.step = step
main(arguments)
"""


def wait_for(process: Process, pattern: str) -> None:
    """Until the process has printed what matches."""
    deadline = time.monotonic() + 200
    while not re.search(pattern, process.output) and process.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert re.search(pattern, process.output), process.output


@pytest.mark.parametrize("folder", ["train", "val"])
def test_a_stop_does_not_wait_for_data_and_the_read_that_stalls_is_named(
    folder: str, small: tuple[str, ...], trainer: Trainer
) -> None:
    images = trainer.cwd / "images"
    make_splits(images, train=40, validation=16)
    arguments = (
        *(each for each in small if not each.startswith(("data.", "checkpoint.", "evaluation."))),
        *("data=image_folder", "data.root=images", "train.steps=12", "evaluation.batch_size=2"),
        *("evaluation.every_steps=4", "checkpoint.every_steps=100", "train.log_every_steps=1"),
    )
    trainer.run("train", "run_dir=straight", *arguments)
    process = trainer.start_python("-c", PROGRAM, folder, "2", "train", "run_dir=stalled", *arguments)
    wait_for(process, rf"warning: no batch for \d+ s: reading \S*/images/{folder}/\S+\.jpg \(record \d+\) has taken")
    process.signal(signal.SIGTERM)
    assert process.wait() == 75, process.output
    assert "Traceback" not in process.output
    name = checkpoint_names(trainer.cwd / "stalled")[-1]  # the best validation may have made one, too
    step = int(name.removeprefix("step-"))
    assert f"SIGTERM at step {step}; checkpoint {name} is committed" in process.output
    assert (step == 4) if folder == "val" else (2 <= step < 12), process.output
    shutil.rmtree(images / folder)
    Path(images, f"{folder}.away").rename(images / folder)
    trainer.run("resume", "run_dir=stalled")
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "stalled")


@contextlib.contextmanager
def through_fuse(folder: Path, place: Path, flag: Path) -> Iterator[None]:
    """``folder`` is seen at ``place`` while the block runs; reads there do not end while there is a file ``flag``."""
    place.mkdir()
    command = [os.environ["FUSE"], fuse_folder, str(folder), str(place), str(flag)]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 20
            while not place.is_mount() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert place.is_mount()
            yield
        finally:
            process.terminate()
    place.rmdir()


@pytest.mark.long
@pytest.mark.skipif("FUSE" not in os.environ, reason="FUSE names no Python that has fusepy")
@pytest.mark.parametrize("stopped", [False, True], ids=["hang", "stop"])
def test_a_read_that_blocks_on_fuse_ends_the_process_at_a_commit(
    stopped: bool, small: tuple[str, ...], trainer: Trainer
) -> None:
    """A thread in such a read cannot be interrupted, and the process ends all the same."""
    folder, flag = trainer.cwd / "train.kept", trainer.cwd / "stalls"
    images = trainer.cwd / "images"
    make_splits(images, train=40, validation=16)
    (images / "train").rename(folder)
    arguments = (
        *(each for each in small if not each.startswith(("data.", "checkpoint.", "evaluation."))),
        *("data=image_folder", "data.root=images", "train.steps=100", "evaluation.batch_size=2"),
        *("evaluation.every_steps=100", "checkpoint.every_steps=100", "train.log_every_steps=1"),
    )
    with through_fuse(folder, images / "train", flag):
        trainer.run("train", "run_dir=straight", *arguments)
        limit = "null" if stopped else 20
        process = trainer.start("train", "run_dir=stalled", *arguments, f"runtime.watchdog.waiting={limit}")
        wait_for_step(process, trainer.cwd / "stalled", 2)
        flag.touch()
        if stopped:
            wait_for(process, r"warning: no batch for \d+ s: reading \S*/images/train/\S+")
            process.signal(signal.SIGTERM)
        assert process.wait() == 75, process.output
        assert re.search(r"reading \S*/images/train/\S+ \(record \d+\) has taken \d+ s", process.output), process.output
        assert "is committed" in process.output
        flag.unlink()
        trainer.run("resume", "run_dir=stalled")
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "stalled")


# Trains; from its eighth batch on, a read waits for a writer of a pipe.
STALLING = f"""
import os, sys
from trainer.__main__ import main
from trainer.data import supply

supply.STALLED_SECONDS = 1.0
{STALLING_DIGITS}
main(sys.argv[1:])
"""


@pytest.mark.parametrize("asked", [(0, 1), (0,)])
def test_processes_of_which_one_waits_for_data_stop_at_one_step_that_is_committed(
    asked: tuple[int, ...], small: tuple[str, ...], trainer: Trainer
) -> None:
    """Where the chief alone is asked, it is in a step with the other, which learns of it all the same."""
    command = (
        "train",
        *small,
        "train.steps=40",
        "run_dir=run",
        "checkpoint.every_steps=100",
        "train.log_every_steps=1",
    )
    first, second = cluster_of_two()
    chief = trainer.start(*command, TF_CONFIG=first)
    other = trainer.start_python("-c", STALLING, *command, TF_CONFIG=second)
    wait_for(other, "warning: no batch for .* s: reading a batch of 4 records from ")
    for rank in asked:
        (chief, other)[rank].signal(signal.SIGTERM)
    outputs = finish([chief, other], 75)
    name = checkpoint_names(trainer.cwd / "run")[-1]
    for output in outputs:
        assert f"checkpoint {name} is committed\n" in output
    assert 1 <= int(name.removeprefix("step-")) < 12
