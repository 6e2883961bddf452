"""Take one value after the other out of a command's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.errors import UsageError, nearest


def take_text(values: dict[str, object], name: str, command: str) -> str:
    """Remove and return a required text argument."""
    if name not in values:
        given = f" (given: {', '.join(values)})" if values else ""
        raise UsageError(f"{command} needs {name}=…{given}")
    return str(values.pop(name))


def take_choice(values: dict[str, object], name: str, choices: Sequence[Any]) -> Any:
    """Remove and return an argument that is one of ``choices``; the first of them when it is not given."""
    if name not in values:
        return choices[0]
    value = values.pop(name)
    if value not in choices or type(value) not in map(type, choices):
        allowed = [str(choice).lower() for choice in dict.fromkeys(choices) if choice is not None]
        raise UsageError(f"{name}={value} does not exist; allowed: {', '.join(allowed)}{nearest(str(value), allowed)}")
    return value


def take_list(values: dict[str, object], name: str) -> list[str]:
    """Remove and return an argument that is a list of texts or a single text; empty when it is not given."""
    value = values.pop(name, [])
    return [str(entry) for entry in (value if isinstance(value, list) else [value])]


def refuse_rest(values: dict[str, object], known: Sequence[str], command: str) -> None:
    """Raise ``UsageError`` when an unknown argument is left."""
    for name, value in values.items():
        raise UsageError(f"{command} does not know {name}={value}{nearest(name, known)}; it takes {', '.join(known)}")
