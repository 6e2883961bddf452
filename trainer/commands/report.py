"""``report``: one page about a run, or about several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import refuse_rest, take_list
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.errors import UsageError, warn
from trainer.report import contents, page
from trainer.report.contents import Contents
from trainer.run_directory import which_checkpoint
from trainer.run_directory.places import refuse_output, refuse_replacing
from trainer.sweeps import plan
from trainer.sweeps.trial import newest_step, run_dir_of

FILE_NAME = "report.html"
HELP = """Write one self-contained page about a run: report.html, which needs no network and no server.

  python -m trainer report run_dir=DIR [output=PATH]
  python -m trainer report run_dir=[A,B,…] [output=PATH]
  python -m trainer report sweep_dir=DIR [output=PATH]

The page shows curves, restarts and accepted changes, the kept checkpoints with their metrics, confusions and worst
mistakes of the newest and the best validation, environment, configuration, and the command that repeats the run.
Several runs are compared: their curves in one chart, and the keys in which they differ. The page goes into DIR, or for
several runs into the current directory. Nothing is computed again, and the runs may be training meanwhile."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments(arguments)
    given = [name for name in ("run_dir", "sweep_dir") if name in values]
    if len(given) != 1:
        raise UsageError("report needs either run_dir=DIR, run_dir=[A,B,…] or sweep_dir=DIR")
    places = [Path(place) for place in take_list(values, given[0])]
    if not places:
        raise UsageError(f"{given[0]}=[] names no run")
    output = take_list(values, "output")
    refuse_rest(values, ("run_dir", "sweep_dir", "output"), "report")
    if given == ["run_dir"]:
        for place in places:
            which_checkpoint.refuse_foreign_run(place)
    if given == ["sweep_dir"]:
        (sweep_dir,) = places
        title, runs, directory = str(sweep_dir), _trials(sweep_dir), sweep_dir
    elif len(places) == 1:
        title, runs, directory = str(places[0]), [contents.read(places[0], str(places[0]), warn)], places[0]
    else:
        title = f"{len(places)} runs"
        runs, directory = [contents.read(place, str(place), warn) for place in places], Path()
    path = Path(output[0]) if output else directory / FILE_NAME
    named = f"output={path}" if output else f"the report {path}"
    refuse_output(path, named)
    refuse_replacing(path, named)
    page.write(path, title, runs)
    print(path)
    return 0


def _trials(sweep_dir: Path) -> list[Contents]:
    """The trials that have begun, labelled by the overrides that distinguish them."""
    sweep = plan.read(sweep_dir)
    begun = []
    for trial in sweep.trials:
        run_dir = run_dir_of(sweep_dir, trial)
        if newest_step(run_dir) is None:
            warn(f"trial {trial.number} has no checkpoint yet and is left out")
            continue
        begun.append(contents.read(run_dir, f"{trial.number}  {plan.label(sweep, trial)}", warn))
    if not begun:
        raise UsageError(f"no trial of {sweep_dir} has a checkpoint yet")
    return begun
