"""The tab key in a real bash and a real zsh, through a terminal: what stands on the line afterwards, word for word."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from trainer.__main__ import COMMANDS
from trainer.commands.candidates import candidates
from trainer.commands.completion import answers, divided
from trainer.config.compose import option_groups

ROOT = Path(__file__).parents[2]
ZSH = shutil.which("zsh")
SECONDS_ALLOWED = 240
STEP = "step-00000004"
# to the begin of the line (control-A), and the line's words are shown instead of run
SHOW_WORDS = "\x01printf '<%s>\\n' "


class Shell:
    """An interactive shell in a terminal, in which ``trainer`` is this tree's."""

    def __init__(self, command: list[str], shell: str, place: Path) -> None:
        programs = place / "bin"
        programs.mkdir()
        (programs / "trainer").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m trainer "$@"\n')
        (programs / "trainer").chmod(0o755)
        variables = {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(place), "PS1": "$ "}
        self._number, terminal = pty.openpty()
        self._process = subprocess.Popen(
            command, cwd=place, env=variables, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)
        self.run(f'eval "$(trainer completion {shell})"')

    def run(self, line: str) -> str:
        """What the terminal shows until the shell has done what ``line`` says."""
        os.write(self._number, line.encode() + b"\n")
        return self._until("end")

    def words(self, line: str) -> list[str]:
        """The words of a line after its keys were pressed."""
        os.write(self._number, (line + SHOW_WORDS).encode() + b"\n")
        return re.findall(r"^<(.*)>\r$", self._until("end"), re.MULTILINE)

    def shown(self, line: str, words: Sequence[str]) -> bool:
        """Whether all ``words`` are shown while a line is typed, which is thrown away then. What is typed ahead could
        keep the shell from showing anything, so nothing is.
        """
        os.write(self._number, line.encode())
        shown, deadline = "", time.monotonic() + SECONDS_ALLOWED
        while not all(re.search(rf"\b{word}\b", shown) for word in words) and time.monotonic() < deadline:
            if select.select([self._number], [], [], 1.0)[0]:
                shown += os.read(self._number, 65536).decode(errors="replace")
        os.write(self._number, b"\x15\n")
        self._until("end")
        return all(re.search(rf"\b{word}\b", shown) for word in words)

    def _until(self, word: str) -> str:
        os.write(self._number, f"echo {word[:1]}''{word[1:]}\n".encode())
        shown, deadline = "", time.monotonic() + SECONDS_ALLOWED
        while not re.search(rf"^{word}\r$", shown, re.MULTILINE):
            assert time.monotonic() < deadline, shown
            if select.select([self._number], [], [], 1.0)[0]:
                shown += os.read(self._number, 65536).decode(errors="replace")
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._number)


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell beside two runs, one of them with a name that a shell would divide."""
    place = tmp_path_factory.mktemp("shell")
    for name in ("runs/mine", "runs/it's (b)"):
        (place / name / "checkpoints" / STEP).mkdir(parents=True)
        (place / name / "config.yaml").touch()
        (place / name / "checkpoints" / STEP / "manifest.json").touch()
    if request.param == "bash":
        started = Shell(["bash", "--norc", "--noprofile", "-i"], "bash", place)
    elif ZSH is None:
        pytest.skip("there is no zsh here")
    else:
        started = Shell([ZSH, "-f", "-i"], "zsh", place)
    yield started
    started.close()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("trainer trai\t", ["trainer", "train"]),
        ("trainer train optimizer=s\t", ["trainer", "train", "optimizer=sgd"]),
        ("trainer train seed=3 opti\tlear\t0.1", ["trainer", "train", "seed=3", "optimizer.learning_rate=0.1"]),
        ("trainer train --multirun optimizer=adam,s\t", ["trainer", "train", "--multirun", "optimizer=adam,sgd"]),
        ("trainer resume run_dir=runs/m\ttrain.steps=9", ["trainer", "resume", "run_dir=runs/mine", "train.steps=9"]),
        ("trainer report run_dir=runs/i\t", ["trainer", "report", "run_dir=runs/it's (b)"]),
        (
            "trainer evaluate run_dir=runs/it\\'s\\ \\(b\\) checkpoint=st\tsplit=va\t",
            ["trainer", "evaluate", "run_dir=runs/it's (b)", "checkpoint=step-4", "split=validation"],
        ),
        ("trainer export format=k\t", ["trainer", "export", "format=keras"]),
        ("trainer help optimizer.mom\t", ["trainer", "help", "optimizer.momentum"]),
    ],
)
def test_the_tab_key_completes(shell: Shell, typed: str, words: list[str]) -> None:
    if "opti\tlear" in typed:  # a group that is a section, too: what both have in common, then the dot
        typed = typed.replace("opti\tlear", "opti\t.lear")
    assert shell.words(typed) == words


def test_the_tab_key_shows_the_options_of_a_group(shell: Shell) -> None:
    assert shell.shown("trainer train optimizer=\t\t", ("adam", "adamw", "rmsprop", "sgd"))


def found(line: str) -> list[str]:
    words, typed, _ = divided(line)
    return [each.word for each in candidates(words[1:], typed, COMMANDS)]


def test_every_command_and_every_group_is_completed() -> None:
    assert found("trainer ") == [*COMMANDS, "--help", "--version"]
    for group in option_groups():
        assert found(f"trainer train {group}="), group
    for command in set(COMMANDS) - {"help", "completion"}:
        assert found(f"trainer {command} "), command


def test_a_command_gets_the_arguments_that_it_takes() -> None:
    assert "data.root=" in found("trainer evaluate data.")
    assert not found("trainer evaluate optim")
    assert found("trainer verify replay=") == ["replay=true", "replay=false"]
    assert found("trainer verify trai") == []
    assert found("trainer completion ") == ["bash", "zsh"]
    assert found("trainer nonsense ") == []


def test_the_keys_are_those_of_the_option_that_the_line_chooses() -> None:
    assert "optimizer.momentum=" in found("trainer train optimizer=sgd optimizer.")
    assert "optimizer.momentum=" not in found("trainer train optimizer=adam optimizer.")
    assert found("trainer train runtime.device=") == [f"runtime.device={name}" for name in ("auto", "gpu", "cpu")]
    assert found("trainer train model.activation=rel") == ["model.activation=relu", "model.activation=relu6"]


def test_an_answer_to_bash_leaves_out_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert answers("bash", "trainer train data.root=", "=:", COMMANDS) == ["a\\ b/"]
    assert answers("zsh", "trainer train data.root=", "", COMMANDS) == ["data.root=a\\ b/"]
    assert answers("bash", "trainer train data.root=", "", COMMANDS) == ["data.root=a\\ b/"]


def test_an_answer_imports_neither_tensorflow_nor_keras(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom trainer.__main__ import run\nstatus = run(sys.argv[1:])\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\nsys.exit(status)"
    )
    for line in ("trainer tr", "trainer train optimizer=", "trainer evaluate checkpoint=", "trainer find-lr "):
        command = [sys.executable, "-c", program, "completion", "answer", "bash", line, "=:"]
        finished = subprocess.run(command, check=True, timeout=240, capture_output=True, text=True)
        assert finished.stdout.strip()
