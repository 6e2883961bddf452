"""The table of a sweep's trials: what distinguishes each, how it ended, and its best validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.errors import UsageError, measure, printable
from trainer.runtime.streams import on_stdout
from trainer.sweeps import cross_validation
from trainer.sweeps.plan import Sweep, Trial, label
from trainer.sweeps.trial import newest_step, read_note, run_dir_of


def print_summary(sweep_dir: Path, sweep: Sweep, outcomes: Mapping[int, str], reasons: Mapping[int, str]) -> None:
    """Print the table. ``outcomes`` maps the numbers of the trials that were looked at to their outcomes, and
    ``reasons`` those of trials that diverged or were pruned to why.
    """
    table = Table("trial", title=Text(on_stdout(printable(str(sweep_dir)))), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("overrides", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("best", no_wrap=not reasons, overflow="fold")
    for trial in sweep.trials:
        step, result = _result(sweep_dir, trial)
        outcome = outcomes[trial.number] if trial.number in outcomes else ("not begun" if step == "" else "interrupted")
        if trial.number in reasons:
            result = reasons[trial.number]
        cells = (str(trial.number), label(sweep, trial), outcome, step, result)
        table.add_row(*(Text(on_stdout(printable(cell))) for cell in cells))
    Console(highlight=False).print(table)
    for line in cross_validation.lines(sweep_dir, sweep):
        print(on_stdout(printable(line)))


def _result(sweep_dir: Path, trial: Trial) -> tuple[str, str]:
    """The step of a trial, and its best validation if it has ended, as text; empty where there is none."""
    try:
        run_dir = run_dir_of(sweep_dir, trial)
    except UsageError:  # the path to the trial's directory has a link
        return "", ""
    step, note = newest_step(run_dir), read_note(run_dir)
    if note is None or note.best is None or note.step != step:
        return "" if step is None else str(step), ""
    return str(step), f"{note.metric} {measure(note.best)}"
