"""The contents of a run directory for a report. The reader changes nothing in it, and trusts none of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.checkpoint.retention import described, ranked
from trainer.config import stored
from trainer.config.schema import Config
from trainer.run_directory import validation_predictions, wall_time, which_checkpoint
from trainer.run_directory.layout import CHECKPOINTS, LOG, METRICS
from trainer.run_directory.metrics import best_step, read_metrics, read_validations
from trainer.run_directory.validation_predictions import Predictions
from trainer.run_directory.wall_time import Account
from trainer.storage.guarded import open_regular
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import Unreadable

POINTS = 250  # of a curve at least; a chart is not many more pixels wide, and the page stays small
SAID = ("network", "data")  # lines of the log
LOG_READ = 64 << 10  # bytes


@dataclasses.dataclass(frozen=True)
class Contents:
    """``records`` are from metrics.jsonl, at most ``2 × POINTS`` for each split: evenly spaced ones, and the last.
    ``checkpoints`` are those with a readable manifest, oldest first, and ``best`` is the best of them. ``label`` names
    the run in a comparison. ``said`` is what the log says of ``network`` and ``data``.
    """

    label: str
    run_dir: Path
    config: Config
    config_text: str
    records: Sequence[Mapping[str, Any]]
    validations: Mapping[int, dict[str, float]]
    best_step: int | None
    checkpoints: Sequence[tuple[Path, Manifest]]
    best: Path | None
    predictions: Sequence[Predictions]
    wall_time: Account | None
    said: Mapping[str, str]

    @property
    def newest(self) -> Manifest | None:
        return self.checkpoints[-1][1] if self.checkpoints else None

    @property
    def class_names(self) -> Sequence[str]:
        return () if self.newest is None else self.newest.class_names

    @property
    def restarts(self) -> Sequence[int]:
        """The steps at which a process continued the run."""
        starts = () if self.newest is None else self.newest.lineage[1:]
        return [start.from_step for start in starts]


def read(run_dir: Path, label: str, warn: Callable[[str], None]) -> Contents:
    """Read everything that a report shows about a run, which may be training meanwhile. ``warn`` gets a text for each
    thing that is left out.

    Raises:
        UsageError: the directory does not exist.
        NoValidCheckpoint: it holds no configuration of this version.
    """
    which_checkpoint.refuse_missing(run_dir)
    config = stored.read(run_dir / stored.FILE_NAME)
    checkpoints = _checkpoints(run_dir / CHECKPOINTS, warn)
    validations = _validations(run_dir, warn)
    metric = config.checkpoint.best_metric
    best = ranked(checkpoints, validations, metric)
    return Contents(
        label=label,
        run_dir=run_dir,
        config=config,
        config_text=stored.to_text(config),
        records=_records(run_dir, warn),
        validations=validations,
        best_step=best_step(validations, metric),
        checkpoints=checkpoints,
        best=best[0] if best else None,
        predictions=_predictions(run_dir, warn),
        wall_time=wall_time.read(run_dir),
        said=_said(run_dir),
    )


def _said(run_dir: Path) -> dict[str, str]:
    """What a run says of its network and its data when it starts; of the beginning of its log, where that is."""
    try:
        with open_regular(run_dir / LOG) as file:
            text = file.read(LOG_READ).decode("utf-8", errors="replace")
    except (OSError, Unacceptable):
        return {}
    return {name: found[1] for name in SAID if (found := re.search(rf"^\S+  {name} +(.*)$", text, re.MULTILINE))}


def _checkpoints(parent: Path, warn: Callable[[str], None]) -> list[tuple[Path, Manifest]]:
    there = [path for path in directory.committed(parent) if not path.is_symlink()]
    found = described(parent, warn, (ManifestError, Unreadable))
    return [(path, manifest) for path, manifest in found if path in there]


def _validations(run_dir: Path, warn: Callable[[str], None]) -> Mapping[int, dict[str, float]]:
    try:
        return read_validations(run_dir)
    except (Unacceptable, OSError, Unreadable) as error:
        warn(f"the validations cannot be read: {error}")
        return {}


def _records(run_dir: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    path = run_dir / METRICS
    by_split: dict[str, _Thinned] = {}
    try:
        for record in read_metrics(path) if path.exists() else ():
            by_split.setdefault(record["split"], _Thinned()).add(record)
    except (Unacceptable, OSError, Unreadable) as error:
        warn(f"the curves cannot be read: {error}")
    return [record for thinned in by_split.values() for record in thinned.records()]


class _Thinned:
    """At most ``2 × POINTS`` of any number of records: evenly spaced ones, and the last."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Any]] = []
        self._stride, self._seen = 1, 0
        self._last: dict[str, Any] = {}

    def add(self, record: dict[str, Any]) -> None:
        if self._seen % self._stride == 0:
            self._kept.append(record)
        self._seen += 1
        self._last = record
        if len(self._kept) >= 2 * POINTS:
            self._kept = self._kept[::2]
            self._stride *= 2

    def records(self) -> list[dict[str, Any]]:
        return self._kept if self._kept[-1] is self._last else [*self._kept, self._last]


def _predictions(run_dir: Path, warn: Callable[[str], None]) -> list[Predictions]:
    found = []
    for path in validation_predictions.stored(run_dir).values():
        try:
            found.append(validation_predictions.read(path))
        except (Unacceptable, OSError, Unreadable) as error:
            warn(f"predictions cannot be read: {error}")
    return found
