"""What a run says on its terminal and in train.log."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer.errors import SPELLED
from trainer.monitoring.terminal import Terminal

LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", rb"\u732b . caf\xe9"), ("utf-8", "猫 · caf\\xe9".encode())]
)
def test_any_name_is_printed_and_logged(
    encoding: str, printed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding, errors=SPELLED))
    terminal = Terminal(tmp_path / "train.log", 0, 1)
    terminal.warn(f"猫 · {LATIN} :cat: [bold]")
    terminal.close()
    sys.stdout.flush()
    assert output.getvalue() == b"warning: " + printed + b" :cat: [bold]\n"
    (line,) = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert line.endswith("  warning: 猫 · caf\\xe9 :cat: [bold]")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_command_in_the_closing_lines_can_be_copied_from_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal breaks a long line without a line end, so what is copied is the line."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    command = "python -m trainer resume run_dir=/home/me/[bold]/outputs/patterns train.steps=676 'allow=[schedule]'"
    terminal = Terminal(tmp_path / "train.log", 0, 1)
    terminal.closing("done at step 1", [("run", "outputs/patterns"), ("more", command)])
    terminal.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()
    assert shown[-3:] == ["done at step 1", "  run   outputs/patterns", f"  more  {command}"]


@pytest.mark.parametrize("is_screen", [False, True])
def test_what_a_run_does_before_its_first_record_is_shown_to_who_watches(
    is_screen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = Screen() if is_screen else io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    terminal = Terminal(tmp_path / "train.log", 0, 1)
    terminal.stage("tracing the step")
    terminal.close()
    assert ("tracing the step" in output.getvalue()) == is_screen
    assert (tmp_path / "train.log").read_text() == ""


@pytest.mark.parametrize("is_screen", [False, True])
def test_no_rate_and_no_time_left_are_shown_before_they_are_known(
    is_screen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen() if is_screen else io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    terminal = Terminal(tmp_path / "train.log", 0, 100)
    values = {"loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1}
    terminal.training(1, 100, 0.1, values, None)
    if is_screen:
        terminal._live.refresh()
        assert "-:--:--" in screen.getvalue()
    first = (tmp_path / "train.log").read_text()
    assert "ETA" not in first
    assert "images/s" not in first
    terminal.training(20, 100, 0.2, {**values, "images_per_second": 80.0}, 3725.0)
    if is_screen:
        terminal._live.refresh()
        assert "1:02:05" in screen.getvalue()
    assert "80 images/s  ETA 1:02:05" in (tmp_path / "train.log").read_text()
    terminal.close()


TMUX = shutil.which("tmux")
ROOT = Path(__file__).parents[2]
WATCHED = """
import sys, time
from pathlib import Path
from trainer.monitoring.terminal import Terminal
place = Path(sys.argv[1])
terminal = Terminal(place / "train.log", 0, 100)
for number in range(30):
    terminal.line(f"line {number} above")
terminal.stage("tracing the step")
while not (place / "train").exists():
    time.sleep(0.02)
values = {"loss": 1.25, "accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 80.0}
terminal.step(50)
terminal.training(50, 100, 0.5, values, 60.0)
while not (place / "end").exists():
    time.sleep(0.02)
terminal.closing("done at step 50", [("run", "here")])
terminal.close()
(place / "ended").touch()
time.sleep(60)
"""


class Window:
    """A window of a real terminal emulator, in which a run is shown."""

    def __init__(self, place: Path) -> None:
        self._place = place
        (place / "watched.py").write_text(WATCHED)
        program = f"PYTHONPATH={ROOT} TERM=xterm-256color {sys.executable} {place / 'watched.py'} {place}"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "20", program)

    def _tmux(self, *arguments: str) -> str:
        assert TMUX is not None
        command = [TMUX, "-S", str(self._place / "socket"), *arguments]
        variables = {**os.environ, "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240, env=variables).stdout

    def resize(self, width: int) -> None:
        self._tmux("resize-window", "-x", str(width))

    def lines(self, are_there: Callable[[list[str]], bool]) -> list[str]:
        """What is on the screen and above it, when it is as it should be and stays so, else after some time."""
        deadline = time.monotonic() + 120.0
        while True:
            shown = [line.rstrip() for line in self._tmux("capture-pane", "-p", "-S", "-").splitlines() if line.strip()]
            if are_there(shown) or time.monotonic() > deadline:
                time.sleep(0.5)  # a few more refreshes change nothing
                return [
                    line.rstrip() for line in self._tmux("capture-pane", "-p", "-S", "-").splitlines() if line.strip()
                ]
            time.sleep(0.1)

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Window]:
    if TMUX is None:
        pytest.skip("there is no tmux here")
    opened = Window(tmp_path)
    yield opened
    opened.close()


@pytest.mark.long  # on a busy machine, a frame may be drawn for a width that the terminal no longer has
def test_nothing_stale_is_left_when_a_terminal_is_resized(window: Window, tmp_path: Path) -> None:
    above = [f"line {number} above" for number in range(30)]  # more than the screen has room for

    def watched(last: str) -> Callable[[list[str]], bool]:
        return lambda shown: len(shown) == 32 and shown[30].startswith("step") and shown[31].startswith(last)

    *before, bar, values = window.lines(watched("tracing the step"))
    assert before == above
    assert bar.startswith("step   0/100")
    assert values == "tracing the step", "there is a line before the first step"
    (tmp_path / "train").touch()
    for width in (100, 60, 41, 90, 70, 100):
        window.resize(width)
        *before, bar, values = window.lines(watched("epoch 0.50  loss"))
        assert before == above, width
        assert bar.startswith("step  50/100"), width
        assert values.startswith("epoch 0.50  loss 1.2500"), width
    window.resize(50)
    (tmp_path / "end").touch()
    shown = window.lines(lambda lines: lines[-1:] == ["  run  here"])
    assert shown[:30] == above
    assert [line for line in shown if "step" in line] == [shown[30], "done at step 50"]
