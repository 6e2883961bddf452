"""Trials that are the folds of one cross-validation, and the mean and standard deviation of their results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from trainer.config.schema.sources import ImageFolderConfig, TableConfig
from trainer.errors import UsageError, measure
from trainer.run_directory.metrics import read_validations
from trainer.sweeps.plan import Sweep, Trial, config_of
from trainer.sweeps.trial import newest_step, read_note, run_dir_of

FOLD = "data.fold="


def lines(sweep_dir: Path, sweep: Sweep) -> list[str]:
    """A line for each set of trials that differ in ``data.fold`` alone and cover all folds: mean and standard deviation
    (of a sample) of their validations, at the best step of each and at the last.
    """
    return [_line(sweep_dir, folds, title) for folds, title in _cross_validations(sweep)]


def _cross_validations(sweep: Sweep) -> list[tuple[list[Trial], str]]:
    """The trials of each cross-validation, in the order of its folds, and the overrides that tell it from others."""
    groups: dict[tuple[str, ...], dict[int, Trial]] = {}
    counts: dict[tuple[str, ...], int] = {}
    for trial in sweep.trials:
        if trial.config is None or not any(each.startswith(FOLD) for each in trial.overrides):
            continue
        data = config_of(trial).data
        if isinstance(data, ImageFolderConfig | TableConfig) and data.folds is not None and data.fold is not None:
            others = tuple(each for each in trial.overrides if not each.startswith(FOLD))
            groups.setdefault(others, {}).setdefault(data.fold, trial)
            counts[others] = data.folds
    common = set.intersection(*map(set, groups)) if groups else set()
    return [
        ([those[fold] for fold in sorted(those)], " ".join(each for each in others if each not in common))
        for others, those in groups.items()
        if len(those) == counts[others]
    ]


def _line(sweep_dir: Path, folds: Sequence[Trial], title: str) -> str:
    what = f"cross-validation of {len(folds)} folds{f', {title}' if title else ''}"
    found = [result for result in (_result(sweep_dir, trial) for trial in folds) if result is not None]
    if len(found) < len(folds):
        return f"{what}: {len(found)} of them have a result, and a mean needs all"
    metrics, best, last = zip(*found, strict=True)
    at_last, at_best = f"{_spread(last)} at the last step", f"{_spread(best)} at the best step of each"
    return f"{what}: {metrics[0]} {at_last}, {at_best} (mean ± standard deviation)"


def _spread(values: Sequence[float]) -> str:
    return f"{measure(statistics.fmean(values))} ± {measure(statistics.stdev(values))}"


def _result(sweep_dir: Path, trial: Trial) -> tuple[str, float, float] | None:
    """The metric of a finished trial, and its best and its last value; None where it has no result."""
    try:
        run_dir = run_dir_of(sweep_dir, trial)
    except UsageError:
        return None
    note = read_note(run_dir)
    if note is None or note.best is None or note.step != newest_step(run_dir):
        return None
    validations = read_validations(run_dir)
    last = validations[max(validations)] if validations else {}
    return (note.metric, note.best, last[note.metric]) if note.metric in last else None
