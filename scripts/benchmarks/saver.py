"""The trainer's own way to save a state, without a run around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoint.retention import Retention
from trainer.checkpoint.tensors import StateFile
from trainer.config.schema import Config
from trainer.monitoring.terminal import Terminal
from trainer.run.checkpointer import Checkpointer, Contents, Store
from trainer.run_directory.history import History
from trainer.training.state import TrainingState, flatten


@dataclasses.dataclass(frozen=True)
class Saver:
    """``begin`` returns when training may continue; ``finish`` returns when the checkpoint is on disk."""

    name: str
    begin: Callable[[], object]
    finish: Callable[[], object]


@contextmanager
def committing(run_dir: Path, config: Config, state: TrainingState) -> Iterator[tuple[Checkpointer, History, Terminal]]:
    """A checkpointer that commits ``state`` into ``run_dir`` as a run with ``config`` does, with history, terminal."""
    policy, tree = config.checkpoint, state.tree()
    history, terminal = History(run_dir, 0), Terminal(run_dir / "train.log", 0, 10**6)
    retention = Retention(policy.keep_last, policy.keep_best, policy.keep_every_steps, policy.best_metric)
    checkpointer = Checkpointer(
        Contents(config, (), (), 1000, {}, (), state.progress, StateFile(tree, flatten(tree))),
        Store(run_dir / "checkpoints", retention, mirror=None, last_good=None),
        history,
        terminal,
        lambda: None,
    )
    yield checkpointer, history, terminal
    checkpointer.close()
    history.close()
    terminal.close()


@contextmanager
def own_saver(run_dir: Path, config: Config, state: TrainingState, *, in_background: bool) -> Iterator[Saver]:
    """Saves ``state`` into ``run_dir`` as ``checkpoint.async_save=in_background`` does."""
    (run_dir / "checkpoints").mkdir(parents=True)
    checkpoint = dataclasses.replace(config.checkpoint, async_save=in_background, keep_last=2, keep_best=0)
    with committing(run_dir, dataclasses.replace(config, checkpoint=checkpoint), state) as (checkpointer, _, _):
        yield Saver(f"ours, {'async' if in_background else 'sync'}", checkpointer.save, checkpointer.finish)
