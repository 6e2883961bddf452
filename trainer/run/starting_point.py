"""What a run begins from: nothing, the weights of another, or a checkpoint of its own.

A new and a continued run go through the same order of events (``trainer.run.session``). The differences are here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import CHECKPOINTS, Manifest, RecordedMetrics, Start
from trainer.checkpoint.tensors import read_tensor
from trainer.checkpoint.verification import Damage, verify
from trainer.command_line import argument
from trainer.config import stored
from trainer.config.override import Change
from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config
from trainer.errors import NoValidCheckpoint
from trainer.fingerprint import versions
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.verdict import REPLICAS, Request, judge_stored
from trainer.monitoring.terminal import Terminal
from trainer.run import application_start, train_on, warm_start
from trainer.run.assembly import Assembly
from trainer.run.warm_start import WarmStart
from trainer.run_directory import occupancy
from trainer.run_directory.metrics import read_validations
from trainer.storage import holding
from trainer.storage.host import host_name
from trainer.training.moving_statistics import SETTLED
from trainer.training.state import TrainingState
from trainer.training.validation import recount


class StartingPoint(Protocol):
    """What ``trainer.run.session`` needs from the starting point of a run, in the order of the calls."""

    @property
    def draws_weights(self) -> bool:
        """Whether the variables get the initial values of a new run."""

    @property
    def initial_updates(self) -> int:
        """How many updates the batch norm statistics count for that a new run begins with."""

    @property
    def checkpoint(self) -> Path | None:
        """The verified checkpoint that the run continues; None for a new run."""

    def complete_at(self, run_dir: Path, total_steps: int) -> int | None:
        """The step at which the run is complete; None when something is left to do."""

    def patience_used(self) -> int:
        """The validations without improvement so far."""

    def look_ahead(self, run_dir: Path, config: Config, total_steps: int) -> list[str]:
        """Refuse to train without a learning rate. Returns warnings about steps that have none."""

    def judge(self, run_dir: Path, fingerprint: Sequence[Fact], current: Mapping[str, str]) -> tuple[str, ...]:
        """The accepted differences. Raises RestoreRefused when a difference is not accepted."""

    def fill(self, assembly: Assembly, class_names: Sequence[str]) -> list[str]:
        """Give the variables their first values. Returns lines for the log."""

    def lineage(self, step: int, accepted: Sequence[str]) -> tuple[Start, ...]:
        """All starts of the run, this one last."""

    def take(self, place: Path) -> list[str]:
        """Take the run directory. Returns lines for the log."""

    def recorded(self, run_dir: Path) -> RecordedMetrics | None:
        """What the checkpoint recorded about the history in ``run_dir``; None when nothing is known."""

    def make_way(self, checkpoints: Path, terminal: Terminal) -> None:
        """Put away the checkpoints that the run cannot use. Nothing is deleted."""

    def opening(self, run_dir: Path, step: int, total_steps: int, images: int) -> str:
        """The first line of the log."""


@dataclasses.dataclass(frozen=True)
class FromNothing:
    """A new run, from random weights or from given ``weights``. ``restart``: an earlier run is moved aside.
    ``rolled_back``: this process itself was there before, and comes back.
    """

    restart: bool
    weights: WarmStart | None
    rolled_back: bool = False
    draws_weights = True
    checkpoint = None

    @property
    def initial_updates(self) -> int:
        return 0 if self.weights is None else SETTLED

    def complete_at(self, run_dir: Path, total_steps: int) -> int | None:
        return None

    def patience_used(self) -> int:
        return 0

    def look_ahead(self, run_dir: Path, config: Config, total_steps: int) -> list[str]:
        return train_on.check_new(config, total_steps)

    def judge(self, run_dir: Path, fingerprint: Sequence[Fact], current: Mapping[str, str]) -> tuple[str, ...]:
        return ()

    def fill(self, assembly: Assembly, class_names: Sequence[str]) -> list[str]:
        if self.weights is None:
            frozen = len(assembly.state.tuning.frozen)
            return [f"warning: {frozen} layers are frozen at random weights: there is no init_from"] if frozen else []
        return load_weights(self.weights, assembly.config, assembly.state, class_names)

    def lineage(self, step: int, accepted: Sequence[str]) -> tuple[Start, ...]:
        return (_start(step, None if self.weights is None else self.weights.contents.path, accepted),)

    def take(self, place: Path) -> list[str]:
        said = occupancy.begin(place, continues=False, restart=self.restart)
        return [] if self.rolled_back else said

    def recorded(self, run_dir: Path) -> RecordedMetrics | None:
        return None

    def make_way(self, checkpoints: Path, terminal: Terminal) -> None:
        pass

    def opening(self, run_dir: Path, step: int, total_steps: int, images: int) -> str:
        return f"training in {run_dir}: {total_steps} steps, {images} training images"


def request_of(
    run_dir: Path,
    checkpoint: Path,
    damaged: Sequence[Damage],
    changes: Sequence[Change],
    asked: Mapping[str, object] | None,
) -> Request:
    """The resume of ``run_dir`` from ``checkpoint`` that was asked for key by key, or else as a whole, which is all of
    ``changes``. ``damaged`` are the newer checkpoints that do not count.
    """
    given = {change.path.removesuffix(".name"): change.wanted for change in changes}
    passed_over = [damage.path for damage in damaged]
    valid = [path for path in directory.committed(run_dir / CHECKPOINTS) if path not in passed_over]
    chosen = [] if valid and valid[-1] == checkpoint else [argument("checkpoint", checkpoint)]
    return Request(run_dir, given if asked is None else asked, chosen)


@dataclasses.dataclass(frozen=True)
class FromCheckpoint:
    """A run that continues from ``checkpoint``, with the newer damaged checkpoints and the requested changes."""

    checkpoint: Path
    manifest: Manifest
    damaged: Sequence[Damage]
    changes: Sequence[Change]
    allow: Sequence[str]
    other_plugins: Sequence[str]  # accepted differences in the versions of plug-ins
    asked: Mapping[str, object] | None = None  # the keys and groups of a resume; None for a whole configuration
    repeats: bool = False  # a stretch of training that was made before is made again
    draws_weights = False
    initial_updates = 0  # the stored configuration has the number

    def complete_at(self, run_dir: Path, total_steps: int) -> int | None:
        """A change of a key that is not free must be judged, so the run is not complete then."""
        step, validation = self.manifest.step, self.manifest.validation
        evaluated = validation is not None or step in read_validations(run_dir) or step == 0
        free = all(change.policy == "free" for change in self.changes)
        return step if step >= total_steps and evaluated and free else None

    def patience_used(self) -> int:
        return int(read_tensor(self.checkpoint, "progress/patience_used"))

    def look_ahead(self, run_dir: Path, config: Config, total_steps: int) -> list[str]:
        if self.repeats:
            return []
        ahead = train_on.Ahead(config, self.manifest.step, total_steps)
        return train_on.check_continued(ahead, self.changes, self.allow, self._request(run_dir))

    def _request(self, run_dir: Path) -> Request:
        return request_of(run_dir, self.checkpoint, self.damaged, self.changes, self.asked)

    def judge(self, run_dir: Path, fingerprint: Sequence[Fact], current: Mapping[str, str]) -> tuple[str, ...]:
        compared = (self.checkpoint, self.manifest, fingerprint, current, self.changes, self.allow)
        accepted = judge_stored(*compared, request=None if self.repeats else self._request(run_dir))
        return (*self.other_plugins, *accepted)

    def fill(self, assembly: Assembly, class_names: Sequence[str]) -> list[str]:
        before = stored.read(self.checkpoint / stored.FILE_NAME)
        assembly.restore(self.checkpoint, self.manifest, before)
        maker = self.checkpoint.parent.parent  # the run that made the checkpoint
        ranked = recount(assembly.state.progress, lambda: read_validations(maker, noted=True), before, assembly.config)
        return [*ranked, *self._moved(assembly)]

    def _moved(self, assembly: Assembly) -> list[str]:
        """What moving to another number of replicas means where it changes nothing; a warning says it elsewhere."""
        logical, here = assembly.config.train.logical_replicas, assembly.state.replicas.layout
        before = self.manifest.versions.get(REPLICAS, here)
        if logical is None or before == here:
            return []
        return [f"replicas was {before} and is {here}: every bit stays the same, by train.logical_replicas={logical}"]

    def lineage(self, step: int, accepted: Sequence[str]) -> tuple[Start, ...]:
        return (*self.manifest.lineage, _start(step, self.checkpoint, accepted))

    def take(self, place: Path) -> list[str]:
        return occupancy.begin(place, continues=True, restart=False)

    def recorded(self, run_dir: Path) -> RecordedMetrics | None:
        """None when the checkpoint lies outside ``run_dir``."""
        here = self.checkpoint.parent.absolute() == (run_dir / CHECKPOINTS).absolute()
        return self.manifest.metrics if here else None

    def make_way(self, checkpoints: Path, terminal: Terminal) -> None:
        step = self.manifest.step
        damaged = [holding.path_of(damage.path) for damage in self.damaged]
        there = [path for path in directory.committed(checkpoints) if path not in damaged]
        later = [path for path in there if directory.step_of(path) > step]
        here = checkpoints / directory.name_of(step)
        if here.is_dir() and here.resolve() != self.checkpoint.resolve() and not _is_same(here, self.manifest):
            later.insert(0, here)  # another state of the same step
        for path, damage in zip(damaged, self.damaged, strict=True):
            place = directory.quarantine(path, damage.reason)
            terminal.line(f"moved the damaged {path.name} to {place}")
        directory.set_aside(later)
        for path in later:
            terminal.line(f"set aside {path.name}, which this run will make again")

    def opening(self, run_dir: Path, step: int, total_steps: int, images: int) -> str:
        return f"resuming {run_dir} at step {step} of {total_steps} from {self.checkpoint}"


def _is_same(here: Path, other: Manifest) -> bool:
    """Whether a checkpoint of this run has the same files as one from elsewhere."""
    try:
        return verify(here, "full").files == other.files
    except NoValidCheckpoint:
        return False


def load_weights(start: WarmStart, config: Config, state: TrainingState, class_names: Sequence[str]) -> list[str]:
    """``warm_start.load`` or ``application_start.load``, whichever is for the network."""
    way = warm_start if isinstance(config.model, InceptionV3Config) else application_start
    return way.load(start, config, state, class_names)


def _start(step: int, came_from: Path | None, accepted: Sequence[str]) -> Start:
    return Start(
        started=versions.moment(),
        host=host_name(),
        from_step=step,
        checkpoint=None if came_from is None else str(came_from),
        changes=tuple(accepted),
    )
