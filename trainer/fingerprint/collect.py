"""The fingerprint of a run: all facts that decide the result of its steps."""

from __future__ import annotations

from trainer.config.schema import Config
from trainer.data.opened import Sources
from trainer.fingerprint.behaviour import data_facts, mixing_facts, order_facts, preprocessing_facts
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.step import evaluation_facts, step_facts
from trainer.fingerprint.structure import model_facts, optimizer_facts, schedule_facts, tuning_facts
from trainer.training.state import TrainingState


def fingerprint_of(config: Config, state: TrainingState, sources: Sources) -> list[Fact]:
    return [
        *data_facts(sources.training, "train"),
        *data_facts(sources.validation, "validation"),
        *model_facts(state.model),
        *optimizer_facts(config),
        *tuning_facts(state.tuning),
        *schedule_facts(config),
        *preprocessing_facts(config),
        *mixing_facts(config),
        *order_facts(sources.sampling),
        *step_facts(config, auxiliary="aux_logits" in state.model.output),
        *evaluation_facts(config),
    ]
