"""Command lines that messages print. They work when they are copied, whatever the paths contain and whichever
directory they are run in.

Every command that the program prints is made here. ``tests/test_command_line.py`` finds each call in the source and
runs or parses what it prints.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException

JOB_SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "slurm" / "train.sbatch"  # absent from a wheel


def program(name: str) -> str:
    """``name``, where a shell finds by it the program of this environment, else its path: in a shell where the
    environment is not activated, ``python`` is another one, which has none of what the program needs.
    """
    here = os.path.dirname(sys.executable)
    found = shutil.which(name)
    if found is not None and os.path.realpath(os.path.dirname(found)) == os.path.realpath(here):
        return name
    own = sys.executable if name == "python" else os.path.join(here, name)
    return own if os.path.isfile(own) else name


def command_line(command: str, *arguments: str) -> str:
    """``python -m trainer COMMAND …``, quoted for the shell. ``arguments`` use Hydra's grammar: see ``argument``."""
    return shlex.join([program("python"), "-m", "trainer", command, *arguments])


def resume_command(run_dir: Path | str, *arguments: str) -> str:
    """The command line that continues a run, in a directory or from the URL of its mirror. ``arguments`` are as for
    ``command_line``.
    """
    return command_line("resume", argument("run_dir", run_dir), *arguments)


def changing_command(run_dir: Path, changes: Mapping[str, Any], consents: Iterable[str], *arguments: str) -> str:
    """The command line that continues a run with ``changes`` (dotted key → value), of which ``consents`` need to be
    allowed by name.
    """
    allowed = list(consents)
    values = [argument(key, value) for key, value in changes.items()]
    return resume_command(run_dir, *arguments, *values, *([consent(allowed)] if allowed else []))


def consent(names: Iterable[str]) -> str:
    """``allow=[NAME,…]``, the argument that accepts changes by name. A message that adds it to the user's own command
    prints it alone.
    """
    return f"allow=[{','.join(names)}]"


def with_variable(name: str, value: Path, command: str) -> str:
    """``command`` with a variable of the environment set for it."""
    return f"{name}={shlex.quote(os.path.abspath(value))} {command}"


def python_command(code: str, *arguments: str) -> str:
    """A command that runs ``code`` in the user's Python."""
    return shlex.join([program("python"), "-c", code, *arguments])


def array_command(sweep_dir: Path, trials: int) -> str:
    """The command that has Slurm run each trial of a sweep as a task of a job array, by the script of this project."""
    # the script reads the directory, so it is not in Hydra's quotes
    return shlex.join(["sbatch", f"--array=0-{trials - 1}", str(JOB_SCRIPT), f"sweep_dir={os.path.abspath(sweep_dir)}"])


def tensorboard_command(logs: Path) -> str:
    """The command that shows a directory of event files."""
    return shlex.join([program("tensorboard"), "--logdir", os.path.abspath(logs)])


def list_command(place: Path) -> str:
    """A command that lists a directory."""
    return shlex.join(["ls", "-l", "--", os.path.abspath(place)])


def move_command(place: Path, target: Path) -> str:
    """A command that moves a directory to where it was."""
    return shlex.join(["mv", "--", os.path.abspath(place), os.path.abspath(target)])


def copy_command(run_dir: Path) -> str:
    """A command that copies a run directory. No file of the copy has a second name, inside the copy or outside it."""
    places = [os.path.abspath(run_dir), str(place_beside(run_dir, "copy"))]
    return shlex.join(["cp", "-a", "--no-preserve=links", "--reflink=auto", "--", *places])


def place_beside(place: Path, word: str) -> Path:
    """``PLACE-word``, or with a number behind it, where nothing is yet."""
    beginning = f"{os.path.abspath(place)}-{word}"
    names = (Path(f"{beginning}{number or ''}") for number in range(10**6))
    return next(name for name in names if not os.path.lexists(name))


def argument(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar, quoted where Hydra would read the bare text as something else. A ``Path`` is
    made absolute.
    """
    if isinstance(value, os.PathLike):
        value = os.path.abspath(value)
    if not isinstance(value, str):
        return f"{key}={literal(value, _quoted)}"
    bare = f"{key}={value}"
    if _means(bare, value):
        return bare
    return f"{key}={_quoted(value)}"


def literal(value: Any, text: Callable[[str], str]) -> str:
    """A value in Hydra's grammar; ``text`` says how a text is written."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(literal(each, text) for each in value)}]"
    return text(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    # double quotes, because shlex uses single ones
    return QuotedString(text, Quote.double).with_quotes()


def _means(argument: str, text: str) -> bool:
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return False
    value = override.value()
    return type(value) is str and value == text
