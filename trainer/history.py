"""The history of a run, metrics.jsonl and TensorBoard events: one line of time, whatever restarts there were.

A resume drops what was recorded after the step it continues from, because those steps will be made again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from trainer.checkpoint.directory import sync
from trainer.run_directory import METRICS, TENSORBOARD

TRAIN, VALIDATION = "train", "val"


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
    """Appends records to a run directory. ``step`` is where the run continues: later records are dropped first."""

    def __init__(self, run_dir: Path, step: int) -> None:
        self._path = run_dir / METRICS
        _truncate_metrics(self._path, step)
        for split in (TRAIN, VALIDATION):
            _truncate_events(run_dir / TENSORBOARD / split, step)
        self._metrics = self._path.open("a", encoding="utf-8")
        self.validations = read_validations(run_dir)
        self._writers = {
            split: tf.summary.create_file_writer(str(run_dir / TENSORBOARD / split)) for split in (TRAIN, VALIDATION)
        }

    def add(self, record: Record) -> None:
        if record.split == VALIDATION:
            self.validations[record.step] = record.scalars
        self._metrics.write(record.line())
        self._metrics.flush()
        with self._writers[record.split].as_default(step=record.step):
            for name, value in record.scalars.items():
                tf.summary.scalar(name, value)

    def note(self, step: int, text: str) -> None:
        """Show a text at a step in TensorBoard."""
        with self._writers[TRAIN].as_default(step=step):
            tf.summary.text("changes on resume", text)

    def sync(self) -> None:
        """Bring everything to disk; called before a checkpoint refers to it."""
        for writer in self._writers.values():
            writer.flush()
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._metrics.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl; ends at a line that a crash left incomplete."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def read_validations(run_dir: Path) -> dict[int, dict[str, float]]:
    """Step → validation metrics, from metrics.jsonl; empty when there is none."""
    path = run_dir / METRICS
    records = read_metrics(path) if path.exists() else iter(())
    return {
        record["step"]: {"loss": record["loss"], "accuracy": record["accuracy"]}
        for record in records
        if record["split"] == VALIDATION
    }


def _truncate_metrics(path: Path, step: int) -> None:
    if path.exists():
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        _replace(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def _truncate_events(directory: Path, step: int) -> None:
    """Rewrite the event files without events later than ``step``.

    TensorBoard would otherwise draw both the abandoned and the new values of the same steps.
    """
    for path in sorted(directory.glob("events.out.tfevents.*")):
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
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    while True:
        try:
            yield Event.FromString(next(records))
        except (StopIteration, tf.errors.DataLossError):
            return  # a process that was killed leaves a record without its end


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)
