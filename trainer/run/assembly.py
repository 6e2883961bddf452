"""Building what a configuration describes: the same order for a run, for its workers, and for reading."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.tensors import StateFile
from trainer.config.schema import Config
from trainer.distributed.membership import Process, build_replicas
from trainer.distributed.sharing import Sharing
from trainer.errors import NoValidCheckpoint
from trainer.models import size
from trainer.runtime import execution
from trainer.training.state import TrainingState, build_state, flatten


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The network, the optimizer and all other state that a run changes. ``state_file`` reads and writes all of it."""

    config: Config
    state: TrainingState
    state_file: StateFile

    @property
    def step(self) -> int:
        return int(self.state.progress.step.numpy())

    def restore(self, checkpoint: Path, manifest: Manifest) -> None:
        """Assign everything from a checkpoint.

        Raises:
            RestoreRefused: it holds other variables. Nothing was assigned.
            NoValidCheckpoint: a tensor is damaged, or the tensors have another step than ``manifest`` says.
        """
        self.state_file.restore(checkpoint)
        if self.step != manifest.step:
            raise NoValidCheckpoint(f"{checkpoint} says step {manifest.step}, but its tensors have step {self.step}")


def assemble(config: Config, process: Process | None, shared: Sharing | None, *, drawn: bool) -> Assembly:
    """Build what ``config`` describes. ``config`` must be complete.

    ``process`` is one of those that compute the run, which ``shared`` names where there are several. All of them must
    call this. With None, the state is built for reading, on one device. With ``drawn``, the variables get the initial
    values of a new run. Without it, they get their values later.

    Raises:
        UsageError: the configuration does not fit the machine or the processes.
        PeerLost, Stopped: raised while the processes of the run met.
    """
    size.refuse_excess(config)
    if process is None:
        execution.configure_for_reading(config.runtime)
        state = build_state(config, drawn=drawn)
    else:
        execution.configure(config.runtime)
        state = build_state(config, build_replicas(config, process, shared), drawn=drawn)
    tree = state.tree()
    return Assembly(config, state, StateFile(tree, flatten(tree)))
