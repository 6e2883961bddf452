"""Where ``flock`` does not reach there is still one writer: processes that believe to be on different hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from elsewhere import build_elsewhere
from processes import Trainer, checkpoint_names
from small_plugin import paced

from trainer.checkpoint.verification import verify
from trainer.storage import lease

PROGRAM = Path(__file__).parents[1] / "support" / "writing.py"
TAKEN_AFTER = "1.5"  # seconds, for quick tests
SECONDS_ALLOWED = 120


class Host:
    """A process of ``writing.py`` on a host of its own."""

    def __init__(self, name: str, run_dir: Path, library: Path, taken_after: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(run_dir), taken_after],
            env={**os.environ, "LD_PRELOAD": str(library), "ELSEWHERE": name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.heard = ""

    def hear(self, text: str) -> None:
        """Wait until it says ``text``."""
        assert self._process.stdout is not None
        while text not in self.heard:
            line = self._process.stdout.readline()
            assert line, f"ended without {text!r}: {self.heard}"
            self.heard += line

    def tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(SECONDS_ALLOWED)

    def end(self) -> int:
        """No more input; its exit status."""
        said, _ = self._process.communicate(timeout=SECONDS_ALLOWED)
        self.heard += said
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_elsewhere(tmp_path_factory.mktemp("elsewhere"))


StartHost = Callable[..., Host]


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[StartHost]:
    hosts: list[Host] = []

    def on(name: str, taken_after: str = TAKEN_AFTER) -> Host:
        hosts.append(Host(name, tmp_path / "run", library, taken_after))
        return hosts[-1]

    yield on
    for host in hosts:
        host.close()


def test_a_living_holder_on_another_host_is_left_alone(start: StartHost, tmp_path: Path) -> None:
    first = start("a")
    first.hear("holding")
    second = start("b")
    assert second.end() == 5
    assert "was last written by process" in second.heard
    assert "is in use by process" in second.heard
    assert " on a, running since" in second.heard
    assert "holding" not in second.heard
    first.tell("commit 1")
    first.hear("committed 1")
    assert first.end() == 0


def test_after_a_crash_on_the_same_host_nobody_waits(start: StartHost) -> None:
    first = start("a")
    first.hear("holding")
    first.signal(signal.SIGKILL)
    second = start("a")
    second.hear("holding")
    assert "waiting" not in second.heard


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "unknown-host"),
        ("my box", r"my\x20box"),
        ("a\tb\nc", r"a\x09b\x0ac"),
        (os.fsdecode(b"b\xfccher"), r"b\xfccher"),
        ("bücher", "bücher"),
        ("x" * 64, "x" * 64),
    ],
)
def test_a_host_of_any_name_holds_its_lease_and_is_told_from_others(
    name: str, shown: str, start: StartHost, tmp_path: Path
) -> None:
    first = start(name)
    first.hear("holding")
    text = (tmp_path / "run" / ".lock").read_text()
    writer = lease.parse(text)
    assert writer is not None
    assert writer.host == shown
    first.tell("commit 1")
    first.hear("committed 1")
    first.signal(signal.SIGKILL)
    again = start(name)  # on this host nobody waits, whatever it is called
    again.hear("holding")
    assert "waiting" not in again.heard
    again.tell("commit 2")
    again.hear("committed 2")
    assert again.end() == 0


@pytest.mark.parametrize("host", ["node-17.cluster", "my box", ""])
def test_lock_files_of_earlier_versions_are_understood(host: str) -> None:
    text = f"process 7\nhost {host}\nboot 1-2\nstarted 2026-01-01T00:00:00+00:00\ntoken 0af\nrenewals 00000003\n"
    assert lease.parse(text) == lease.Writer(7, host, "1-2", "2026-01-01T00:00:00+00:00", "0af")
    assert lease.parse(text.replace("token", "mark")) is None


def test_after_an_end_on_another_host_nobody_waits(start: StartHost) -> None:
    first = start("a")
    first.hear("holding")
    assert first.end() == 0
    second = start("b")
    second.hear("holding")
    assert "waiting" not in second.heard


def test_after_a_crash_on_another_host_the_lease_runs_out(start: StartHost) -> None:
    first = start("a")
    first.hear("holding")
    first.signal(signal.SIGKILL)
    second = start("b")
    second.hear("holding")
    assert "waiting" in second.heard
    second.tell("commit 1")
    second.hear("committed 1")


def test_of_two_that_waited_for_the_same_lease_one_gets_it(start: StartHost) -> None:
    first = start("a")
    first.hear("holding")
    first.signal(signal.SIGKILL)
    both = [start("b"), start("c")]
    for host in both:
        host.tell("commit 1")
    assert sorted(host.end() for host in both) == [0, 5]
    assert sum("holding" in host.heard for host in both) == 1


def test_a_holder_that_was_taken_over_does_not_commit(start: StartHost, tmp_path: Path) -> None:
    first = start("a")
    first.hear("holding")
    first.tell("commit 1")
    first.hear("committed 1")
    first.signal(signal.SIGSTOP)
    second = start("b")
    second.hear("holding")
    first.signal(signal.SIGCONT)
    first.tell("commit 2")
    assert first.end() == 5
    assert "was taken over by process" in first.heard
    assert " on b, running since" in first.heard
    second.tell("commit 3")
    second.hear("committed 3")
    assert checkpoint_names(tmp_path / "run") == ["step-00000001", "step-00000003"]
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]
    assert second.end() == 0


def test_a_commit_that_was_overtaken_in_the_middle_leaves_the_other_alone(start: StartHost, tmp_path: Path) -> None:
    first = start("a")
    first.hear("holding")
    first.tell("begin 1")
    first.hear("begun")
    first.signal(signal.SIGSTOP)
    second = start("b")
    second.hear("holding")
    second.tell("begin 1")  # the same step
    second.hear("begun")
    first.signal(signal.SIGCONT)
    first.tell("go on")
    assert first.end() == 5
    second.tell("go on")
    second.hear("committed 1")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000001"
    verify(checkpoint, "full")
    assert (checkpoint / "host").read_text() == "b"


def test_a_training_that_was_taken_over_exits_5_and_changes_nothing(
    start: StartHost, library: Path, small: tuple[str, ...], trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = trainer.cwd / "run"
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("ELSEWHERE", "a")
    overrides = ("train.steps=100000", "train.log_every_steps=1", "checkpoint.every_steps=2", *paced(0.05))
    training = trainer.start("train", f"run_dir={run_dir}", *small, *overrides)
    monkeypatch.undo()
    deadline = time.monotonic() + SECONDS_ALLOWED
    while not any((run_dir / "checkpoints").glob("step-*")):  # the first one goes after three more
        assert training.running, training.output
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training.signal(signal.SIGSTOP)
    # longer than the time for which a look at the lock file counts, as it is with the program's own times
    other = start("b", taken_after=str(lease.RENEWED_EVERY + 1))
    other.hear("holding")
    assert f"process {training._popen.pid} on a" in other.heard
    before = [(run_dir / "metrics.jsonl").read_bytes(), checkpoint_names(run_dir)]
    training.signal(signal.SIGCONT)
    assert training.wait() == 5, training.output
    assert "was taken over by process" in training.output
    assert "Traceback" not in training.output
    assert [(run_dir / "metrics.jsonl").read_bytes(), checkpoint_names(run_dir)] == before
    other.tell("commit 90000000")
    other.hear("committed 90000000")
