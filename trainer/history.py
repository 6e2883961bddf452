"""The history of a run, metrics.jsonl and TensorBoard events: one line of time, whatever restarts there were.

A resume drops what was recorded after the step it continues from, because those steps will be made again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

from trainer.checkpoint.files import replace, sync
from trainer.checkpoint.manifest import RecordedMetrics
from trainer.checkpoint.tensors import os_error
from trainer.lease import Fence
from trainer.run_directory import LOCK, METRICS, TENSORBOARD
from trainer.untrusted.documents import parse_json, shown
from trainer.untrusted.errors import Unacceptable
from trainer.untrusted.files import open_regular

TRAIN, VALIDATION = "train", "val"
VALIDATION_METRICS = ("loss", "accuracy", "skipped")
LINE_LIMIT = 64 << 10  # bytes; a record has about 300
STEP_LIMIT = 2**63
# uint64 length, uint32 CRC, data, uint32 CRC: tensorflow/core/lib/io/record_writer.h
EVENT_HEADER = struct.Struct("<QI")
EVENT_FOOTER_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl. ``scalars`` also go to TensorBoard; ``facts`` do not."""

    step: int
    split: str
    scalars: dict[str, float]
    facts: dict[str, Any]

    def line(self) -> str:
        return json.dumps({"step": self.step, "split": self.split, **self.scalars, **self.facts}) + "\n"


