"""The first and the last lines of a run."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint import directory
from trainer.command_line import argument, command_line, tensorboard_command
from trainer.config.metrics import OF_CLASSES, counts
from trainer.config.schema import Config
from trainer.errors import measure
from trainer.monitoring.terminal import Terminal
from trainer.run import train_on
from trainer.run.fast_dev_run import KEY
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
        rows.append(("last", _validation(config, history, max(history.validations))))
        rows.append(("best", _no_best(config, history) if best is None else _validation(config, history, best)))
    if config.train.fast_dev_run:
        rows.append(("kept", f"nothing; the same command without {KEY}=true trains the run"))
        terminal.closing(f"{KEY}: {step} steps, a validation and a checkpoint worked", rows)
        return
    place = argument("run_dir", run_dir)
    rows += [
        ("run", str(run_dir)),
        ("report", command_line("report", place)),
        ("look", tensorboard_command(run_dir / layout.TENSORBOARD)),
        ("more", train_on.longer(run_dir, config, step, run.total_steps, run.data.sampling.examples_per_epoch, waited)),
    ]
    terminal.closing(f"done at step {step}{f' of {run.total_steps}, by early stopping' if early else ''}", rows)


def _no_best(config: Config, history: History) -> str:
    if any(map(counts, history.validations.values())):
        return f"none: checkpoint.best_metric={config.checkpoint.best_metric} was not defined in any validation"
    return "none: no validation had a finite loss"


def _out_of_patience(config: Config, waited: int) -> str:
    stopping = config.early_stopping
    change = f" by more than {stopping.min_change:g}" if stopping.min_change else ""
    return (
        f"the validation {stopping.metric} has not improved{change} in {waited} validations "
        f"(early_stopping.patience={stopping.patience})"
    )


def _validation(config: Config, history: History, step: int) -> str:
    values, metric = history.validations[step], config.checkpoint.best_metric
    scores = f"validation accuracy {values['accuracy']:.4f}  loss {measure(values['loss'])}"
    if metric in OF_CLASSES and metric in values:
        scores += f"  {metric} {measure(values[metric])}"
    return f"{scores}  checkpoints/{directory.name_of(step)}"


def opening(run_dir: Path, run: Prepared) -> list[str]:
    """The first lines of a run in this process."""
    replicas = run.assembly.state.replicas
    shared = [f"{replicas.count} replicas in {replicas.processes} processes"] if replicas.count > 1 else []
    shared += replicas.notes
    changed = [f"changed on resume: {change}" for change in run.accepted]
    first = run.start.opening(run_dir, run.assembly.step, run.total_steps, run.data.training.count)
    return [first, *_what(run), *shared, *changed]


def _what(run: Prepared) -> list[str]:
    """What is trained on what: two lines."""
    config, state, data = run.config, run.assembly.state, run.data
    parameters, trained = (
        sum(variable.shape.num_elements() for variable in variables.values())
        for variables in (state.trainable, state.trained)
    )
    frozen = f", {trained:,} of them trained" if trained < parameters else ""
    least = min(state.tuning.factors.values(), default=1.0)
    rates = f", learning rates from {least:.2g} of the whole on" if least < 1.0 else ""
    device = run.versions["device"]
    batch, epoch = config.train.global_batch_size, data.sampling.examples_per_epoch
    return [
        f"network  {config.model.name}: {parameters:,} parameters{frozen}{rates}, {config.model.num_classes} classes; "
        f"on {device} in {config.runtime.precision}",
        f"data     {config.data.name}: {data.training.count:,} images to train on, {data.validation.count:,} to "
        f"validate; batches of {batch}, {epoch / batch:,.4g} steps an epoch",
    ]
