"""The common start of all processes of a run: what the chief announces, and what the loop of each process uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trainer.config.schema import Config
from trainer.data.batches import Part, evaluation_batches, training_batches
from trainer.data.opened import Sources
from trainer.distributed.membership import Process
from trainer.distributed.peers import Message
from trainer.distributed.stop_vote import StopVote
from trainer.distributed.stragglers import Stragglers
from trainer.monitoring.device_use import device_use
from trainer.runtime.start_cache import StartCache
from trainer.training.interfaces import Clock, Display, Records, Run, Saves, Views
from trainer.training.state import TrainingState, flatten


@dataclasses.dataclass(frozen=True)
class Announcement:
    """What all processes of a run must know, beside the configuration and the state. It is the same for all."""

    total_steps: int
    committed_step: int | None
    validations: Mapping[int, dict[str, float]]
    fingerprint: str  # text of all facts
    versions: Mapping[str, str]  # of the chief, as in its manifests

    def message(self) -> Message:
        return {**dataclasses.asdict(self), "validations": list(self.validations.items())}

    @staticmethod
    def of(message: Message) -> Announcement:
        return Announcement(
            **{**message, "validations": {int(step): values for step, values in message["validations"]}}
        )


def wire(
    announced: Announcement,
    config: Config,
    state: TrainingState,
    sources: Sources,
    process: Process,
    checkpointer: Saves,
    history: Records,
    terminal: Display,
    views: Views,
    clock: Clock,
    start_cache: StartCache | None,
) -> Run:
    """What the loop of this process uses: its part of every batch, and the chief's values in ``state``.

    Every process of the run must call this.
    """
    replicas = state.replicas
    replicas.copy_from_chief(flatten(state.tree()).values())
    part = Part(replicas.process, replicas.processes)
    return Run(
        config=config,
        state=state,
        examples_per_epoch=sources.sampling.examples_per_epoch,
        total_steps=announced.total_steps,
        training_batches=lambda position: training_batches(
            sources.training, config, position, state.dropout_features, part, terminal.warn, replicas.input_device
        ),
        evaluation_batches=evaluation_batches(sources.validation, config, part, terminal.warn, replicas.input_device),
        checkpointer=checkpointer,
        committed_step=announced.committed_step,
        history=history,
        terminal=terminal,
        views=views,
        clock=clock,
        stop=StopVote(process.stop, replicas, process.is_asked_elsewhere),
        stragglers=Stragglers(process.names()),
        start_cache=start_cache,
        device_use=device_use(state, sixteen_bits=config.runtime.precision != "float32"),
    )
