"""What a run has committed of its records, and reading them.

A manifest says how many bytes of metrics.jsonl its checkpoint stands for, and their SHA-256. A resume from that
checkpoint keeps these bytes, so a point of theirs is never taken back. One record may be behind them: a closing
validation of the checkpoint's own step, made where nothing was left to save. A resume keeps it, too; but only the end
of a run says that it is on disk.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.config.contracts import Point
from trainer.run_directory.layout import CHECKPOINTS, METRICS
from trainer.run_directory.metrics import lines, record_of
from trainer.storage.guarded import open_regular
from trainer.storage.unacceptable import Unacceptable

READ_AT_ONCE = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Reached:
    """The beginning of metrics.jsonl: its number of lines, its bytes, and their SHA-256."""

    records: int
    size: int
    sha256: str


NOTHING = Reached(0, 0, hashlib.sha256().hexdigest())


@dataclasses.dataclass(frozen=True)
class Committed:
    """The newest checkpoint of a run. The first ``size`` bytes of metrics.jsonl are on disk and stay, whatever becomes
    of the run; ``stays`` counts a closing validation behind them, too, which may not be on disk.
    """

    checkpoint: Path
    manifest: Manifest
    size: int
    stays: int

    @property
    def time(self) -> int:
        """When it was committed, milliseconds since the epoch."""
        return int(datetime.datetime.fromisoformat(self.manifest.created).timestamp() * 1000)


def newest(run_dir: Path, *, finished: bool) -> Committed | None:
    """The newest checkpoint with a readable manifest; None without any. ``finished``: the run has ended at its last
    step, with its records on disk.

    Raises:
        Unreadable: the system cannot read it now.
    """
    for path in reversed(directory.committed(run_dir / CHECKPOINTS)):
        try:
            manifest = directory.manifest_of(path)
        except ManifestError:  # it has just been deleted, or it is damaged: an older one says less, and nothing wrong
            continue
        size = manifest.metrics.size
        stays = size + sum(map(len, _closing(run_dir / METRICS, size, manifest.step)))
        return Committed(path, manifest, stays if finished else size, stays)
    return None


def _closing(path: Path, begin: int, step: int) -> Iterator[bytes]:
    for line in lines(path, begin) if path.exists() else ():
        try:
            record = record_of(line)
        except Unacceptable:
            return
        if record["step"] != step or record.get("closing") is not True:
            return
        yield line


def hashed(path: Path, size: int) -> hashlib._Hash:
    """The SHA-256 of the first ``size`` bytes of a file, to go on with; of all where it has fewer."""
    found = hashlib.sha256()
    if size == 0:
        return found  # there may be no file yet
    with open_regular(path) as file:
        while piece := file.read(min(READ_AT_ONCE, size)):
            found.update(piece)
            size -= len(piece)
    return found


@dataclasses.dataclass(frozen=True)
class Part:
    """Some lines of metrics.jsonl: their records, where they end, and the SHA-256 up to there, to go on with."""

    points: tuple[Point, ...]
    end: Reached
    hash: hashlib._Hash


def part(path: Path, begin: Reached, before: hashlib._Hash, size: int, most: int, time: int) -> Part:
    """The next ``most`` lines behind ``begin``, or fewer where ``size`` bytes end before them. ``before`` is the digest
    up to ``begin``. Lines that are not records are left out.
    """
    points: list[Point] = []
    at, count, found = begin.size, begin.records, before.copy()
    for line in lines(path, at):
        if count - begin.records >= most or at + len(line) > size:
            break
        at += len(line)
        found.update(line)
        point = _point(line, count, time)
        points += [] if point is None else [point]
        count += 1
    return Part(tuple(points), Reached(count, at, found.hexdigest()), found)


def _point(line: bytes, number: int, time: int) -> Point | None:
    try:
        record = record_of(line)
    except Unacceptable:
        return None
    values = {
        f"{record['split']}/{name}": math.nan if value is None else float(value)
        for name, value in record.items()
        if name != "step" and (value is None or type(value) in (int, float))
    }
    return Point(number, record["step"], values, time)
