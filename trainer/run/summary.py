"""The first and the last lines of a run."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint import directory
from trainer.command_line import argument, command_line, tensorboard_command
from trainer.config.schema import Config
from trainer.monitoring.terminal import Terminal
from trainer.run import train_on
from trainer.run.preparation import Prepared
from trainer.run_directory import layout
from trainer.run_directory.history import History
from trainer.run_directory.metrics import best_step


def summarize(run_dir: Path, run: Prepared, history: History, terminal: Terminal) -> None:
    """Print the last step, the best validation, and the commands to look at the run or continue it."""
    step, config, waited = run.assembly.step, run.config, int(run.assembly.state.progress.patience_used.numpy())
    early = step < run.total_steps
    rows: list[tuple[str, str]] = [("why", _out_of_patience(config, waited))] if early else []
    best = best_step(history.validations, config.checkpoint.best_metric)
    if history.validations:
        rows.append(("last", _validation(history, max(history.validations))))
        rows.append(("best", "none: no validation had a finite loss" if best is None else _validation(history, best)))
    place = argument("run_dir", run_dir)
    rows += [
        ("run", str(run_dir)),
        ("report", command_line("report", place)),
        ("look", tensorboard_command(run_dir / layout.TENSORBOARD)),
        ("more", train_on.longer(run_dir, config, step, run.total_steps, run.data.sampling.examples_per_epoch, waited)),
    ]
    terminal.closing(f"done at step {step}{f' of {run.total_steps}, by early stopping' if early else ''}", rows)


def _out_of_patience(config: Config, waited: int) -> str:
    stopping = config.early_stopping
    change = f" by more than {stopping.min_change:g}" if stopping.min_change else ""
    return (
        f"the validation {stopping.metric} has not improved{change} in {waited} validations "
        f"(early_stopping.patience={stopping.patience})"
    )


def _validation(history: History, step: int) -> str:
    values = history.validations[step]
    scores = f"validation accuracy {values['accuracy']:.4f}  loss {values['loss']:.4f}"
    return f"{scores}  checkpoints/{directory.name_of(step)}"


def opening(run_dir: Path, run: Prepared) -> list[str]:
    """The first lines of a run in this process."""
    replicas = run.assembly.state.replicas
    shared = [f"{replicas.count} replicas in {replicas.processes} processes"] if replicas.count > 1 else []
    shared += replicas.notes
    changed = [f"changed on resume: {change}" for change in run.accepted]
    first = run.start.opening(run_dir, run.assembly.step, run.total_steps, run.data.training.count)
    return [first, *shared, *changed]
