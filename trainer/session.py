"""One process working on one run: wiring configuration, data, state, checkpoints and reports around the loop."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from trainer import run_directory, runtime
from trainer.checkpoint import directory, manifest
from trainer.checkpoint.directory import Retention
from trainer.checkpoint.manifest import Manifest, Start
from trainer.checkpoint.tensors import StateFile
from trainer.config import stored
from trainer.config.complete import complete, total_steps
from trainer.config.override import Change, accept, override
from trainer.config.schema import Config
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.source import open_source
from trainer.errors import NoValidCheckpoint, RestoreRefused, TrainingFailed, UsageError
from trainer.history import History, read_validations
from trainer.loop import Run, ledger_text
from trainer.loop import train as run_loop
from trainer.signals import StopRequest
from trainer.state import TrainingState, build_state, flatten
from trainer.terminal import Terminal

REPORTED_PACKAGES = ("trainer", "tensorflow", "keras", "numpy", "hydra-core", "omegaconf")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint a run continues from, and the configuration changes that were accepted."""

    path: Path
    manifest: Manifest
    changes: tuple[str, ...]


def train(run_dir: Path, config: Config, on_existing: str, stop: StopRequest) -> None:
    """Start a run in ``run_dir``; with ``on_existing="resume"``, continue the one that is there.

    Raises:
        UsageError: there are checkpoints already, or the configuration does not fit the data.
        RestoreRefused: ``config`` differs from the run that is there in a key that changes the result.
    """
    with run_directory.writing(run_dir):
        checkpoints = run_dir / run_directory.CHECKPOINTS
        if not directory.committed(checkpoints):
            _run(run_dir, config, None, stop)
        elif on_existing == "resume":
            path, found = directory.newest_valid(checkpoints, _warn)
            _continue(run_dir, path, found, lambda there: accept(there, config), stop)
        else:
            raise UsageError(
                f"{run_dir} has checkpoints already; to continue that run:\n"
                f"  python -m trainer resume run_dir={run_dir}\n"
                "or add on_existing=resume to this command, or choose another run_dir"
            )


def resume(run_dir: Path, checkpoint: str, changes: Mapping[str, object], stop: StopRequest) -> None:
    """Continue the run in ``run_dir`` from a checkpoint: ``latest``, ``best``, ``step-N`` or a path.

    Raises:
        UsageError: a directory or key does not exist.
        NoValidCheckpoint: what was asked for does not exist or is damaged.
        RestoreRefused: a change is not one that a resume may make.
    """
    if not run_dir.is_dir() and checkpoint in ("latest", "best"):
        raise UsageError(f"run_dir={run_dir} does not exist")
    with run_directory.writing(run_dir):
        path, found = _find(run_dir, checkpoint)
        _continue(run_dir, path, found, lambda there: accept(there, override(there, changes)), stop)


def _find(run_dir: Path, checkpoint: str) -> tuple[Path, Manifest]:
    """The checkpoint that ``checkpoint`` names, verified."""
    parent = run_dir / run_directory.CHECKPOINTS
    if checkpoint == "latest":
        return directory.newest_valid(parent, _warn)
    if checkpoint == "best":
        metric = stored.read(run_dir / stored.FILE_NAME).checkpoint.best_metric
        best = directory.ranked(directory.described(parent), read_validations(run_dir), metric)
        if not best:
            raise NoValidCheckpoint(f"no checkpoint in {parent} was evaluated, so none is the best")
        return best[0], directory.verify(best[0])
    step = checkpoint.removeprefix("step-")
    path = parent / directory.name_of(int(step)) if step.isdecimal() else Path(checkpoint)
    if not path.is_dir():
        there = ", ".join(found.name for found in directory.committed(parent))
        raise NoValidCheckpoint(f"checkpoint={checkpoint} does not exist; in {parent}: {there or 'none'}")
    return path, directory.verify(path)


def _continue(
    run_dir: Path,
    path: Path,
    found: Manifest,
    decide: Callable[[Config], tuple[Config, list[Change]]],
    stop: StopRequest,
) -> None:
    config, changes = decide(stored.read(path / stored.FILE_NAME))
    for change in changes:
        print(f"changed on resume: {change}")
    _run(run_dir, config, Origin(path, found, tuple(map(str, changes))), stop)


def _run(run_dir: Path, config: Config, origin: Origin | None, stop: StopRequest) -> None:
    training, validation = open_source(config.data, "train"), open_source(config.data, "validation")
    config = complete(config, training.count, len(training.class_names))
    _check_classes(config, training.class_names, origin)
    total = total_steps(config, training.count)
    if origin is not None and _is_complete(run_dir, origin.manifest, total):
        print(f"{run_dir} is complete at step {origin.manifest.step} of {total}")
        print(f"to train on: python -m trainer resume run_dir={run_dir} train.steps={2 * total}")
        return
    runtime.configure(config.runtime)
    state = build_state(config)
    tree = state.tree()
    state_file = StateFile(tree, flatten(tree))
    checkpoints = run_dir / run_directory.CHECKPOINTS
    if origin is not None:
        state_file.restore(origin.path)
    # Nothing in the directory has been touched so far; from here on this process is its writer.
    step = int(state.progress.step.numpy())
    directory.remove_leftovers(checkpoints)
    text = stored.to_text(config)
    (run_dir / stored.FILE_NAME).write_text(text, encoding="utf-8")
    history = History(run_dir, step)
    terminal = Terminal(run_dir / run_directory.LOG, step, total)
    try:
        if origin is None:
            terminal.line(f"training in {run_dir}: {total} steps, {training.count} training images")
        else:
            terminal.line(f"resuming {run_dir} at step {step} of {total} from {origin.path}")
            for path in directory.supersede_after(checkpoints, step):
                terminal.line(f"set aside {path.name}, which this run will make again")
        committer = _Committer(
            checkpoints=checkpoints,
            config=config,
            text=text,
            state=state,
            state_file=state_file,
            history=history,
            class_names=training.class_names,
            train_examples=training.count,
            lineage=_lineage(step, origin),
        )
        run_loop(
            Run(
                config=config,
                state=state,
                train_examples=training.count,
                total_steps=total,
                training_batches=lambda position: training_batches(training, config, position, state.dropout_features),
                evaluation_batches=evaluation_batches(validation, config),
                commit=committer.commit,
                committed_step=step if _holds(checkpoints, step) else None,
                history=history,
                terminal=terminal,
                stop=stop,
            )
        )
        _summarize(run_dir, config, state, history, terminal)
    finally:
        history.close()
        terminal.close()


