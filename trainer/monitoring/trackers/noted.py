"""What a run notes of each tracker, in ``tracking/NAME.json``: its run there, and what that run keeps.

**Why no point is doubled or lost.** ``sending`` is on disk before anything of a part is sent, ``sent`` after the
tracker keeps all of it. A kill in between leaves ``sending``: then the same bytes are sent again with the same time,
as the same points, and a tracker counts a point once. So it is with the run itself: its ``key`` is on disk before the
tracker is asked to make it.

**A run of its own.** Points stay as they are. Where the run goes back behind what was sent (a resume from an older
checkpoint, a damaged one, a rollback), it goes on in a new run of the tracker, which has this one as its parent. So
does a copy of the directory: neither its path nor its inode are those that were noted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path

from trainer.monitoring.trackers.committed import NOTHING, Reached, hashed
from trainer.run_directory.layout import METRICS, TRACKING
from trainer.storage.documents import parse_json
from trainer.storage.durable import replace, sync
from trainer.storage.guarded import read_text
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable

SIZE_LIMIT = 1 << 16  # bytes
KEY_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Sending:
    """A part that may have been sent: where it ends, and the time of its points."""

    end: Reached
    time: int


@dataclasses.dataclass(frozen=True)
class Noted:
    """``key`` and ``id`` name the run in the tracker, ``id`` once it is there. ``parent`` is the ``id`` of the run that
    it has branched off. ``checkpoint`` is the one that was sent. The rest is the place of the run directory.
    """

    key: str
    id: str | None
    parent: str | None
    sent: Reached
    sending: Sending | None
    checkpoint: str | None
    path: str
    device: int
    inode: int

    @property
    def furthest(self) -> Reached:
        """What the tracker may know."""
        return self.sent if self.sending is None else self.sending.end


def file_of(run_dir: Path, name: str) -> Path:
    return run_dir / TRACKING / f"{name}.json"


def directory_of(run_dir: Path) -> Path:
    """``tracking/`` in a run directory, made if needed. A run directory that is gone is not made again."""
    place = run_dir / TRACKING
    if not place.is_dir():
        place.mkdir(exist_ok=True)
        sync(run_dir)
    return place


def read(run_dir: Path, name: str) -> Noted | None:
    """What was noted of a tracker; None where nothing was.

    Raises:
        Unacceptable: the file is not one of this program.
        OSError: it cannot be read.
    """
    try:
        text = read_text(file_of(run_dir, name), SIZE_LIMIT)
    except FileNotFoundError:
        return None
    return build(Noted, parse_json(text), str(file_of(run_dir, name)))


def write(run_dir: Path, name: str, noted: Noted) -> None:
    directory_of(run_dir)
    replace(file_of(run_dir, name), (json.dumps(dataclasses.asdict(noted), indent=2) + "\n").encode())


def new(run_dir: Path, parent: str | None) -> Noted:
    """The note of a run that is not in the tracker yet."""
    status = run_dir.stat()
    place = (os.path.abspath(run_dir), status.st_dev, status.st_ino)
    return Noted(secrets.token_hex(KEY_BYTES), None, parent, NOTHING, None, None, *place)


def belongs(noted: Noted, run_dir: Path) -> bool:
    """Whether the note is of this directory, and not of one that it was copied from."""
    status = run_dir.stat()
    return noted.path == os.path.abspath(run_dir) or (noted.device, noted.inode) == (status.st_dev, status.st_ino)


def moved(noted: Noted, run_dir: Path) -> Noted:
    """The note with the place where the directory is now."""
    status = run_dir.stat()
    return dataclasses.replace(noted, path=os.path.abspath(run_dir), device=status.st_dev, inode=status.st_ino)


def goes_back(noted: Noted, run_dir: Path, size: int) -> bool:
    """Whether the first ``size`` bytes of the records, which stay, do not begin with what was sent."""
    furthest = noted.furthest
    return furthest.size > size or hashed(run_dir / METRICS, furthest.size).hexdigest() != furthest.sha256


def parent_in(run_dir: Path, name: str) -> str | None:
    """The run of a tracker that another run directory was told to; None where there is none, or it cannot be read."""
    try:
        there = read(run_dir, name)
    except (OSError, Unacceptable):
        return None
    return None if there is None else there.id
