"""The history of a run, metrics.jsonl and TensorBoard events: one timeline, however often the run was restarted.

A resume drops the records after the step that it continues from, because it will make those steps again. So it does
with a validation of that very step of which the state does not know: a stop came before it, and a kill after it.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoint.manifest import RecordedMetrics
from trainer.run_directory.event_files import truncate_events
from trainer.run_directory.events import Events
from trainer.run_directory.layout import LOCK, METRICS, TENSORBOARD
from trainer.run_directory.metrics import (
    LINE_LIMIT,
    TRAIN,
    VALIDATION,
    Record,
    lines,
    record_of,
    step_in,
    validations_in,
)
from trainer.storage.durable import cut, replace, sync
from trainer.storage.going_on import WRITES
from trainer.storage.guarded import open_regular
from trainer.storage.lease import Fence
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable

READ_AT_ONCE = 1 << 20  # bytes


class History:
    """Appends records to a run directory. ``step`` is where the run continues: later records are dropped first.
    ``noted``: the state knows of the validation of that step, if there was one.

    Training does not end when a record cannot be written. The record stays in memory and is written, in order, when the
    disk works again. Until then ``sync`` fails, so no checkpoint refers to a history that is not on disk.

    If another program has deleted, replaced, cut or extended the file, it is made again: from the deleted file, which
    is still open here, or from the records that are left and the validations, which are in memory. ``notices`` says
    what happened, for the loop to print.
    """

    def __init__(self, run_dir: Path, step: int, *, noted: bool = True) -> None:
        self._path = run_dir / METRICS
        kept = _drop_later(self._path, step, noted=noted)
        self.events = {split: Events(run_dir / TENSORBOARD / split) for split in (TRAIN, VALIDATION)}
        for split, events in self.events.items():
            try:
                again = split == VALIDATION and not noted and step not in kept.validations
                truncate_events(run_dir / TENSORBOARD / split, step - 1 if again else step)
            except OSError as error:
                events.failure = error
        self._size, self._sha256 = kept.size, kept.sha256  # of every record, written or not
        self._written = kept.sha256.copy()  # of what is in the file
        self._metrics = self._path.open("a+b", buffering=0)
        sync(run_dir)  # so that a new file is found after a power failure
        self._whole = self._path.stat().st_size  # bytes up to the end of the last whole line
        self._unwritten: list[bytes] = []
        self.failure: OSError | None = None  # of the last attempt to write
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.validations = kept.validations
        self._lock = threading.Lock()  # sync is called from the thread that commits
        self._fence = Fence(run_dir / LOCK)

    def add(self, record: Record) -> None:
        """Write a record, or keep it in memory until it can be written.

        Raises:
            RunDirectoryInUse: another process has taken over the run directory. Nothing was written.
        """
        self._fence.look()
        if record.split == VALIDATION:
            self.validations[record.step] = record.scalars
        line = record.line().encode()
        self._count(line)
        with WRITES.doing(lambda: f"writing to {self._path}"), self._lock:
            self._unwritten.append(line)
            self._write()
            self.events[record.split].scalars(record.step, record.scalars)

    def _count(self, content: bytes) -> None:
        self._size += len(content)
        self._sha256.update(content)

    @property
    def recorded(self) -> RecordedMetrics:
        """What metrics.jsonl holds after the next ``sync``, for the manifest of a checkpoint."""
        with self._lock:
            self._write()  # also makes a deleted or changed file again
        return RecordedMetrics(self._size, self._sha256.hexdigest())

    @property
    def view_failure(self) -> OSError | None:
        """Why TensorBoard's files are incomplete; None when they are complete."""
        return next((events.failure for events in self.events.values() if events.failure is not None), None)

    def sync(self) -> None:
        """Flush everything to disk. Called before a checkpoint refers to it.

        Raises:
            RunDirectoryInUse: as ``add``.
            OSError: metrics.jsonl cannot be written. TensorBoard's files are a view of it and may lag behind.
        """
        with self._lock:
            self._write()
            for events in self.events.values():
                events.flush()
        if self.failure is not None:
            raise self.failure
        sync(self._path)  # by its name, so that a deleted run directory is noticed

    def close(self) -> None:
        for events in self.events.values():
            events.close()
        self._metrics.close()

    def _write(self) -> None:
        """Append the lines that are not written yet. A half-written line is removed first."""
        try:
            if self.failure is not None:
                self._fence.look_now()  # the file that is cut must be ours
                if os.fstat(self._metrics.fileno()).st_size > self._whole:
                    os.ftruncate(self._metrics.fileno(), self._whole)
            self._mend()
            while self._unwritten:
                line = self._unwritten[0]
                if self._metrics.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._whole += len(line)
                self._written.update(line)
                del self._unwritten[0]
            self.failure = None
        except OSError as error:
            self.failure = OSError(error.errno, error.strerror, str(self._path))

    def _mend(self) -> None:
        """Make the file again if it is not as this process has written it. Never make the run directory again."""
        if self._fence.is_lost:
            return
        ours = os.fstat(self._metrics.fileno())
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                return  # the whole run directory was deleted: it is not made again
            how = "was deleted"
        else:
            if not os.path.samestat(there, ours):
                how = "was replaced"
            elif there.st_size != self._whole:
                how = f"had {self._whole} bytes and was changed to {there.st_size}"
            else:
                return
        self._fence.look_now()  # perhaps a process that has taken over changed the file
        whole = self._is_whole()
        aside = None
        if os.path.lexists(self._path):
            aside = free_name(self._path)
            self._path.rename(aside)
        replace(self._path, self._content() if whole else self._remains())
        self._metrics.close()
        self._metrics = self._path.open("a+b", buffering=0)
        self._take_in()
        left = "and nothing is missing" if whole else "from the records that were left and all validations"
        beside = "" if aside is None else f"; the file that was found is kept as {aside.name}"
        self.notices.put(
            f"{self._path} {how} by another program while the run was writing to it; it was made again {left}{beside}"
        )

    def _content(self) -> Iterator[bytes]:
        """What this process has written, as far as the open file still has it."""
        at = 0
        while piece := os.pread(self._metrics.fileno(), min(READ_AT_ONCE, self._whole - at), at):
            at += len(piece)
            yield piece

    def _is_whole(self) -> bool:
        found = hashlib.sha256()
        for piece in self._content():
            found.update(piece)
        return found.digest() == self._written.digest()

    def _remains(self) -> Iterator[bytes]:
        """The records that are left, then the validations that are not among them."""
        missing = dict(self.validations)
        for line in _readable_of(self._content()):
            for step in validations_in([line]):
                missing.pop(step, None)
            yield line
        unwritten = validations_in(self._unwritten)
        for step, values in sorted(missing.items()):
            if step not in unwritten:
                yield Record(step, VALIDATION, values, {"closing": False}).line().encode()

    def _take_in(self) -> None:
        """Compute size and digest of the new file, and of the lines that will follow."""
        self._whole, self._written = os.fstat(self._metrics.fileno()).st_size, hashlib.sha256()
        for piece in self._content():
            self._written.update(piece)
        self._size, self._sha256 = self._whole, self._written.copy()
        for line in self._unwritten:
            self._count(line)


