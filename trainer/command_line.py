"""Command lines that messages print. They work when they are copied, whatever the paths contain."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException


def command_line(command: str, *arguments: str) -> str:
    """``python -m trainer COMMAND …``, quoted for the shell. ``arguments`` use Hydra's grammar: see ``argument``."""
    return shlex.join(["python", "-m", "trainer", command, *arguments])


def resume_command(run_dir: Path, *arguments: str) -> str:
    """The command line that continues a run. ``arguments`` are as for ``command_line``."""
    return command_line("resume", argument("run_dir", run_dir), *arguments)


def copy_command(run_dir: Path) -> str:
    """A command that copies a run directory. No file of the copy has a second name, inside the copy or outside it."""
    names = (run_dir.with_name(f"{run_dir.name}-copy{number or ''}") for number in range(10**6))
    new = next(name for name in names if not os.path.lexists(name))
    return shlex.join(["cp", "-a", "--no-preserve=links", "--reflink=auto", "--", str(run_dir), str(new)])


def argument(key: str, value: str | Path) -> str:
    """``key=value`` in Hydra's grammar, quoted where Hydra would read the bare text as something else."""
    text = str(value)
    bare = f"{key}={text}"
    if _means(bare, text):
        return bare
    # double quotes, because shlex uses single ones
    return f"{key}={QuotedString(text, Quote.double).with_quotes()}"


def _means(argument: str, text: str) -> bool:
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return False
    value = override.value()
    return type(value) is str and value == text
