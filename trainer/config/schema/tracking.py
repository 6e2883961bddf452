"""Keys of ``tracking``: which trackers are told of a run."""

from __future__ import annotations

import dataclasses

from trainer.config.keys import key


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    # not names of the schema: a run that was told to a tracker is read where that tracker is not installed
    trackers: tuple[str, ...] = key(
        "trackers that are told what is committed: mlflow, wandb, or those of plug-ins; [] for none", "free"
    )
    final_checkpoint: bool = key("send the last checkpoint of a finished run, too, as an artefact", "free")
    register: str | None = key(
        "model in the tracker's registry of which that checkpoint becomes a version, with mlflow; null: none", "free"
    )
    wait_seconds: float = key(
        "how long the end of a finished run waits for trackers; the command track sends what is left then",
        "free",
        minimum=0.0,
    )
