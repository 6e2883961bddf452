"""Real processes of the command line, and the narrow network that keeps them quick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pythons

# Every block of Inception V3 is there, four filters wide; 40 images make an epoch of 5 steps.
NARROW = (
    "model.width=0.01",
    "model.min_depth=4",
    "model.batch_norm.group_size=8",
    "data.train_examples=40",
    "data.validation_examples=20",
    "train.global_batch_size=8",
    "train.log_every_steps=2",
    "evaluation.batch_size=16",
    "checkpoint.every_steps=100",  # by default, the time decides where checkpoints are
    "checkpoint.keep_last=100",
    "runtime.threads=2",
)
# So narrow a network multiplies a difference in the last bit by ten or more at every step. With activations without a
# kink and an epsilon that keeps batch norm from magnifying channels that hardly vary, it does not.
SMOOTH = (
    "data.train_examples=320",
    "train.global_batch_size=32",
    "model.activation=silu",
    "model.batch_norm.epsilon=1.0",
    "optimizer=sgd",
    "optimizer.learning_rate=0.1",
    "schedule=constant",
)
SECONDS_ALLOWED = 300
# several commands in one process, for tests that do not need one for each: TensorFlow takes seconds to import
IN_ONE_PROCESS = """
import json, sys
from trainer.__main__ import main, run
*first, last = json.loads(sys.argv[1])
for command in first:
    status = run(command)
    assert status == 0, (command, status)
main(last)
"""
DEVICE_USE = ("mfu", "device_memory", "gpu_utilization", "gpu_power")
MEASURED = ("images_per_second", "input_wait", "straggler", "straggler_ratio", *DEVICE_USE)


class Process:
    """A Python process in a directory of its own, as a rule ``python -m trainer``; ``fresh`` as in pythons.py."""

    def __init__(self, *command: str, cwd: Path, variables: Mapping[str, str], fresh: bool = False) -> None:
        self.log = cwd / f"process-{time.monotonic_ns()}.log"
        with self.log.open("wb") as output:
            self._popen = pythons.start(
                command,
                cwd=cwd,
                environment=pythons.without_tensorflow(os.environ) | variables,
                fresh=fresh,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self) -> int:
        return self._popen.wait(SECONDS_ALLOWED)

    def signal(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the process and those that it started."""
        os.killpg(self._popen.pid, number)

    @property
    def group(self) -> int:
        """The process group that the process and those that it started belong to."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def finish(self) -> None:
        if self.running:
            self.signal_group(signal.SIGKILL)
            self._popen.wait()


class Trainer:
    """Starts processes in a temporary directory and ends those a failing test leaves behind."""

    def __init__(self, cwd: Path, fresh: bool = False) -> None:
        self.cwd = cwd
        self.fresh = fresh
        self._started: list[Process] = []

    def start(self, *arguments: str, **variables: str) -> Process:
        return self._start("-m", "trainer", *arguments, **variables)

    def start_python(self, *command: str, **variables: str) -> Process:
        """Python itself, for a trainer in which something is broken on purpose."""
        return self._start(*command, **variables)

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run to the end, require the exit status, return what was printed."""
        return _finished(self.start(*arguments), arguments, status)

    def run_in_one_process(self, *commands: tuple[str, ...]) -> str:
        """Run one command after the other to its end, require status 0 of each, return what was printed."""
        return _finished(self._start("-c", IN_ONE_PROCESS, json.dumps(commands)), commands, 0)

    def _start(self, *command: str, **variables: str) -> Process:
        process = Process(*command, cwd=self.cwd, variables=variables, fresh=self.fresh)
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            process.finish()


def _finished(process: Process, what: object, status: int) -> str:
    found = process.wait()
    assert found == status, f"{what} exited with {found}, not {status}:\n{process.output}"
    assert "Traceback" not in process.output, process.output
    return process.output


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run without the values that are measurements of time, and without those that are there
    only because a run ended between two cadences.
    """
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name not in MEASURED}
        for record in records
        if not record["closing"]
    ]


def wait_for_step(process: Process, run_dir: Path, step: int) -> None:
    """Return when the run has logged ``step``, or has ended."""
    deadline = time.monotonic() + 240
    path, read = run_dir / "metrics.jsonl", 0
    while process.running and time.monotonic() < deadline:
        size = path.stat().st_size if path.exists() else 0
        if size != read:  # or reading the same again and again would take the time from the run
            read = size
            if any(json.loads(line)["step"] >= step for line in path.read_text().splitlines(True)[:-1]):
                return
        time.sleep(0.01)


def checkpoint_names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith("step-"))


def assert_same_run(left: Path, right: Path) -> None:
    """Bitwise equal final state, equal history of metrics and examples."""
    from trainer.checkpoint.differences import differing_tensors

    last = checkpoint_names(left)[-1]
    assert checkpoint_names(right)[-1] == last
    differences = differing_tensors(left / "checkpoints" / last, right / "checkpoints" / last)
    assert differences == [], "\n".join(map(str, differences[:5]))
    assert metrics(left) == metrics(right)
