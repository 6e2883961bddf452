"""Restoring a checkpoint for reading: its run is rebuilt and restored, and nothing is written or locked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.verification import reading
from trainer.config import plugins, stored
from trainer.config.metrics import counts
from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.errors import UsageError, warn
from trainer.fingerprint import facts, versions
from trainer.fingerprint.behaviour import listing_in, preprocessing_facts
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.step import EVALUATION, evaluation_facts
from trainer.fingerprint.structure import model_facts
from trainer.fingerprint.verdict import judge_stored
from trainer.models.registry import output_names
from trainer.run.assembly import assemble
from trainer.run_directory import which_checkpoint
from trainer.storage import durable
from trainer.storage.unreadable import is_directory
from trainer.training.state import TrainingState


@dataclasses.dataclass(frozen=True)
class Restored:
    """A verified checkpoint, with its configuration and its state."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json, which holds the digests of all other files
    config: Config
    state: TrainingState
    training_listing: str | None  # see fingerprint.behaviour.listing_in

    @property
    def output_names(self) -> tuple[str, ...]:
        """A name for every output of the network."""
        return output_names(self.manifest.class_names, self.config.model.num_classes)

    @property
    def doubt(self) -> str | None:
        """Why the outputs of this network mean nothing, as far as its own validation says; None otherwise."""
        validation = self.manifest.validation
        if validation is None or counts(validation):
            return None
        return f"the validation of {self.path} had no finite loss, so its outputs mean nothing; name another checkpoint"

    def weights(self, asked: WeightsName | None) -> WeightsName:
        """The weights to use: ``asked``, or else those that the run was evaluated with.

        Raises:
            UsageError: averages are asked for, but the run keeps none.
        """
        if asked == "ema" and self.config.ema.decay is None:
            raise UsageError(f"weights=ema: {self.path} holds no averages (ema.decay is null); use weights=raw")
        return self.config.evaluation.weights if asked is None else asked


def restore(run_dir: Path, checkpoint: str, allow: Sequence[str]) -> Restored:
    """Rebuild the run in ``run_dir`` at a checkpoint: ``latest``, ``best``, ``step-N`` or a path.

    Raises:
        UsageError: the directory does not exist.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        Vanished: the run that is training there has deleted it meanwhile.
        RestoreRefused: this program builds another network, or evaluates images differently, than the program that
            wrote it.
    """
    if not is_directory(Path(checkpoint)):
        which_checkpoint.refuse_missing(run_dir)
    found = which_checkpoint.find(run_dir, checkpoint, "full", warn)
    path = found.path
    with reading(path):
        digest = durable.stored_digest(path / manifests.FILE_NAME)
        plugins.refuse_others(found.manifest.versions, allow, path)
        config = stored.read(path / stored.FILE_NAME)
        assembly = assemble(config, None, None, drawn=False)
        state = assembly.state
        # network, preprocessing and evaluation must be those of the checkpoint; nothing else matters for reading
        here = [*model_facts(state.model), *preprocessing_facts(config), *evaluation_facts(config)]
        judge_stored(path, found.manifest, here, versions.versions(), (), allow, _matters)
        assembly.restore(path, found.manifest)
        listing = listing_in(facts.of_checkpoint(path), "train")
    return Restored(path, found.manifest, digest, config, state, listing)


def _matters(fact: Fact) -> bool:
    return fact.kind == "structure" or fact.where.startswith("preprocess.eval") or fact.where == EVALUATION
