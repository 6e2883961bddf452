"""What a run works with, rebuilt from a configuration and, on a resume, judged against its checkpoint and restored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from trainer.checkpoint.manifest import ManifestError
from trainer.checkpoint.tensors import StateFile
from trainer.config import plugins
from trainer.config.schema import Config
from trainer.data.opened import Sources
from trainer.distributed.membership import build_replicas
from trainer.distributed.peers import Peers
from trainer.errors import NoValidCheckpoint, UsageError, warn
from trainer.fingerprint import facts
from trainer.fingerprint import versions as program_versions
from trainer.fingerprint.collect import fingerprint_of
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.verdict import judge, version_warnings
from trainer.models import size
from trainer.run import warm_start
from trainer.run.continuation import Origin
from trainer.run.restore import restore_state
from trainer.run.warm_start import WarmStart
from trainer.runtime import execution
from trainer.runtime.signals import StopRequest
from trainer.training.state import TrainingState, build_state, flatten


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """What a run works with, rebuilt from its configuration, with the state it begins with."""

    config: Config
    total_steps: int
    sources: Sources
    state: TrainingState
    state_file: StateFile
    fingerprint: list[Fact]
    accepted: tuple[str, ...]  # differences to the checkpoint
    versions: Mapping[str, str]  # for manifests
    notes: Sequence[str]

    @property
    def step(self) -> int:
        return int(self.state.progress.step.numpy())


def rebuild(
    config: Config,
    total: int,
    sources: Sources,
    origin: Origin | None,
    start: WarmStart | None,
    peers: Peers | None,
    stop: StopRequest,
) -> Rebuilt:
    """Network, optimizer and state from ``config``, which must be complete, with the values of ``origin``'s checkpoint,
    the weights of ``start``, or those that a new run begins with. ``total`` is how many steps the run has.

    Raises:
        UsageError: the configuration does not fit the machine or the data.
        NoValidCheckpoint: the checkpoint is damaged.
        RestoreRefused: code or data are not those of the checkpoint.
        PeerLost, Stopped: while the processes of the run met.
    """
    execution.configure(config.runtime)
    replicas = build_replicas(config, peers, stop)
    size.refuse_excess(config)
    state = build_state(config, replicas, drawn=origin is None)
    fingerprint = fingerprint_of(config, state, sources)
    versions = program_versions.of_run(config, replicas)
    accepted = () if origin is None else _judge(origin, fingerprint, versions)
    _check_classes(config, sources.training.class_names)
    tree = state.tree()
    state_file = StateFile(tree, flatten(tree))
    notes: list[str] = []
    if origin is not None:
        restore_state(state, state_file, origin.path, origin.manifest)
    elif start is not None:
        notes = warm_start.load(start, config, state, sources.training.class_names)
    return Rebuilt(config, total, sources, state, state_file, fingerprint, accepted, versions, notes)


def _judge(origin: Origin, fingerprint: Sequence[Fact], versions: Mapping[str, str]) -> tuple[str, ...]:
    """What is accepted to be different from the checkpoint; raises when something is not."""
    for warning in version_warnings(origin.manifest.versions, versions):
        warn(warning)
    try:
        there = facts.read(origin.path / facts.FILE_NAME)
    except ManifestError as error:
        raise NoValidCheckpoint(str(error)) from error
    allow = plugins.other_names(origin.allow, origin.manifest.versions)
    if not any(fact.kind == facts.STEP for fact in there):
        warn(f"{origin.path} does not tell what a step does (an older program wrote it), so that is not compared")
    accepted = judge(origin.path, origin.changes, facts.differences(*facts.comparable(there, fingerprint)), allow)
    return (*origin.other_plugins, *accepted)


def _check_classes(config: Config, class_names: tuple[str, ...]) -> None:
    assert config.model.num_classes is not None
    if config.model.num_classes < len(class_names):
        raise UsageError(
            f"model.num_classes is {config.model.num_classes}, but the data has {len(class_names)} classes; "
            "leave it null to follow the data"
        )
