"""How a run has ended, in ``tracking/ended.json``: for the processes that tell trackers, now or later.

The run writes it at its end, and removes it when it begins. Without it the run goes on, or was killed.
"""

from __future__ import annotations

import typing
from pathlib import Path

from trainer.config.contracts import How
from trainer.monitoring.trackers import noted
from trainer.run_directory.layout import TRACKING
from trainer.storage.documents import parse_json, to_json
from trainer.storage.durable import replace
from trainer.storage.guarded import read_text
from trainer.storage.unacceptable import Unacceptable

FILE_NAME = "ended.json"
SIZE_LIMIT = 1 << 10  # bytes


def write(run_dir: Path, how: How) -> None:
    replace(noted.directory_of(run_dir) / FILE_NAME, (to_json({"how": how}) + "\n").encode())


def remove(run_dir: Path) -> None:
    (run_dir / TRACKING / FILE_NAME).unlink(missing_ok=True)


def read(run_dir: Path) -> How | None:
    """How the run has ended; None when it has not, or nobody knows."""
    try:
        value = parse_json(read_text(run_dir / TRACKING / FILE_NAME, SIZE_LIMIT))
    except (OSError, Unacceptable):
        return None
    said = value.get("how") if isinstance(value, dict) else None
    return next((how for how in typing.get_args(How) if how == said), None)
