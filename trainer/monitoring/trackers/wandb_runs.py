"""Runs in Weights & Biases. Where they go is up to W&B's own variables (``WANDB_MODE``, ``WANDB_PROJECT``, …).

``wandb.log`` returns before anything is kept, so only the end of a session says so: ``send`` answers that nothing is.
A session that was killed is sent again whole.

- Offline, a session is a directory of its own, named for the first record in it. Sessions that begin behind what is
  kept were killed: they are deleted, and written again. W&B's own count of steps begins at 0 in each session, so it
  is always given: it is the number of the record, and ``step`` is a value of its own, which W&B draws over.
- Online, the server says how many rows it has (``starting_step``), and those are not sent again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.config.contracts import How, Point, TrackedRun
from trainer.storage.durable import make_directory

SESSION = re.compile(r"from-(\d{10})")
FAILED = 1  # exit code that W&B shows a run as failed for


class WandB:
    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._told: TrackedRun | None = None
        self._run: Any = None

    def open(self, run: TrackedRun) -> str:
        make_directory(run.directory)
        for place in run.directory.iterdir():
            session = SESSION.fullmatch(place.name)
            if session is not None and int(session[1]) >= run.sent:
                shutil.rmtree(place)
        self._told = run
        return run.key

    def send(self, points: Sequence[Point]) -> bool:
        if not points:
            return False
        run = self._session(f"from-{points[0].record:010d}")
        for point in points:
            if point.record >= run.starting_step:
                run.log({"step": point.step, **point.values}, step=point.record)
        return False

    def upload(self, checkpoint: Path, model: str | None) -> None:
        told = self._known()
        run = self._session(f"after-{told.sent:010d}-{checkpoint.name}")
        artifact = self._wandb.Artifact(f"run-{told.key}-checkpoint", type="model", metadata={"name": checkpoint.name})
        artifact.add_dir(str(checkpoint))
        run.log_artifact(artifact)  # the end of the session waits for it

    def close(self, how: How | None) -> None:
        if self._run is not None:
            self._run.finish(exit_code=FAILED if how == "failed" else 0)
            self._run = None

    def _known(self) -> TrackedRun:
        assert self._told is not None, "open comes first"
        return self._told

    def _session(self, name: str) -> Any:
        """The session of this process; made when there is something for it."""
        if self._run is not None:
            return self._run
        told = self._known()
        place = told.directory / name
        make_directory(place)
        settings = self._wandb.Settings(
            console="off", x_disable_stats=True, disable_git=True, disable_code=True, save_code=False, silent=True
        )
        self._run = self._wandb.init(
            id=told.key,
            resume="allow",
            dir=str(place),
            project=None if "WANDB_PROJECT" in os.environ else told.experiment,
            name=told.name,
            group=told.group,
            config={**told.params, **told.tags, **({} if told.parent is None else {"trainer.parent": told.parent})},
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self._run
