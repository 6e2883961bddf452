"""``key=value`` arguments of commands that are not Hydra applications, read with Hydra's grammar."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.spelling import read
from trainer.errors import UsageError


def parse_arguments(arguments: Sequence[str]) -> dict[str, object]:
    """``["run_dir=a", "train.steps=3"]`` as ``{"run_dir": "a", "train.steps": 3}``; paths as they are typed.

    Raises:
        UsageError: an argument is not ``key=value``.
    """
    values: dict[str, object] = {}
    for argument in arguments:
        override = read(argument)
        if override.is_delete() or override.is_add() or override.is_sweep_override():
            raise UsageError(f"{argument!r} is not key=value: +, ~ and sweeps belong to train")
        values[override.key_or_group] = override.value()
    return values
