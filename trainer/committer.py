"""Making checkpoints of a run: what goes into the directory beside the tensors, and which older ones go."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trainer import environment
from trainer.checkpoint import directory, manifest
from trainer.checkpoint.directory import Retention
from trainer.checkpoint.manifest import Manifest, Start
from trainer.checkpoint.tensors import StateFile
from trainer.config import stored
from trainer.config.schema import Config
from trainer.errors import TrainingFailed
from trainer.fingerprint import facts
from trainer.fingerprint.facts import Fact
from trainer.history import History
from trainer.loop import ledger_text
from trainer.state import Progress


@dataclasses.dataclass(frozen=True)
class Committer:
    """Commits the current state of one run under ``checkpoints``."""

    checkpoints: Path
    config: Config
    progress: Progress
    state_file: StateFile
    history: History
    fingerprint: Sequence[Fact]
    class_names: tuple[str, ...]
    train_examples: int
    lineage: tuple[Start, ...]

    def commit(self) -> Path:
        """Commit the current step, retire what the policy no longer keeps, return the new directory.

        Raises:
            TrainingFailed: a variable is not finite; nothing was written.
        """
        step = int(self.progress.step.numpy())
        bad = self.state_file.non_finite()
        if bad:
            raise TrainingFailed(
                f"{bad[0]} and {len(bad) - 1} more variables are not finite at step {step}; nothing was committed\n"
                "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or resume from an earlier checkpoint"
            )
        path = directory.commit(self.checkpoints, step, self._fill, self._describe)
        policy = self.config.checkpoint
        retention = Retention(policy.keep_last, policy.keep_best, policy.keep_every_steps, policy.best_metric)
        directory.retire(self.checkpoints, retention, self.history.validations)
        return path

    def _fill(self, place: Path) -> None:
        (place / stored.FILE_NAME).write_text(stored.to_text(self.config), encoding="utf-8")
        facts.write(self.fingerprint, place / facts.FILE_NAME)
        self.state_file.write(place)

    def _describe(self, digests: dict[str, str]) -> Manifest:
        step, examples = int(self.progress.step.numpy()), int(self.progress.examples.numpy())
        return Manifest(
            format_version=manifest.FORMAT_VERSION,
            step=step,
            examples=examples,
            epoch=examples / self.train_examples,
            ledger=ledger_text(self.progress),
            validation=self.history.validations.get(step),
            class_names=self.class_names,
            fingerprints={**stored.section_digests(self.config), **facts.digests(self.fingerprint)},
            versions=environment.versions(),
            git_commit=environment.git_commit(),
            created=environment.now(),
            lineage=self.lineage,
            files=digests,
        )