def keep_readable(run_dir: Path, recorded: RecordedMetrics | None, warn: Callable[[str], None]) -> None:
    """Replace a damaged metrics.jsonl with the records that can be read, and keep the damaged file beside it.

    ``recorded`` is what the checkpoint to resume from says about the file; None when the checkpoint is from another run
    directory. The part with the recorded digest was written by this program and is not parsed, so a long history only
    costs the reading of its bytes. Only the display of the run and the choice of the best checkpoint depend on this
    file, so damage does not stop a resume.

    Raises:
        Unreadable: it cannot be read now, so damage is unknown.
    """
    path = run_dir / METRICS
    if not path.exists():
        if recorded is not None and recorded.size > 0:
            warn(f"{path} is missing, so the metrics of earlier steps are lost; training is not affected")
        return
    known = None if recorded is None else _known_lines(path, recorded)
    begin, number = (0, 1) if recorded is None or known is None else (recorded.size, known + 1)
    reason = _first_fault(path, begin, number)
    if recorded is not None and known is None and reason is None:
        reason = f"its first {recorded.size} bytes differ from those that the checkpoint recorded"
    if reason is None:
        return
    aside = free_name(path)
    path.rename(aside)
    kept = _Counted(_readable(aside))
    replace(path, kept)
    warn(
        f"{path} is damaged: {reason}; {kept.count} records that can be read were kept, the damaged file is now "
        f"{aside.name}; training is not affected"
    )


