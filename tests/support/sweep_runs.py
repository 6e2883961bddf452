"""Sweeps that are stopped in the middle, and what they leave behind."""

from __future__ import annotations

import re
from pathlib import Path

from processes import checkpoint_names
from small_plugin import SMALL, paced

from trainer.checkpoint import manifest

STEPS = 30
KILL_AT = 10
TRIAL = (*SMALL, *paced(0.05), f"train.steps={STEPS}", "evaluation.every_steps=15", "checkpoint.every_steps=5")


def starts(run_dir: Path) -> list[int]:
    """The steps from which the processes started that made the run's last checkpoint."""
    last = run_dir / "checkpoints" / checkpoint_names(run_dir)[-1]
    return [start.from_step for start in manifest.read(last / manifest.FILE_NAME).lineage]


def files(run_dir: Path) -> dict[Path, tuple[int, int]]:
    """Every file of a run with what tells whether it was written again."""
    found = [path for path in run_dir.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def outcomes(output: str) -> dict[int, str]:
    """Trial → outcome, from the table that a sweep ends with."""
    before = "(?:finished|pruned|diverged)(?: before)?"
    words = f"{before}|stopped|interrupted|not begun|invalid|refused|failed"
    rows = re.findall(rf"^ +(\d+) .*  ({words})\b", output, re.MULTILINE)
    return {int(number): outcome for number, outcome in rows}
