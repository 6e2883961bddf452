"""Runs that only a tracker looks at, made without training; a tracker in memory; and what a history has for one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from composing import compose

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, RecordedMetrics, Start
from trainer.config import stored
from trainer.config.contracts import How, Point, TrackedRun

Series = list[tuple[int, str, float]]


def wanted(metrics: Path) -> Series:
    """Every number of a metrics.jsonl: step, name and value, with 0.5 for one that is not finite."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return sorted(
        (record["step"], f"{record['split']}/{name}", 0.5 if value is None else float(value))
        for record in records
        for name, value in record.items()
        if name != "step" and (value is None or type(value) in (int, float))
    )


@dataclasses.dataclass
class TrackedDirectory:
    """A run directory with records and checkpoints, which have nothing in them but what a tracker is told."""

    path: Path
    lineage: tuple[Start, ...] = ()

    def record(self, step: int, split: str = "train", *, closing: bool = False, loss: float | None = None) -> None:
        self.path.mkdir(exist_ok=True)
        value = 1.0 / (step + 3) if loss is None else loss
        facts = {"step": step, "split": split, "loss": None if math.isnan(value) else value, "accuracy": step / 100}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({**facts, "skipped": 0, "ledger": "0a", "closing": closing}) + "\n")

    def commit(self, step: int) -> None:
        place, text = self.path / "checkpoints" / f"step-{step:08d}", (self.path / "metrics.jsonl").read_bytes()
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(stored.to_text(compose("experiment=digits", f"seed={step}")))
        told = RecordedMetrics(len(text), hashlib.sha256(text).hexdigest())
        moment = f"2026-11-30T10:{step % 60:02d}:00+00:00"
        facts = (step, step * 8, 0.0, "0" * 16, None, ("a", "b"), {"config.model": "1" * 64}, {"keras": "3"}, None)
        manifest = Manifest(manifests.FORMAT_VERSION, *facts, moment, self.lineage, told, {}, {})
        manifests.write(manifest, place / manifests.FILE_NAME)

    def cut(self, step: int) -> None:
        """Go back to an earlier checkpoint, as a resume does."""
        lines = (self.path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (self.path / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
        for place in sorted((self.path / "checkpoints").glob("step-*")):
            if int(place.name.removeprefix("step-")) > step:
                place.rename(place.with_name(f"set-aside-{place.name}"))


@dataclasses.dataclass
class Server:
    """What a tracker keeps: of each run, the points that differ in anything, and what else it was told."""

    runs: dict[str, TrackedRun] = dataclasses.field(default_factory=dict)
    points: dict[str, set[tuple[int, int, str, float, int]]] = dataclasses.field(default_factory=dict)
    ended: dict[str, How | None] = dataclasses.field(default_factory=dict)
    uploads: list[str] = dataclasses.field(default_factory=list)

    def series(self, key: str) -> Series:
        return sorted((step, name, value) for _, step, name, value, _ in self.points[key])


class MemoryTracker:
    """Tells ``server``. One that ``buffers`` keeps what it is sent when it is closed, and no sooner."""

    def __init__(self, server: Server, buffers: bool, before: Callable[[str], None]) -> None:
        self._server, self._buffers, self._before = server, buffers, before
        self._session: set[tuple[int, int, str, float, int]] = set()
        self._key = ""

    def open(self, run: TrackedRun) -> str:
        self._before("open")
        self._key = run.key
        self._server.runs[run.key] = run
        kept = self._server.points.setdefault(run.key, set())
        if self._buffers:  # a session that was closed, but not noted, is written again
            self._server.points[run.key] = {point for point in kept if point[0] < run.sent}
        self._before("opened")
        return f"id-{run.key}"

    def send(self, points: Sequence[Point]) -> bool:
        kept = self._session if self._buffers else self._server.points[self._key]
        for point in points:
            self._before("send")
            told = ((name, 0.5 if math.isnan(value) else value) for name, value in point.values.items())
            kept.update((point.record, point.step, name, value, point.time) for name, value in told)
        self._before("sent")
        return not self._buffers

    def upload(self, checkpoint: Path, model: str | None) -> None:
        self._server.uploads.append(checkpoint.name)

    def close(self, how: How | None) -> None:
        self._before("close")
        self._server.points[self._key] |= self._session
        self._server.ended[self._key] = how
        self._before("closed")
