"""The command that consents, for a command that was refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.command_line import argument, command_line, consent
from trainer.commands.arguments import take_list
from trainer.config import spelling
from trainer.config.arguments import parse_arguments
from trainer.errors import RestoreRefused

PLACES = spelling.PLACES | {"data.root"}


@contextlib.contextmanager
def offering(command: str, arguments: Sequence[str]) -> Iterator[None]:
    """Add to a refusal that names of ``allow`` would lift the same command with them.

    Raises:
        RestoreRefused: the refusal, with the command as its last line.
    """
    try:
        yield
    except RestoreRefused as error:
        if not error.consents:
            raise
        raise RestoreRefused(f"{error}\n  {_again(command, arguments, error.consents)}") from error


def _again(command: str, arguments: Sequence[str], consents: Sequence[str]) -> str:
    values = parse_arguments(arguments)
    names = dict.fromkeys([*take_list(values, "allow"), *consents])
    return command_line(command, *(_argument(key, value) for key, value in values.items()), consent(names))


def _argument(key: str, value: object) -> str:
    if key in spelling.SEVERAL and isinstance(value, list):
        return argument(key, [os.path.abspath(str(each)) for each in value])
    is_place = key in PLACES and isinstance(value, str) and (key != "checkpoint" or os.path.isdir(value))
    return argument(key, Path(str(value)) if is_place else value)
