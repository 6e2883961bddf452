"""``track``: send to trackers of experiments what a run has committed and they do not have."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from trainer.commands.arguments import refuse_rest, take_choice, take_list, take_text
from trainer.commands.wrapping import wrapped
from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.errors import NotSent, UsageError, warn
from trainer.monitoring.trackers import registry, telling
from trainer.run_directory import which_checkpoint
from trainer.sweeps import plan

HELP = """Send to trackers what a run has committed and they do not have: after a server was down, or for a run without.

  python -m trainer track run_dir=DIR [trackers=[mlflow,…]] [follow=true]

Without trackers=[…], those of the run's configuration are told (tracking.trackers). Nothing is sent twice. The server
is the one that the tracker's own variables name, such as MLFLOW_TRACKING_URI or WANDB_MODE. follow=true goes on until
standard input ends: a run starts it so, for each of its trackers. Exit status 0, or 1 when a tracker cannot be told."""
ABOVE = 4  # directories between a run and its sweep at most


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments(arguments)
    run_dir = Path(take_text(values, "run_dir", "track"))
    given = "trackers" in values
    names = take_list(values, "trackers")
    follow = take_choice(values, "follow", (False, True))
    refuse_rest(values, ("run_dir", "trackers", "follow"), "track")
    which_checkpoint.refuse_missing(run_dir)
    if not given:
        names = list(stored.read(run_dir / stored.FILE_NAME).tracking.trackers)
    if not names:
        raise UsageError(f"{run_dir} has no trackers (tracking.trackers=[]); name them: trackers=[mlflow]")
    registry.refuse_unusable(names, "trackers" if given else "tracking.trackers")
    said = _apart()
    if not follow:
        return _once(run_dir, names, said)
    if len(names) > 1:
        raise UsageError(f"follow=true tells one tracker, not {', '.join(names)}")
    return telling.follow(run_dir, names[0], _sweep(run_dir), sys.stdin.buffer, lambda text: print(text, file=said))


def _once(run_dir: Path, names: Sequence[str], said: TextIO) -> int:
    failed = []
    for name in names:
        try:
            print(telling.tell(run_dir, name, _sweep(run_dir)), file=said)
        except NotSent as error:
            warn(str(error))
            failed.append(name)
    if failed:
        raise NotSent(f"{', '.join(failed)} cannot be told now; run the same command again")
    return 0


def _apart() -> TextIO:
    """Standard output for the run alone; what libraries print goes where their errors go."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def _sweep(run_dir: Path) -> str | None:
    """The name of the sweep that the run is a trial of."""
    above = list(Path(os.path.abspath(run_dir)).parents)[:ABOVE]
    return next((place.name for place in above if (place / plan.FILE_NAME).is_file()), None)
