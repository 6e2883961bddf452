"""The table of a sweep's trials: what distinguishes them, how each ended, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.errors import UsageError, printable
from trainer.sweeps.plan import Sweep, Trial, config_of, label
from trainer.sweeps.trial import best, newest_step, run_dir_of


def print_summary(sweep_dir: Path, sweep: Sweep, outcomes: Mapping[int, str]) -> None:
    """``outcomes`` maps the numbers of the trials that were looked at to how they ended."""
    table = Table("trial", title=str(sweep_dir), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("overrides", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("best", no_wrap=True)
    for trial in sweep.trials:
        step, result = _result(sweep_dir, trial)
        outcome = outcomes[trial.number] if trial.number in outcomes else ("not begun" if step == "" else "interrupted")
        cells = (str(trial.number), label(sweep, trial), outcome, step, result)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(highlight=False).print(table)


def _result(sweep_dir: Path, trial: Trial) -> tuple[str, str]:
    """The step a trial is at and its best validation, as text; empty where there is none."""
    try:
        run_dir, metric = run_dir_of(sweep_dir, trial), config_of(trial).checkpoint.best_metric
    except UsageError:
        return "", ""
    step, manifest = newest_step(run_dir), best(run_dir, metric)
    if manifest is None or manifest.validation is None:
        return "" if step is None else str(step), ""
    return str(step), f"{metric} {manifest.validation[metric]:.4f}"
