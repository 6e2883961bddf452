"""Back, and on: after a divergence the run continues from an earlier checkpoint, without the batch that diverged.

A rollback is a resume within the process. The directory is taken again, so records and checkpoints after the restored
step are put away as for any resume, and the lineage has one more start. What is new is an entry of
``train.skip_examples`` in the configuration, and so in every checkpoint from then on.

**Why a kill in between changes nothing.** Nothing about a rollback is in memory alone. Until a checkpoint with the new
entry is committed, a resume continues from one without it, comes to the same divergence, and makes the same entry:
which one it is depends on the step that diverged and on the entries so far, and not on the checkpoints that happen to
be there. Where the run goes back to makes no difference either, as long as it is before the first example left out:
the steps until there are the same with the entry and without.

**Which examples.** Those of the step. If it diverges again although they are left out, the cause may lie in the batches
before: so each time as many more as were left out, 1, 2, 4 … batches further back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.checkpoint.verification import Damage, verify
from trainer.config import stored
from trainer.config.complete import with_leaves
from trainer.config.override import Change
from trainer.config.ranges import to_range, to_text
from trainer.config.schema import Config
from trainer.distributed.peers import Message
from trainer.errors import Diverged, NoValidCheckpoint, ProcessesDiffer, TrainingFailed
from trainer.run.assembly import Assembly
from trainer.run.preparation import Prepared
from trainer.run.start_cache import start_cache_of
from trainer.run.starting_point import FromCheckpoint, FromNothing, StartingPoint
from trainer.run_directory import occupancy
from trainer.run_directory.layout import CHECKPOINTS
from trainer.training.state import build_state, flatten

SKIP = "train.skip_examples"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What all processes of a run do after a divergence, as the chief says it: the step that has diverged, and the
    configuration to go on with, as text. The state comes from the chief as at every start.
    """

    step: int
    first: int
    config: str

    def message(self) -> Message:
        return dataclasses.asdict(self)

    @staticmethod
    def of(message: Message) -> Agreement:
        return Agreement(**message)

    def refuse_unless_of(self, diverged: Diverged, name: str) -> None:
        """
        Raises:
            ProcessesDiffer: the process ``name`` has seen another step diverge.
        """
        if (self.step, self.first) != (diverged.step, diverged.first):
            raise ProcessesDiffer(
                f"{name}, has seen step {diverged.step} diverge, and the chief step {self.step}; nothing was restored"
            )


def agreement(diverged: Diverged, run: Prepared) -> Agreement:
    return Agreement(diverged.step, diverged.first, stored.to_text(run.config))


def roll_back(run_dir: Path, run: Prepared, diverged: Diverged) -> Prepared:
    """``run`` as it goes on: at the newest valid checkpoint before the examples that are left out, which are in its
    configuration. Nothing is written.

    Raises:
        TrainingFailed: no checkpoint is old enough.
        Unreadable: a checkpoint cannot be read now.
    """
    config = _without(run.config, diverged)
    entries = config.train.skip_examples
    start: StartingPoint = run.start
    first = to_range(SKIP, entries[-1]).start
    found, damaged = _before(first, run_dir, run)
    change = Change(SKIP, list(run.config.train.skip_examples), list(entries), "consent")
    accepted = (f"{change} ({diverged})",)
    if found is not None:
        path, manifest = found
        start = FromCheckpoint(path, manifest, damaged, (change,), (SKIP,), ())
    elif isinstance(start, FromNothing) and not occupancy.has_checkpoints(run_dir):
        start = dataclasses.replace(start, restart=False, rolled_back=True)
        _begin_again(run.assembly)
    else:
        raise TrainingFailed(
            f"{diverged}; it cannot be rolled back: no checkpoint of the run ends before example {first}\n"
            "keep more of them (checkpoint.keep_last), or try a lower optimizer.learning_rate or optimizer.clip_norm=1"
        )
    assembly = dataclasses.replace(run.assembly, config=config)
    notes = start.fill(assembly, run.data.training.class_names)
    line = (
        f"{diverged}: rolled back to step {assembly.step}; other examples take the place of {entries[-1]} "
        f"(rollback {len(entries)} of at most {config.divergence.max_rollbacks})"
    )
    return dataclasses.replace(
        run,
        config=config,
        start_cache=start_cache_of(config, assembly.state.replicas, assembly.state.model),
        assembly=assembly,
        start=start,
        accepted=(),
        lineage=(*run.lineage, start.lineage(assembly.step, accepted)[-1]),
        notes=[line, *notes],
        warnings=(),
    )


def _without(config: Config, diverged: Diverged) -> Config:
    """``config`` with one more entry: the examples of the step, and batches before it where it has entries already."""
    entries = config.train.skip_examples
    again = sum(diverged.first in to_range(SKIP, entry) for entry in entries)
    before = (2**again - 1) * (diverged.end - diverged.first)
    entry = to_text(max(0, diverged.first - before), diverged.end - 1)
    return with_leaves(config, {SKIP: (*entries, entry)})


def _before(first: int, run_dir: Path, run: Prepared) -> tuple[tuple[Path, Manifest] | None, Sequence[Damage]]:
    """The newest valid checkpoint without any example from ``first`` on, and the damaged ones that would have been
    newer.
    """
    damaged: list[Damage] = []
    for path in _candidates(run_dir, run.start):
        try:
            if directory.manifest_of(path).examples <= first:
                return (path, verify(path, run.config.checkpoint.verify)), damaged
        except (ManifestError, NoValidCheckpoint) as error:
            damaged.append(Damage(path, str(error)))
    return None, damaged


def _candidates(run_dir: Path, start: StartingPoint) -> Iterator[Path]:
    """The checkpoints of the run, the newest first, and the one from elsewhere that it may have begun with."""
    there = directory.committed(run_dir / CHECKPOINTS)
    yield from reversed(there)
    if start.checkpoint is not None and start.checkpoint not in there and start.checkpoint.is_dir():
        yield start.checkpoint


def _begin_again(assembly: Assembly) -> None:
    """Give everything its first value, as a process does that finds no checkpoint of the run."""
    first = flatten(build_state(assembly.config).tree())
    for name, variable in flatten(assembly.state.tree()).items():
        variable.assign(first[name])
