"""What a configuration expects in a checkpoint: the variables that the real builder makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config
from trainer.data.order.sampling import Sampling
from trainer.data.sources.source import open_source
from trainer.models import size
from trainer.training.state import DIVERGENCE, TrainingState, build_state, flatten


def completed(config: Config) -> Config:
    """``config`` with the values that depend on the data, filled in as a run does it."""
    source = open_source(config.data, "train")
    return complete(config, Sampling(source, config).examples_per_epoch, len(source.class_names))


@dataclasses.dataclass(frozen=True)
class Expected:
    """Shapes of everything in the state tree of ``config``.

    The keys of ``model`` are the model's variable names. ``slots`` holds the names of the optimizer's slots,
    ``averaged`` the variables with a moving average, ``progress`` the counters.
    """

    config: Config
    model: Mapping[str, tuple[int, ...]]
    slots: frozenset[str]
    averaged: frozenset[str]
    progress: frozenset[str]

    @property
    def inception(self) -> InceptionV3Config:
        assert isinstance(self.config.model, InceptionV3Config), "only Inception V3 is compared by its parts"
        return self.config.model

    @property
    def num_classes(self) -> int:
        return self.model["logits/logits/bias"][0]


def expected_of(config: Config) -> Expected:
    """Build the model and its optimizer once, and keep the shapes. ``config`` must be complete.

    Raises:
        UsageError: a network so large does not fit this machine; a stored configuration may ask for any.
    """
    size.refuse_excess(config)
    return shapes_of(config, build_state(config, drawn=False))


def shapes_of(config: Config, state: TrainingState) -> Expected:
    """The shapes of a state that ``config`` built."""
    return Expected(
        config=config,
        model={name: tuple(variable.shape) for name, variable in state.variables.items()},
        slots=frozenset(state.optimizer.slots),
        averaged=frozenset(state.ema),
        progress=frozenset({*flatten(state.progress.tree(), "progress"), *flatten(state.divergence, DIVERGENCE)}),
    )
