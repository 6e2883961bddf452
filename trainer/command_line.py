"""Command lines that messages print: they work when they are copied, whatever is in the paths."""

from __future__ import annotations

import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException


def command_line(command: str, *arguments: str) -> str:
    """``python -m trainer COMMAND …``, quoted for the shell. ``arguments`` are in Hydra's grammar: see ``argument``."""
    return shlex.join(["python", "-m", "trainer", command, *arguments])


def resume_command(run_dir: Path, *arguments: str) -> str:
    """The command line that continues a run. ``arguments`` are as for ``command_line``."""
    return command_line("resume", argument("run_dir", run_dir), *arguments)


def argument(key: str, value: str | Path) -> str:
    """``key=value`` in Hydra's grammar, quoted where the bare text would mean something else there."""
    text = str(value)
    bare = f"{key}={text}"
    if _means(bare, text):
        return bare
    # double quotes by choice: single ones are the shell's
    return f"{key}={QuotedString(text, Quote.double).with_quotes()}"


def _means(argument: str, text: str) -> bool:
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return False
    value = override.value()
    return type(value) is str and value == text
