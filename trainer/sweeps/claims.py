"""Several processes share one search: one at a time chooses a trial, and each trial belongs to one of them.

The kernel drops a lock with the process that holds it, so a process that is killed leaves nothing behind. A trial whose
process lives on without the one that started it is kept by the lease on its run directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UsageError
from trainer.storage import flock
from trainer.storage.durable import make_directory
from trainer.storage.guarded import refuse_unless_directory
from trainer.storage.unacceptable import Unacceptable

PLACE = ".search"  # a directory in that of the sweep
CHOOSING = "choosing"


def place_of(sweep_dir: Path) -> Path:
    """The directory of the locks, made if needed.

    Raises:
        UsageError: it cannot be made, or is something else.
    """
    place = sweep_dir / PLACE
    try:
        make_directory(place)
        refuse_unless_directory(place)
    except OSError as error:
        raise UsageError(f"the sweep directory {sweep_dir} cannot be written: {error.strerror}") from error
    except Unacceptable as error:
        raise UsageError(str(error)) from error
    return place


@contextlib.contextmanager
def choosing(sweep_dir: Path) -> Iterator[None]:
    """Wait until no other process chooses a trial, and keep others from it while the block runs."""
    descriptor = _locked(place_of(sweep_dir) / CHOOSING, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


class Claim:
    """A trial that belongs to this process until it is released."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


def claim(sweep_dir: Path, number: int) -> Claim | None:
    """Claim a trial; None when another process of the search has it."""
    descriptor = _locked(place_of(sweep_dir) / str(number), wait=False)
    return None if descriptor is None else Claim(descriptor)


def _locked(path: Path, *, wait: bool) -> int | None:
    try:
        return flock.locked(path, wait=wait)
    except OSError as error:
        if error.filename is not None:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        raise UsageError(
            f"{path} is on a filesystem without locks (flock: {error.strerror}), so two processes could choose the "
            "same trial\nput hydra.sweep.dir on another filesystem, or mount this one with locks"
        ) from error
