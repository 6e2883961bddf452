"""Which builder a configuration names. A stored configuration never imports or instantiates what it names."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from trainer.config.schema.networks import InceptionV3Config, KerasApplicationConfig, ModelConfig, ModelPlugin
from trainer.config.schema.training import Precision
from trainer.models.inception_v3 import build_inception_v3
from trainer.models.keras_application import build_keras_application
from trainer.models.plugin import build_plugin


def build_model(config: ModelConfig, image_size: int, seed: int | None, precision: Precision) -> keras.Model:
    """Build the configured network. Arguments, inputs and outputs are those of ``build_inception_v3``."""
    assert config.num_classes is not None, "complete() fills it in"
    match config:
        case InceptionV3Config():
            return build_inception_v3(config, config.num_classes, image_size, seed, precision)
        case KerasApplicationConfig():
            return build_keras_application(config, config.num_classes, image_size, seed, precision)
        case ModelPlugin():
            return build_plugin(config, config.num_classes, image_size, seed, precision)


def output_names(class_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """A name for every output of a network: those of the data's classes, and numbers for what it has beyond."""
    assert num_classes is not None, "complete() fills it in"
    return (*class_names, *map(str, range(len(class_names), num_classes)))