def free_name(path: Path) -> Path:
    """A free path for a damaged history, beside the file that takes its place."""
    return next(
        candidate
        for number in range(10**6)
        if not os.path.lexists(candidate := path.with_name(f"{METRICS}.damaged.{number}"))
    )


class _Counted:
    """An iterable that counts the values it has yielded."""

    def __init__(self, values: Iterator[bytes]) -> None:
        self._values = values
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for value in self._values:
            self.count += 1
            yield value


def _readable(path: Path) -> Iterator[bytes]:
    return (line for line in lines(path) if _fault(line) is None)


def _readable_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in whole if _fault(line) is None)
        rest = rest[:LINE_LIMIT]  # a longer line is not a record


def _fault(line: bytes) -> str | None:
    try:
        record_of(line)
    except Unacceptable as error:
        return str(error)
    return None


def _first_fault(path: Path, begin: int, number: int) -> str | None:
    """The first line from byte ``begin`` on that is not a record, and why. Line ``number`` begins at ``begin``."""
    faults = ((at, _fault(line)) for at, line in enumerate(lines(path, begin), number))
    return next((f"line {at}: {fault}" for at, fault in faults if fault is not None), None)


def _known_lines(path: Path, recorded: RecordedMetrics) -> int | None:
    """The number of lines in the part that ``recorded`` describes; None when the file begins with other bytes."""
    digest, count, left = hashlib.sha256(), 0, recorded.size
    with readable(path), open_regular(path) as file:
        while left and (piece := file.read(min(left, READ_AT_ONCE))):
            digest.update(piece)
            count += piece.count(b"\n")
            left -= len(piece)
    return count if left == 0 and digest.hexdigest() == recorded.sha256 else None


@dataclasses.dataclass
class _Kept:
    """The part of a history that is kept: its size in bytes, its digest, and its validations."""

    size: int
    sha256: hashlib._Hash
    validations: dict[int, dict[str, float]]


def _drop_later(path: Path, step: int, *, noted: bool) -> _Kept:
    """Remove the records after ``step`` from the file, and half a line at its end; and, unless it is ``noted``, the
    validation of ``step``.

    Usually they are the end of the file, which is cut off. If records that stay are among them, the file is rewritten.
    """
    kept, position, in_one_piece = _Kept(0, hashlib.sha256(), {}), 0, True
    if not path.exists():
        return kept
    for line in lines(path):
        position += len(line)
        if not _stays(line, step, noted=noted):
            continue
        kept.size += len(line)
        kept.sha256.update(line)
        kept.validations.update(validations_in([line]))
        in_one_piece = in_one_piece and kept.size == position
    if not in_one_piece:
        replace(path, (line for line in lines(path) if _stays(line, step, noted=noted)))
    elif path.stat().st_size > kept.size:
        cut(path, kept.size)
    return kept


def _stays(line: bytes, step: int, *, noted: bool) -> bool:
    at = step_in(line)
    if at is None or at > step:
        return False
    return noted or at < step or not validations_in([line], noted=True)
