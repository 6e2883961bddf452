"""The interfaces that the training loop works with. Nothing here is about files, terminals or TensorBoard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.batch import Batch
from trainer.distributed.stop_vote import StopVote
from trainer.distributed.stragglers import Stragglers
from trainer.run_directory.costs import Costs, SaveCost
from trainer.run_directory.metrics import Record
from trainer.run_directory.phases import Phase
from trainer.runtime.start_cache import StartCache
from trainer.training.state import TrainingState


class Saves(Protocol):
    """See Checkpointer."""

    @property
    def is_writing(self) -> bool: ...

    def check(self) -> None: ...
    def save(self) -> None: ...
    def finish(self) -> None: ...
    def last_good(self) -> str: ...
    def way_on(self) -> str: ...
    def to_continue(self) -> str: ...


class Records(Protocol):
    """See History."""

    validations: dict[int, dict[str, float]]

    def add(self, record: Record) -> None: ...


class Display(Protocol):
    """See Terminal."""

    def step(self, step: int) -> None: ...
    def training(
        self, step: int, total: int, epoch: float, values: Mapping[str, float], seconds_left: float | None
    ) -> None: ...
    def line(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class Views(Protocol):
    """See trainer.monitoring.views."""

    def before(self, step: int, batch: Batch) -> None: ...
    def after(self, step: int) -> None: ...
    def validated(self, step: int, examples: Sequence[npt.NDArray[np.float32]], keep: Sequence[int]) -> None: ...
    def graph(self, graph: Callable[[], tf.Graph]) -> None: ...


class Clock(Protocol):
    """See trainer.run_directory.wall_time."""

    @property
    def earlier(self) -> Costs: ...

    def phase(self, phase: Phase) -> AbstractContextManager[None]: ...
    def looping(self) -> None: ...
    def at(self, step: int) -> None: ...
    def progress(self) -> None: ...
    def saved(self) -> None: ...
    def measured(self, cost: SaveCost) -> None: ...
    def start_seconds(self) -> float: ...


class EvaluationStep(Protocol):
    """See trainer.training.step.make_evaluation_step."""

    def __call__(self, batch: Batch, /) -> tuple[tf.Tensor, tf.Tensor]: ...
    def get_concrete_function(self, batch: Batch, /) -> tf.types.experimental.ConcreteFunction: ...


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop works with."""

    config: Config
    state: TrainingState
    examples_per_epoch: int
    total_steps: int
    training_batches: Callable[[int], Iterable[Batch]]  # from a position on
    evaluation_batches: Iterable[Batch]
    checkpointer: Saves
    committed_step: int | None  # the step of the checkpoint the run was restored from
    history: Records
    terminal: Display
    views: Views
    clock: Clock
    stop: StopVote
    stragglers: Stragglers
    start_cache: StartCache | None
    device_use: Callable[[float], Mapping[str, float]]  # see trainer.monitoring.device_use

    def epoch(self, examples: int) -> float:
        return examples / self.examples_per_epoch
