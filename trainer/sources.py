"""The data of a run, and the fingerprint of everything that decides the result of its steps."""

from __future__ import annotations

import dataclasses

from trainer.config.schema import Config
from trainer.data.sampling import Sampling
from trainer.data.source import Source, open_source
from trainer.fingerprint.behaviour import data_facts, mixing_facts, order_facts, preprocessing_facts
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.step import evaluation_facts, step_facts
from trainer.fingerprint.structure import model_facts, optimizer_facts, schedule_facts
from trainer.state import TrainingState


@dataclasses.dataclass(frozen=True)
class Sources:
    """Both splits of the data, and which records of the first training reads."""

    training: Source
    validation: Source
    sampling: Sampling


def open_sources(config: Config) -> Sources:
    training = open_source(config.data, "train")
    return Sources(training, open_source(config.data, "validation"), Sampling(training, config))


def fingerprint_of(config: Config, state: TrainingState, sources: Sources) -> list[Fact]:
    return [
        *data_facts(sources.training, "train"),
        *data_facts(sources.validation, "validation"),
        *model_facts(state.model),
        *optimizer_facts(config),
        *schedule_facts(config),
        *preprocessing_facts(config),
        *mixing_facts(config),
        *order_facts(sources.sampling),
        *step_facts(config, auxiliary="aux_logits" in state.model.output),
        *evaluation_facts(config),
    ]
