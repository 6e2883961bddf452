"""Building what a configuration describes: the same order for a run, for its workers, and for reading."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tensorflow as tf

from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.tensors import StateFile
from trainer.config.schema import Config
from trainer.distributed.membership import Process, build_replicas
from trainer.distributed.sharing import Sharing
from trainer.errors import NoValidCheckpoint
from trainer.models import size
from trainer.runtime import execution
from trainer.training.state import DIVERGENCE, TrainingState, build_state, flatten, rolling_statistics


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The network, the optimizer and all other state that a run changes. ``state_file`` reads and writes all of it."""

    config: Config
    state: TrainingState
    state_file: StateFile

    @property
    def step(self) -> int:
        return int(self.state.progress.step.numpy())

    def restore(self, checkpoint: Path, manifest: Manifest, stored: Config | None = None) -> None:
        """Assign everything from a checkpoint. ``stored`` is the configuration in it where it is not that of this
        state: a run may begin or cease to roll divergences back, and then rolling statistics are on one side only.
        Those of this state begin anew, others are dropped.

        Raises:
            RestoreRefused: it holds other variables. Nothing was assigned.
            NoValidCheckpoint: a tensor is damaged, or the tensors have another step than ``manifest`` says.
        """
        if stored is None or stored.train.on_divergence == self.config.train.on_divergence:
            self.state_file.restore(checkpoint)
        else:
            tree = {name: node for name, node in self.state.tree().items() if name != DIVERGENCE}
            tree |= {DIVERGENCE: statistics} if (statistics := rolling_statistics(stored)) else {}
            StateFile(tree, flatten(tree)).restore(checkpoint)
            for variable in self.state.divergence.values():
                variable.assign(tf.zeros_like(variable))
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
