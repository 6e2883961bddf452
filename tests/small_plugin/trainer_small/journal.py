"""A tracker that writes down what it is told, in the directory ``journal`` below the working directory.

It can be disturbed: while there is a file ``down`` beside its journals, whatever it is told fails; while there is one
``blocked``, it never returns.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.plugins import How, Point, TrackedRun

PLACE = Path("journal")


class Journal:
    def open(self, run: TrackedRun) -> str:
        self._key = run.key
        self._tell("open", {"name": run.name, "parent": run.parent})
        return f"journal-{run.key}"

    def send(self, points: Sequence[Point]) -> bool:
        for point in points:
            values = {name: None if math.isnan(value) else value for name, value in point.values.items()}
            self._tell("point", {"step": point.step, "time": point.time, "values": values})
        return True

    def upload(self, checkpoint: Path, model: str | None) -> None:
        self._tell("upload", {"checkpoint": checkpoint.name, "model": model})

    def close(self, how: How | None) -> None:
        self._tell("close", {"how": how})

    def _tell(self, what: str, said: dict[str, object]) -> None:
        while (PLACE / "blocked").exists():
            time.sleep(0.05)
        if (PLACE / "down").exists():
            raise ConnectionError("the journal is closed")
        with (PLACE / f"{self._key}.jsonl").open("a") as file:
            file.write(json.dumps({"what": what, **said}) + "\n")
