"""``train.fast_dev_run``: a new run is tried from its first step to its end, and nothing of it is kept.

Everything is that of the whole run (data, network, schedule, what is judged at the start), but its length.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from trainer.config.complete import with_leaves
from trainer.config.schema import Config
from trainer.data.opened import Sources
from trainer.data.sources.source import open_source
from trainer.errors import Stopped, UsageError

T = TypeVar("T")

KEY = "train.fast_dev_run"
STEPS = 2
BATCHES = 2  # of validation


def shortened(config: Config, data: Sources, total_steps: int) -> tuple[Config, Sources, int]:
    """Configuration, data and length of a trial: one validation and one checkpoint, both at its end. Nothing is
    mirrored, and no tracker is told.
    """
    cadence = {"evaluation.every_steps": STEPS, "checkpoint.every_steps": STEPS}
    config = with_leaves(config, {**cadence, "checkpoint.mirror": None, "tracking.trackers": ()})
    most = BATCHES * config.evaluation.batch_size
    if data.validation.count > most:
        config = with_leaves(config, {"data.validation_examples": most})
        data = dataclasses.replace(data, validation=open_source(config.data, "validation"))
    return config, data, min(STEPS, total_steps)


def tried(run_dir: Path, run: Callable[[Path], T]) -> T:
    """The result of ``run`` in a temporary directory, which is removed.

    Raises:
        UsageError: there is no place for temporary files.
        Stopped: a signal ended it.
    """
    print(f"{KEY}: {STEPS} steps, a validation and a checkpoint in a temporary directory; {run_dir} is not touched")
    try:
        place = tempfile.TemporaryDirectory(prefix="trainer-fast-dev-run-")
    except OSError as error:
        raise UsageError(f"{KEY} needs a place for temporary files: set TMPDIR to a directory ({error})") from error
    with place as directory:
        try:
            return run(Path(directory) / "run")
        except Stopped as error:
            raise Stopped(f"a signal ended {KEY}; nothing was kept", error.exit_status) from error


def refuse_resume(values: Mapping[str, object]) -> None:
    """
    Raises:
        UsageError: a resume is asked to be a trial.
    """
    if values.get(KEY):
        raise UsageError(
            f"{KEY}=true tries a new run and keeps nothing, and a resume continues one; "
            "to try a resume, continue a copy of the run directory with train.steps=…"
        )