class History:
    """Appends records to a run directory. ``step`` is where the run continues: later records are dropped first.

    A disk that refuses a record does not end training. The record stays in memory and is written, in its place, when
    the disk takes it again; ``sync`` fails until then, so no checkpoint refers to a history that is not there.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._path = run_dir / METRICS
        _truncate_metrics(self._path, step)
        for split in (TRAIN, VALIDATION):
            _truncate_events(run_dir / TENSORBOARD / split, step)
        self._size, self._sha256 = 0, hashlib.sha256()  # of every record added, whether it is written already or not
        if self._path.exists():
            self._count(self._path.read_bytes())
        self._metrics = self._path.open("ab", buffering=0)
        sync(run_dir)  # so that a file that was made here is found after a power failure
        self._whole = self._path.stat().st_size  # bytes, up to the end of the last whole line
        self._unwritten: list[bytes] = []
        self.failure: OSError | None = None  # of the last attempt to write
        self.validations = read_validations(run_dir)
        self._events = {split: Events(run_dir / TENSORBOARD / split) for split in (TRAIN, VALIDATION)}
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
            self._events[record.split].scalars(record.step, record.scalars)

    def _count(self, content: bytes) -> None:
        self._size += len(content)
        self._sha256.update(content)

    @property
    def recorded(self) -> RecordedMetrics:
        """What metrics.jsonl holds after the next ``sync``, for the manifest of a checkpoint."""
        return RecordedMetrics(self._size, self._sha256.hexdigest())

    def note(self, step: int, text: str) -> None:
        """Show a text at a step in TensorBoard."""
        self._events[TRAIN].text(step, "changes on resume", text)

    def sync(self) -> None:
        """Bring everything to disk; called before a checkpoint refers to it.

        Raises:
            RunDirectoryInUse: as ``add``.
            OSError: metrics.jsonl cannot be written. TensorBoard's files are a view of it and may lag behind.
        """
        with self._lock:
            self._write()
            for events in self._events.values():
                events.flush()
        if self.failure is not None:
            raise self.failure
        sync(self._path)  # by its name: a run directory that was deleted meanwhile is noticed

    def close(self) -> None:
        for events in self._events.values():
            events.flush()
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


class Events:
    """TensorBoard's event files of one split. What the disk refuses is lost to TensorBoard, and to nothing else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._open() as writer, writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def text(self, step: int, title: str, text: str) -> None:
        with self._open() as writer, writer.as_default(step=step):
            tf.summary.text(title, text)

    def flush(self) -> None:
        with self._open() as writer:
            writer.flush()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The writer. After an error of the disk the next use begins a new file: nothing can be read behind half an
        event.
        """
        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._directory))
            yield self._writer
        except tf.errors.OpError as error:
            os_error(error, self._directory)  # raises what is no error of the disk
            self._writer = None


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl; ends at a line that a crash left incomplete.

    Lines that are no records are left out; ``keep_readable`` is what reports them.
    """
    for line in _lines(path):
        try:
            yield _record(line)
        except Unacceptable:
            continue


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of the file, and the parts of one that is too long to be a record."""
    with open_regular(path) as file:
        while line := file.readline(LINE_LIMIT):
            if not line.endswith(b"\n") and len(line) < LINE_LIMIT:
                return
            yield line


def _record(line: bytes) -> dict[str, Any]:
    """One line as a record with a step, a split and plain values; a validation has all of its metrics."""
    record = parse_json(line.decode("utf-8", errors="replace"))
    if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
        raise Unacceptable(f"{shown(record)} is not a record")
    step, split = record["step"], record["split"]
    needed = VALIDATION_METRICS if split == VALIDATION else ()
    if type(step) is not int or not 0 <= step < STEP_LIMIT or split not in (TRAIN, VALIDATION):
        raise Unacceptable(f"it is of step {shown(step)} and split {shown(split)}")
    if any(isinstance(value, dict | list) for value in record.values()):
        raise Unacceptable("it has a value that is no number or text")
    if any(name not in record or type(record[name]) not in (int, float) for name in needed):
        raise Unacceptable(f"it lacks {' or '.join(needed)}")
    return record


def keep_readable(run_dir: Path, recorded: RecordedMetrics | None, warn: Callable[[str], None]) -> None:
    """Replace a damaged metrics.jsonl by the records that can be read, and keep the damaged one beside it.

    ``recorded`` is what the checkpoint to resume from says of the file; None when it is of another run directory.
    Only how the run is shown and which checkpoint counts as the best depend on this file, so damage does not stop a
    resume.
    """
    path = run_dir / METRICS
    if not path.exists():
        if recorded is not None and recorded.size > 0:
            warn(f"{path} is missing, so the metrics of earlier steps are lost; training is not affected")
        return
    records, reason = [], None
    for number, line in enumerate(_lines(path), 1):
        try:
            records.append(_record(line))
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
    with open_regular(path) as file:
        content = file.read(min(recorded.size, path.stat().st_size))
    return len(content) == recorded.size and hashlib.sha256(content).hexdigest() == recorded.sha256


def read_validations(run_dir: Path) -> dict[int, dict[str, float]]:
    """Step → validation metrics, from metrics.jsonl; empty when there is none."""
    path = run_dir / METRICS
    records = read_metrics(path) if path.exists() else iter(())
    return {
        record["step"]: {name: record[name] for name in VALIDATION_METRICS}
        for record in records
        if record["split"] == VALIDATION
    }


def _truncate_metrics(path: Path, step: int) -> None:
    if path.exists():
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        replace(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def _truncate_events(directory: Path, step: int) -> None:
    """Rewrite the event files without events later than ``step``.

    TensorBoard would otherwise draw both the abandoned and the new values of the same steps.
    """
    for path in sorted(directory.glob("events.out.tfevents.*")):
        if path.is_symlink() or not path.is_file():
            continue  # no event file of this program; TensorFlow would follow or wait for it
        events = list(_events(path))
        kept = [event for event in events if event.step <= step]
        if len(kept) == len(events):
            continue
        temporary = path.with_name(f".{path.name}")  # TensorBoard reads every name that contains "tfevents"
        temporary = temporary.with_name(temporary.name.replace("tfevents", "rewriting"))
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for event in kept:
                writer.write(event.SerializeToString())
        sync(temporary)
        temporary.rename(path)


def _events(path: Path) -> Iterable[Event]:
    records = tf.data.TFRecordDataset(str(path)).take(_whole_events(path)).as_numpy_iterator()
    while True:
        try:
            yield Event.FromString(next(records))
        except (StopIteration, tf.errors.DataLossError, DecodeError):
            return  # a process that was killed leaves a record without its end


def _whole_events(path: Path) -> int:
    """How many records lie in the file as a whole: TensorFlow allocates whatever length the next one claims."""
    count, offset = 0, 0
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(EVENT_HEADER.size)) == EVENT_HEADER.size:
            offset += EVENT_HEADER.size + EVENT_HEADER.unpack(header)[0] + EVENT_FOOTER_BYTES
            if offset > size:
                break
            file.seek(offset)
            count += 1
    return count
