"""The first and the last lines of a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from trainer.checkpoint import directory
from trainer.command_line import argument, command_line, resume_command
from trainer.monitoring.terminal import Terminal
from trainer.run.preparation import Prepared
from trainer.run_directory import layout
from trainer.run_directory.history import History
from trainer.run_directory.metrics import best_step


def summarize(run_dir: Path, run: Prepared, history: History, terminal: Terminal) -> None:
    """Print the last step, the best validation, and the commands to look at the run or continue it."""
    step = run.assembly.step
    rows: list[tuple[str, str]] = []
    best = best_step(history.validations, run.config.checkpoint.best_metric)
    if history.validations:
        rows.append(("last", _validation(history, max(history.validations))))
        rows.append(("best", "none: no validation had a finite loss" if best is None else _validation(history, best)))
    place = argument("run_dir", run_dir)
    rows += [
        ("run", str(run_dir)),
        ("report", command_line("report", place)),
        ("look", shlex.join(["tensorboard", "--logdir", str(run_dir / layout.TENSORBOARD)])),
        ("more", resume_command(run_dir, f"train.steps={2 * step}")),
    ]
    terminal.closing(f"done at step {step}", rows)


def _validation(history: History, step: int) -> str:
    values = history.validations[step]
    scores = f"validation accuracy {values['accuracy']:.4f}  loss {values['loss']:.4f}"
    return f"{scores}  checkpoints/{directory.name_of(step)}"


def opening(run_dir: Path, run: Prepared) -> list[str]:
    """The first lines of a run in this process."""
    replicas = run.assembly.state.replicas
    shared = [f"{replicas.count} replicas in {replicas.processes} processes"] if replicas.count > 1 else []
    changed = [f"changed on resume: {change}" for change in run.accepted]
    first = run.start.opening(run_dir, run.assembly.step, run.total_steps, run.data.training.count)
    return [first, *shared, *changed]
