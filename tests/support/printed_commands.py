"""The commands in the messages of the program, judged as a shell and the program would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from trainer.__main__ import COMMANDS
from trainer.commands.check_data import HELP as CHECK_HELP
from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose_run
from trainer.config.override import override
from trainer.diagnosis.wanted import wanted_config

BEGINNING = re.compile(r"(?:[A-Z_]+=\S+ )?python -m trainer .*|(?:cp|mv|ls|tensorboard|sbatch) -{1,2}.*", re.MULTILINE)
PLACES = ("run_dir", "sweep_dir", "checkpoint", "init_from", "left", "right", "output", "hydra.sweep.dir")
NOT_KEYS = ("run_dir", "sweep_dir", "checkpoint", "allow", "trial", "into")
assert "report=PATH" in CHECK_HELP


def commands_in(message: str) -> list[str]:
    """The commands in a message, each from its first word to the end of its line."""
    return BEGINNING.findall(message)


def accepted(command: str) -> list[str]:
    """The words of a command, after it was judged: it does not depend on the directory that it is run in, has no
    placeholder, and every argument is one that the program takes.
    """
    words = shlex.split(command, comments=True)
    assert not re.search(r"…|\.\.\.|\b(NEW|DIR|PATH|CHECKPOINT|DIRECTORY)\b", command), f"a placeholder: {command}"
    if re.match(r"[A-Z_]+=", words[0]):
        assert words[0].partition("=")[2].startswith("/"), command
        words = words[1:]
    if words[:3] != ["python", "-m", "trainer"]:
        assert all(word.startswith(("-", "/", "sweep_dir=/")) for word in words[1:]), (
            f"depends on the directory: {command}"
        )
        return words
    name, arguments = words[3], words[4:]
    assert name in COMMANDS, command
    values = parse_arguments(arguments)
    for key in PLACES:
        if key in values and not re.match(r"latest|best|step-|\w+://", str(values[key])):
            assert os.path.isabs(str(values[key])), f"{key} depends on the directory: {command}"
    if name == "train":
        compose_run(arguments)
    elif name == "check-data":
        wanted_config(None, arguments)
    elif name == "resume" and "run_dir" in values:
        file = Path(str(values["run_dir"])) / stored.FILE_NAME
        if file.exists():
            override(stored.read(file), {key: value for key, value in values.items() if key not in NOT_KEYS})
    return words


def executed(command: str) -> None:
    """Run a command of the shell from another directory."""
    subprocess.run(["sh", "-c", command], cwd="/", check=True, capture_output=True)
