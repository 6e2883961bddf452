"""Continuing a run from a checkpoint: what it comes from, what it puts away, and whether anything is left to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Manifest, RecordedMetrics, Start
from trainer.checkpoint.verification import Damage, verify
from trainer.config.override import Change
from trainer.errors import NoValidCheckpoint
from trainer.fingerprint import versions
from trainer.monitoring.terminal import Terminal
from trainer.run.warm_start import WarmStart
from trainer.run_directory.metrics import read_validations
from trainer.storage import holding
from trainer.storage.host import host_name


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint a run continues from, the newer ones that are damaged, and what is asked to be different."""

    path: Path
    manifest: Manifest
    damaged: Sequence[Damage]
    changes: Sequence[Change]
    allow: Sequence[str]
    other_plugins: Sequence[str]  # versions that are accepted to be others

    def metrics(self, checkpoints: Path) -> RecordedMetrics | None:
        """What the checkpoint says of metrics.jsonl in its run directory; None when it was taken from elsewhere."""
        return self.manifest.metrics if self.path.parent.absolute() == checkpoints.absolute() else None


def make_way(checkpoints: Path, origin: Origin, terminal: Terminal) -> None:
    """Put away what the run that continues from ``origin`` has no use for. Nothing is deleted."""
    step = origin.manifest.step
    damaged = [holding.path_of(damage.path) for damage in origin.damaged]
    there = [path for path in directory.committed(checkpoints) if path not in damaged]
    later = [path for path in there if directory.step_of(path) > step]
    here = checkpoints / directory.name_of(step)
    if here.is_dir() and here.resolve() != origin.path.resolve() and not _is_same(here, origin.manifest):
        later.insert(0, here)  # another state of the same step
    for path, damage in zip(damaged, origin.damaged, strict=True):
        place = directory.quarantine(path, damage.reason)
        terminal.line(f"moved the damaged {path.name} to {place}")
    directory.set_aside(later)
    for path in later:
        terminal.line(f"set aside {path.name}, which this run will make again")


def _is_same(here: Path, other: Manifest) -> bool:
    """Whether a checkpoint of this run holds what one from elsewhere holds."""
    try:
        return verify(here, "full").files == other.files
    except NoValidCheckpoint:
        return False


def is_complete(run_dir: Path, origin: Origin, total: int) -> bool:
    """Whether nothing is left to do. With changes other than of free keys the answer is a judgement, not "complete"."""
    step, validation = origin.manifest.step, origin.manifest.validation
    evaluated = validation is not None or step in read_validations(run_dir) or step == 0
    return step >= total and evaluated and all(change.policy == "free" for change in origin.changes)


def lineage_of(step: int, origin: Origin | None, accepted: Sequence[str], warm: WarmStart | None) -> tuple[Start, ...]:
    came_from = origin.path if origin is not None else warm.contents.path if warm is not None else None
    start = Start(
        started=versions.moment(),
        host=host_name(),
        from_step=step,
        checkpoint=None if came_from is None else str(came_from),
        changes=tuple(accepted),
    )
    return (start,) if origin is None else (*origin.manifest.lineage, start)
