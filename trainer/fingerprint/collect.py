"""The fingerprint of a run: all facts that decide the result of its steps."""

from __future__ import annotations

from collections.abc import Callable

from trainer.config.schema import Config
from trainer.data.opened import Sources
from trainer.fingerprint.behaviour import data_facts, mixing_facts, order_facts, preprocessing_facts
from trainer.fingerprint.facts import Fact, from_text, to_text
from trainer.fingerprint.step import evaluation_facts, step_facts
from trainer.fingerprint.structure import model_facts, optimizer_facts, schedule_facts, tuning_facts
from trainer.runtime.start_cache import StartCache
from trainer.training.state import TrainingState
from trainer.training.step import EVALUATION_STEP, TRAIN_STEP


def fingerprint_of(config: Config, state: TrainingState, sources: Sources, cache: StartCache | None) -> list[Fact]:
    """All facts. ``cache`` has those about the functions that it keeps, and about the images that go into them."""

    def kept(name: str, of: str, facts: Callable[[], list[Fact]]) -> list[Fact]:
        return facts() if cache is None else from_text(cache.text(name, of, lambda: to_text(facts())))

    def preprocessing() -> list[Fact]:
        if config.preprocess.plugins:  # other people's code, which may do with one image whatever it wants
            return preprocessing_facts(config)
        return kept("preprocessing_facts", TRAIN_STEP, lambda: preprocessing_facts(config))

    auxiliary = "aux_logits" in state.model.output
    return [
        *data_facts(sources.training, "train"),
        *data_facts(sources.validation, "validation"),
        *model_facts(state.model),
        *optimizer_facts(config),
        *tuning_facts(state.tuning),
        *schedule_facts(config),
        *preprocessing(),
        *mixing_facts(config),
        *order_facts(sources.sampling),
        *kept("step_facts", TRAIN_STEP, lambda: step_facts(config, auxiliary)),
        *kept("evaluation_facts", EVALUATION_STEP, lambda: evaluation_facts(config)),
    ]
