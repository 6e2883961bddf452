"""Read the newest checkpoint of a run that may be training, and so may write new ones and delete old ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.checkpoint.verification import Vanished
from trainer.run_directory.layout import CHECKPOINTS

T = TypeVar("T")


def read_newest(read: Callable[[], T], *paths: Path) -> T:
    """The result of ``read``. It is called again when a checkpoint was deleted during the call and ``paths`` names a
    run directory, which has another newest checkpoint by then.

    Raises:
        Vanished: a checkpoint was deleted, and ``paths`` names checkpoints only.
    """
    while True:
        try:
            return read()
        except Vanished:
            if not any((path / CHECKPOINTS).is_dir() for path in paths):
                raise
