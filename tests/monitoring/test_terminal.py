"""What a run says on its terminal and in train.log."""

from __future__ import annotations

import io
import os
import re
import sys
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
