"""What a tracker is told of a run beside its records: configuration, digests, lineage."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from trainer.checkpoint.manifest import CHECKPOINTS, Manifest
from trainer.command_line import literal
from trainer.config import stored
from trainer.config.contracts import TrackedRun
from trainer.config.parse import leaves
from trainer.monitoring.trackers import noted
from trainer.monitoring.trackers.committed import Committed
from trainer.monitoring.trackers.noted import Noted
from trainer.run_directory.layout import TRACKING
from trainer.storage.documents import to_json


def run_of(run_dir: Path, tracker: str, committed: Committed, note: Noted, sweep: str | None) -> TrackedRun:
    """
    Raises:
        NoValidCheckpoint: the checkpoint has no readable configuration.
    """
    config = stored.read(committed.checkpoint / stored.FILE_NAME)
    place = Path(os.path.abspath(run_dir))
    return TrackedRun(
        key=note.key,
        id=note.id,
        sent=note.sent.records,
        name=place.name if sweep is None else f"{sweep}/{place.name}",
        experiment=config.experiment,
        params={key: literal(value, str) for key, value, _ in leaves(config)},
        tags=_tags(place, committed.manifest) | ({} if sweep is None else {"trainer.sweep": sweep}),
        group=sweep,
        parent=note.parent,
        directory=place / TRACKING / tracker,
    )


def _tags(place: Path, manifest: Manifest) -> dict[str, str]:
    lineage = [dataclasses.asdict(start) for start in manifest.lineage]
    versions = {f"trainer.version.{name}": text for name, text in manifest.versions.items()}
    return {
        "trainer.run_dir": str(place),
        "trainer.git_commit": manifest.git_commit or "none",
        "trainer.lineage": to_json(lineage),
        **{f"trainer.digest.{kind}": digest for kind, digest in manifest.fingerprints.items()},
        **{name.replace(" ", "_"): text for name, text in versions.items()},
    }


def branched_off(run_dir: Path, tracker: str, manifest: Manifest) -> str | None:
    """The tracker's run of the run directory whose checkpoint this run began from; None where it began by itself."""
    for start in reversed(manifest.lineage):
        if start.checkpoint is None or Path(start.checkpoint).parent.name != CHECKPOINTS:
            continue
        other = Path(start.checkpoint).parent.parent
        if os.path.abspath(other) != os.path.abspath(run_dir):
            return noted.parent_in(other, tracker)
    return None
