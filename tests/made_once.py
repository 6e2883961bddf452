"""What the tests of several pytest workers compare with, made by one of them and read by all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Trainer


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Trainer], None]) -> Path:
    """A directory that ``make`` has filled with the processes that it was given, once for all workers.

    Tests copy what they change. When ``make`` fails, the next worker that asks tries again in a directory of its own.
    """
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    shared.mkdir(exist_ok=True)
    finished = shared / f"{name}.path"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            trainer = Trainer(factory.mktemp(name))
            try:
                make(trainer)
            finally:
                trainer.close()
            finished.write_text(str(trainer.cwd))
    return Path(finished.read_text())
