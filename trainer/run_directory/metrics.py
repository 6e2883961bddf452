"""The records of a run as ``metrics.jsonl`` holds them: one JSON object a line. Reading them takes no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config.metrics import rank
from trainer.run_directory.layout import METRICS
from trainer.storage.documents import parse_json, shown
from trainer.storage.guarded import open_regular
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable

TRAIN, VALIDATION = "train", "val"
VALIDATION_METRICS = ("loss", "accuracy", "skipped")
LINE_LIMIT = 64 << 10  # bytes; a record has about 300
STEP_LIMIT = 2**63

BEGINNING = re.compile(rb'\{"step": (\d{1,18}), "split": "(train|val)", "')  # of a line as ``Record`` writes it
END_READ = 1 << 20  # bytes, in which the last records are looked for


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl. ``scalars`` also go to TensorBoard; ``facts`` do not."""

    step: int
    split: str
    scalars: dict[str, float]
    facts: dict[str, Any]

    def line(self) -> str:
        return json.dumps({"step": self.step, "split": self.split, **self.scalars, **self.facts}) + "\n"


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl; ends at a line that a crash left incomplete.

    Lines that are no records are left out; ``trainer.run_directory.history.keep_readable`` is what reports them.
    """
    for line in lines(path):
        try:
            yield record_of(line)
        except Unacceptable:
            continue


def lines(path: Path, begin: int = 0) -> Iterator[bytes]:
    """The complete lines of the file from byte ``begin`` on, and the parts of one that is too long to be a record.

    Raises:
        Unreadable: the system cannot read it now.
    """
    with readable(path), open_regular(path) as file:
        file.seek(begin)
        while line := file.readline(LINE_LIMIT):
            if not line.endswith(b"\n") and len(line) < LINE_LIMIT:
                return
            yield line


def record_of(line: bytes) -> dict[str, Any]:
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


def step_in(line: bytes) -> int | None:
    """The step of a line, None where it is no record. What the rest of a line that begins as ours holds is not looked
    at: a history may have a million of them.
    """
    match = BEGINNING.match(line)
    if match is not None:
        return int(match[1])
    try:
        step = record_of(line)["step"]
    except Unacceptable:
        return None
    assert isinstance(step, int)
    return step


def read_validations(run_dir: Path) -> dict[int, dict[str, float]]:
    """Step → validation metrics, from metrics.jsonl; empty when there is none."""
    path = run_dir / METRICS
    return validations_in(lines(path) if path.exists() else ())


def validations_in(text: Iterable[bytes]) -> dict[int, dict[str, float]]:
    """Step → validation metrics, of the lines that are a validation; only these are parsed."""
    found = {}
    for line in text:
        if b'val"' not in line and b"\\" not in line:  # JSON has no third way to write it
            continue
        try:
            record = record_of(line)
        except Unacceptable:
            continue
        if record["split"] == VALIDATION:
            found[record["step"]] = {name: record[name] for name in VALIDATION_METRICS}
    return found


def last_training(run_dir: Path) -> dict[str, Any] | None:
    """The last training record near the end of metrics.jsonl, None where there is none."""
    path = run_dir / METRICS
    begin = max(0, os.stat(path).st_size - END_READ)
    found = None
    for line in lines(path, begin):
        try:
            record = record_of(line)
        except Unacceptable:
            continue  # the first may be the end of one
        found = record if record["split"] == TRAIN else found
    return found


def best_step(validations: Mapping[int, Mapping[str, float]], metric: str) -> int | None:
    """The step with the best validation by ``metric``; of equals, the earliest."""
    return min(validations, key=lambda step: (rank(validations[step][metric], metric), step), default=None)
