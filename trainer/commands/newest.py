"""Reading the newest checkpoint of a run that may be training: it writes new ones and deletes old ones meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.checkpoint.verification import Vanished
from trainer.run_directory.layout import CHECKPOINTS

T = TypeVar("T")


def read_newest(read: Callable[[], T], *paths: Path) -> T:
    """What ``read`` returns; it is called again when a checkpoint was deleted under it and ``paths`` names a run
    directory, whose newest checkpoint is another by now.

    Raises:
        Vanished: ``paths`` names checkpoints only.
    """
    while True:
        try:
            return read()
        except Vanished:
            if not any((path / CHECKPOINTS).is_dir() for path in paths):
                raise
