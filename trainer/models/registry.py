"""Which builder a configuration names. A stored configuration never imports or instantiates what it names."""

from __future__ import annotations

import keras

from trainer.config.schema import InceptionV3Config, Precision
from trainer.models.inception_v3 import build_inception_v3


def build_model(config: InceptionV3Config, image_size: int, seed: int | None, precision: Precision) -> keras.Model:
    """Build the configured network. Arguments, inputs and outputs are those of ``build_inception_v3``."""
    assert config.num_classes is not None, "complete() fills it in"
    return build_inception_v3(config, config.num_classes, image_size, seed, precision)
