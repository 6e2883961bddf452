"""The history of a run, metrics.jsonl and TensorBoard events: one line of time, whatever restarts there were.

A resume drops what was recorded after the step it continues from, because those steps will be made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoint.manifest import RecordedMetrics
from trainer.run_directory.events import Events, truncate_events
from trainer.run_directory.layout import LOCK, METRICS, TENSORBOARD
from trainer.run_directory.metrics import TRAIN, VALIDATION, Record, lines, read_metrics, read_validations, record_of
from trainer.storage.durable import replace, sync
from trainer.storage.guarded import open_regular
from trainer.storage.lease import Fence
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable


class History:
    """Appends records to a run directory. ``step`` is where the run continues: later records are dropped first.

    A disk that refuses a record does not end training. The record stays in memory and is written, in its place, when
    the disk takes it again; ``sync`` fails until then, so no checkpoint refers to a history that is not there.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._path = run_dir / METRICS
        _truncate_metrics(self._path, step)
        self.events = {split: Events(run_dir / TENSORBOARD / split) for split in (TRAIN, VALIDATION)}
        for split, events in self.events.items():
            try:
                truncate_events(run_dir / TENSORBOARD / split, step)
            except OSError as error:
                events.failure = error
        self._size, self._sha256 = 0, hashlib.sha256()  # of every record added, whether it is written already or not
        if self._path.exists():
            self._count(self._path.read_bytes())
        self._metrics = self._path.open("ab", buffering=0)
        sync(run_dir)  # so that a file that was made here is found after a power failure
        self._whole = self._path.stat().st_size  # bytes, up to the end of the last whole line
        self._unwritten: list[bytes] = []
        self.failure: OSError | None = None  # of the last attempt to write
        self.validations = read_validations(run_dir)
        self._lock = threading.Lock()  # sync is called from the thread that commits
        self._fence = Fence(run_dir / LOCK)

    def add(self, record: Record) -> None:
        """Write a record, or keep it in memory until the disk takes it.

        Raises:
            RunDirectoryInUse: another process has taken over the run directory; nothing was written.
        """
        self._fence.look()
        if record.split == VALIDATION:
            self.validations[record.step] = record.scalars
        line = record.line().encode()
        self._count(line)
        with self._lock:
            self._unwritten.append(line)
            self._write()
            self.events[record.split].scalars(record.step, record.scalars)

    def _count(self, content: bytes) -> None:
        self._size += len(content)
        self._sha256.update(content)

    @property
    def recorded(self) -> RecordedMetrics:
        """What metrics.jsonl holds after the next ``sync``, for the manifest of a checkpoint."""
        return RecordedMetrics(self._size, self._sha256.hexdigest())

    @property
    def view_failure(self) -> OSError | None:
        """Why TensorBoard's files lack something; None when they do not."""
        return next((events.failure for events in self.events.values() if events.failure is not None), None)

    def sync(self) -> None:
        """Bring everything to disk; called before a checkpoint refers to it.

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
        sync(self._path)  # by its name: a run directory that was deleted meanwhile is noticed

    def close(self) -> None:
        for events in self.events.values():
            events.close()
        self._metrics.close()

    def _write(self) -> None:
        """Append what is not written yet. A line that got only half into the file is taken out again."""
        try:
            if self.failure is not None:
                self._fence.look_now()  # what is cut off here must be ours
                os.ftruncate(self._metrics.fileno(), self._whole)
            while self._unwritten:
                line = self._unwritten[0]
                if self._metrics.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._whole += len(line)
                del self._unwritten[0]
            self.failure = None
        except OSError as error:
            self.failure = OSError(error.errno, error.strerror, str(self._path))


def keep_readable(run_dir: Path, recorded: RecordedMetrics | None, warn: Callable[[str], None]) -> None:
    """Replace a damaged metrics.jsonl by the records that can be read, and keep the damaged one beside it.

    ``recorded`` is what the checkpoint to resume from says of the file; None when it is of another run directory.
    Only how the run is shown and which checkpoint counts as the best depend on this file, so damage does not stop a
    resume.

    Raises:
        Unreadable: it cannot be read now, so nothing is known of damage.
    """
    path = run_dir / METRICS
    if not path.exists():
        if recorded is not None and recorded.size > 0:
            warn(f"{path} is missing, so the metrics of earlier steps are lost; training is not affected")
        return
    records, reason = [], None
    for number, line in enumerate(lines(path), 1):
        try:
            records.append(record_of(line))
        except Unacceptable as error:
            reason = reason or f"line {number}: {error}"
    if recorded is not None and reason is None and not _begins_with(path, recorded):
        reason = f"its first {recorded.size} bytes are not those that the checkpoint was made with"
    if reason is None:
        return
    aside = next(
        candidate
        for number in range(10**6)
        if not os.path.lexists(candidate := path.with_name(f"{METRICS}.damaged.{number}"))
    )
    path.rename(aside)
    replace(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    warn(
        f"{path} is damaged: {reason}; {len(records)} records that can be read were kept, the damaged file is "
        f"{aside.name}; training is not affected"
    )


def _begins_with(path: Path, recorded: RecordedMetrics) -> bool:
    with readable(path), open_regular(path) as file:
        content = file.read(min(recorded.size, path.stat().st_size))
    return len(content) == recorded.size and hashlib.sha256(content).hexdigest() == recorded.sha256


def _truncate_metrics(path: Path, step: int) -> None:
    if path.exists():
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        replace(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
