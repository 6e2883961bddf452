"""A checkpoint brought back for reading: its run is rebuilt and restored, and nothing is written or locked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.checkpoint.tensors import StateFile
from trainer.checkpoint.verification import reading
from trainer.config import plugins, stored
from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.errors import NoValidCheckpoint, UsageError, warn
from trainer.fingerprint import facts, versions
from trainer.fingerprint.behaviour import preprocessing_facts
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.step import EVALUATION, evaluation_facts
from trainer.fingerprint.structure import model_facts
from trainer.fingerprint.verdict import judge, version_warnings
from trainer.models import size
from trainer.models.registry import output_names
from trainer.run_directory import which_checkpoint
from trainer.runtime import execution
from trainer.storage import durable
from trainer.storage.unreadable import is_directory
from trainer.training.state import TrainingState, build_state, flatten


@dataclasses.dataclass(frozen=True)
class Restored:
    """A verified checkpoint, the configuration stored in it and the state it holds."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json, which holds those of all other files
    config: Config
    state: TrainingState

    @property
    def output_names(self) -> tuple[str, ...]:
        """A name for every output of the network."""
        return output_names(self.manifest.class_names, self.config.model.num_classes)

    def weights(self, asked: WeightsName | None) -> WeightsName:
        """Which weights are meant: those asked for, else those the run was evaluated with.

        Raises:
            UsageError: averages are asked for and the run keeps none.
        """
        if asked == "ema" and self.config.ema.decay is None:
            raise UsageError(f"weights=ema: {self.path} holds no averages (ema.decay is null); use weights=raw")
        return self.config.evaluation.weights if asked is None else asked


def restore(run_dir: Path, checkpoint: str, allow: Sequence[str]) -> Restored:
    """Rebuild the run in ``run_dir`` at a checkpoint: ``latest``, ``best``, ``step-N`` or a path.

    Raises:
        UsageError: the directory does not exist.
        NoValidCheckpoint: what was asked for does not exist or is damaged.
        Vanished: the run that is training there has deleted it meanwhile.
        RestoreRefused: the program builds another network or evaluates images otherwise than the one that wrote it.
    """
    if not is_directory(run_dir) and not is_directory(Path(checkpoint)):
        raise UsageError(f"run_dir={run_dir} does not exist")
    found = which_checkpoint.find(run_dir, checkpoint, "full", warn)
    path = found.path
    with reading(path):
        digest = durable.stored_digest(path / manifests.FILE_NAME)
        plugins.refuse_others(found.manifest.versions, allow, path)
        config = stored.read(path / stored.FILE_NAME)
        size.refuse_excess(config)
        execution.configure_for_reading(config.runtime)
        state = build_state(config, drawn=False)
        for warning in version_warnings(found.manifest.versions, versions.versions()):
            warn(warning)
        _check_program(path, config, state, plugins.other_names(allow, found.manifest.versions))
        tree = state.tree()
        restore_state(state, StateFile(tree, flatten(tree)), path, found.manifest)
    return Restored(path, found.manifest, digest, config, state)


def restore_state(state: TrainingState, state_file: StateFile, path: Path, manifest: Manifest) -> None:
    """Assign everything in ``state``, of which ``state_file`` is the file, from the checkpoint at ``path``.

    Raises:
        RestoreRefused: it holds other variables; nothing was assigned.
        NoValidCheckpoint: a tensor is damaged, or the tensors are not those of the step that ``manifest`` tells.
    """
    state_file.restore(path)
    step = int(state.progress.step.numpy())
    if step != manifest.step:
        raise NoValidCheckpoint(f"{path} says step {manifest.step}, and its tensors are of step {step}")


def _check_program(path: Path, config: Config, state: TrainingState, allow: Sequence[str]) -> None:
    """Network, preprocessing and evaluation must be those of the checkpoint; the rest plays no part here."""
    try:
        there = facts.read(path / facts.FILE_NAME)
    except ManifestError as error:
        raise NoValidCheckpoint(str(error)) from error
    found = [*model_facts(state.model), *preprocessing_facts(config), *evaluation_facts(config)]
    matter = [list(filter(_matters, side)) for side in facts.comparable(there, found)]
    differences = facts.differences(*matter)
    judge(path, (), differences, allow)


def _matters(fact: Fact) -> bool:
    return fact.kind == "structure" or fact.where.startswith("preprocess.eval") or fact.where == EVALUATION