def _check_classes(config: Config, class_names: tuple[str, ...], origin: Origin | None) -> None:
    assert config.model.num_classes is not None
    if config.model.num_classes < len(class_names):
        raise UsageError(
            f"model.num_classes is {config.model.num_classes}, but the data has {len(class_names)} classes; "
            "leave it null to follow the data"
        )
    if origin is not None and origin.manifest.class_names != class_names:
        pairs = zip(origin.manifest.class_names, class_names, strict=False)
        first = next((index for index, (old, new) in enumerate(pairs) if old != new), len(class_names))
        raise RestoreRefused(
            f"the classes of the data changed: {origin.path} was trained on {len(origin.manifest.class_names)} "
            f"classes, the data has {len(class_names)}; the first difference is class {first}"
        )


def _is_complete(run_dir: Path, manifest: Manifest, total: int) -> bool:
    evaluated = manifest.validation is not None or manifest.step in read_validations(run_dir) or manifest.step == 0
    return manifest.step >= total and evaluated


def _holds(checkpoints: Path, step: int) -> bool:
    """Whether the run directory has the checkpoint of this step itself (and not another directory's)."""
    return (checkpoints / directory.name_of(step)).is_dir()


def _lineage(step: int, origin: Origin | None) -> tuple[Start, ...]:
    start = Start(
        started=_now(),
        host=socket.gethostname(),
        from_step=step,
        checkpoint=None if origin is None else str(origin.path),
        changes=() if origin is None else origin.changes,
    )
    return (start,) if origin is None else (*origin.manifest.lineage, start)


@dataclasses.dataclass(frozen=True)
class _Committer:
    """Makes checkpoints of the current state."""

    checkpoints: Path
    config: Config
    text: str
    state: TrainingState
    state_file: StateFile
    history: History
    class_names: tuple[str, ...]
    train_examples: int
    lineage: tuple[Start, ...]

    def commit(self) -> Path:
        progress, policy = self.state.progress, self.config.checkpoint
        step, examples = int(progress.step.numpy()), int(progress.examples.numpy())
        bad = self.state_file.non_finite()
        if bad:
            raise TrainingFailed(
                f"{bad[0]} and {len(bad) - 1} more variables are not finite at step {step}; nothing was committed\n"
                "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or resume from an earlier checkpoint"
            )

        def fill(place: Path) -> None:
            (place / stored.FILE_NAME).write_text(self.text, encoding="utf-8")
            self.state_file.write(place)

        def describe(digests: dict[str, str]) -> Manifest:
            return Manifest(
                format_version=manifest.FORMAT_VERSION,
                step=step,
                examples=examples,
                epoch=examples / self.train_examples,
                ledger=ledger_text(progress),
                validation=self.history.validations.get(step),
                class_names=self.class_names,
                versions=_versions(),
                git_commit=_git_commit(),
                created=_now(),
                lineage=self.lineage,
                files=digests,
            )

        path = directory.commit(self.checkpoints, step, fill, describe)
        retention = Retention(policy.keep_last, policy.keep_best, policy.keep_every_steps, policy.best_metric)
        directory.retire(self.checkpoints, retention, self.history.validations)
        return path


def _summarize(run_dir: Path, config: Config, state: TrainingState, history: History, terminal: Terminal) -> None:
    progress = state.progress
    step = int(progress.step.numpy())
    terminal.line(f"done at step {step}")
    if history.validations:
        metric = config.checkpoint.best_metric
        sign = 1.0 if metric == "loss" else -1.0
        best = min(history.validations, key=lambda at: (sign * history.validations[at][metric], at))
        for name, at in (("last", max(history.validations)), ("best", best)):
            values = history.validations[at]
            terminal.line(
                f"  {name:<5} validation accuracy {values['accuracy']:.4f}  loss {values['loss']:.4f}  "
                f"checkpoints/{directory.name_of(at)}"
            )
    terminal.line(f"  run   {run_dir}")
    terminal.line(f"  look  tensorboard --logdir {run_dir / run_directory.TENSORBOARD}")
    terminal.line(f"  more  python -m trainer resume run_dir={run_dir} train.steps={2 * step}")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in REPORTED_PACKAGES}}


@functools.cache
def _git_commit() -> str | None:
    """The commit of the checkout this package lies in, with ``+`` when files differ from it."""
    place = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(place), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None  # installed from a wheel, or git is not there
    return described.stdout.strip()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
