"""The records of a run in ``metrics.jsonl``: one JSON object per line. Reading them does not need TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config.metrics import OF_CLASSES, counts_by, rank
from trainer.run_directory.layout import METRICS
from trainer.storage.documents import nan_for_null, parse_json, shown, to_json
from trainer.storage.guarded import open_regular
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable

TRAIN, VALIDATION = "train", "val"
VALIDATION_METRICS = ("loss", "accuracy", "skipped")
LINE_LIMIT = 64 << 10  # bytes; a record has about 300
STEP_LIMIT = 2**63

BEGINNING = re.compile(rb'\{"step": (\d{1,18}), "split": "(train|val)", "')  # of a line as ``Record`` writes it
END_READ = 1 << 20  # bytes at the end of the file, in which the last records are searched


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl. ``scalars`` also go to TensorBoard; ``facts`` do not. A scalar that is not finite is
    null in the file.
    """

    step: int
    split: str
    scalars: dict[str, float]
    facts: dict[str, Any]

    def line(self) -> str:
        return to_json({"step": self.step, "split": self.split, **self.scalars, **self.facts}) + "\n"


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl, up to a line that a crash left incomplete.

    Lines that are not records are left out. ``trainer.run_directory.history.keep_readable`` reports them.
    """
    for line in lines(path):
        try:
            yield record_of(line)
        except Unacceptable:
            continue


def lines(path: Path, begin: int = 0) -> Iterator[bytes]:
    """The complete lines of the file from byte ``begin`` on. A line that is too long for a record comes in parts.

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
    """The record in one line: a step, a split and plain values. A validation has all of its metrics; one that is not
    finite is null.

    Raises:
        Unacceptable: the line is not such a record.
    """
    record = parse_json(line.decode("utf-8", errors="replace"))
    if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
        raise Unacceptable(f"{shown(record)} is not a record")
    step, split = record["step"], record["split"]
    needed = VALIDATION_METRICS if split == VALIDATION else ()
    if type(step) is not int or not 0 <= step < STEP_LIMIT or split not in (TRAIN, VALIDATION):
        raise Unacceptable(f"it has step {shown(step)} and split {shown(split)}")
    if any(isinstance(value, dict | list) for value in record.values()):
        raise Unacceptable("it has a value that is a list or an object")
    if any(name not in record or type(record[name]) not in (int, float, type(None)) for name in needed):
        raise Unacceptable(f"it lacks {' or '.join(needed)}")
    odd = next((name for name in OF_CLASSES if type(record.get(name)) not in (int, float, type(None))), None)
    if odd is not None:
        raise Unacceptable(f"its {odd} is {shown(record[odd])}")
    return record


def step_in(line: bytes) -> int | None:
    """The step of a line; None when it is not a record. If a line begins as ours do, the rest is not parsed, because a
    history may have a million lines.
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


def read_validations(run_dir: Path, *, noted: bool = False) -> dict[int, dict[str, float]]:
    """Step → validation metrics, from metrics.jsonl; empty when the file does not exist. ``noted``: only those that the
    state knows of, which are all but those made because a run ended there.
    """
    path = run_dir / METRICS
    return validations_in(lines(path) if path.exists() else (), noted=noted)


def validations_in(text: Iterable[bytes], *, noted: bool = False) -> dict[int, dict[str, float]]:
    """Step → validation metrics, from the lines that are validations; NaN for null. Only these lines are parsed."""
    found = {}
    for line in text:
        if b'val"' not in line and b"\\" not in line:  # JSON has no other way to write it
            continue
        try:
            record = record_of(line)
        except Unacceptable:
            continue
        if record["split"] == VALIDATION and not (noted and record.get("closing")):
            names = (*VALIDATION_METRICS, *(name for name in OF_CLASSES if name in record))
            found[record["step"]] = nan_for_null({name: record[name] for name in names})
    return found


def last_training(run_dir: Path) -> dict[str, Any] | None:
    """The last training record near the end of metrics.jsonl; None when there is none."""
    path = run_dir / METRICS
    begin = max(0, os.stat(path).st_size - END_READ)
    found = None
    for line in lines(path, begin):
        try:
            record = record_of(line)
        except Unacceptable:
            continue  # the first line may be the end of a record
        found = record if record["split"] == TRAIN else found
    return found


def best_step(validations: Mapping[int, Mapping[str, float]], metric: str) -> int | None:
    """The step with the best validation by ``metric``; the earliest among equals. None when no validation counts."""
    counted = [step for step, values in validations.items() if counts_by(values, metric)]
    return min(counted, key=lambda step: (rank(validations[step][metric], metric), step), default=None)
