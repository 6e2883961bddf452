"""The last lines of a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from trainer.checkpoint import directory
from trainer.command_line import argument, command_line, resume_command
from trainer.config.schema import Config
from trainer.monitoring.terminal import Terminal
from trainer.run.assembly import Rebuilt
from trainer.run.continuation import Origin
from trainer.run_directory import layout
from trainer.run_directory.history import History
from trainer.run_directory.metrics import best_step
from trainer.training.state import TrainingState


def summarize(run_dir: Path, config: Config, state: TrainingState, history: History, terminal: Terminal) -> None:
    """Say how far the run has come, what was best, and what can be done with it."""
    progress = state.progress
    step = int(progress.step.numpy())
    rows: list[tuple[str, str]] = []
    best = best_step(history.validations, config.checkpoint.best_metric)
    if best is not None:
        for name, at in (("last", max(history.validations)), ("best", best)):
            values = history.validations[at]
            scores = f"validation accuracy {values['accuracy']:.4f}  loss {values['loss']:.4f}"
            rows.append((name, f"{scores}  checkpoints/{directory.name_of(at)}"))
    place = argument("run_dir", run_dir)
    rows += [
        ("run", str(run_dir)),
        ("report", command_line("report", place)),
        ("look", shlex.join(["tensorboard", "--logdir", str(run_dir / layout.TENSORBOARD)])),
        ("more", resume_command(run_dir, f"train.steps={2 * step}")),
    ]
    terminal.closing(f"done at step {step}", rows)


def opening(run_dir: Path, rebuilt: Rebuilt, origin: Origin | None) -> list[str]:
    step, total = rebuilt.step, rebuilt.total_steps
    replicas = rebuilt.state.replicas
    shared = [f"{replicas.count} replicas in {replicas.processes} processes"] if replicas.count > 1 else []
    if origin is None:
        count = rebuilt.sources.training.count
        return [f"training in {run_dir}: {total} steps, {count} training images", *shared]
    changed = [f"changed on resume: {change}" for change in rebuilt.accepted]
    return [f"resuming {run_dir} at step {step} of {total} from {origin.path}", *shared, *changed]
