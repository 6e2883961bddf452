"""Which builder a configuration names. A stored configuration never imports or instantiates what it names."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from trainer.config.registry import builder_of
from trainer.config.schema.networks import ModelConfig
from trainer.config.schema.training import Precision


def build_model(config: ModelConfig, image_size: int, seed: int | None, precision: Precision) -> keras.Model:
    """Build the configured network. Arguments, inputs and outputs are those of ``build_inception_v3``."""
    assert config.num_classes is not None, "complete() fills it in"
    return builder_of(config)(config, config.num_classes, image_size, seed, precision)


def output_names(class_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """A name for every output of a network: those of the data's classes, and numbers for the outputs beyond them."""
    assert num_classes is not None, "complete() fills it in"
    return (*class_names, *map(str, range(len(class_names), num_classes)))
