"""Networks from other distributions."""

from __future__ import annotations

import keras

from trainer.config.schema.networks import ModelPlugin
from trainer.config.schema.training import Precision
from trainer.errors import UsageError
from trainer.models.exact import exact


def build_plugin(
    config: ModelPlugin, num_classes: int, image_size: int, seed: int | None, precision: Precision
) -> keras.Model:
    """The plug-in's network as a function of its configuration and a seed, as ``exact`` makes it.

    Raises:
        UsageError: it is not a functional model from one image to logits, or has hidden state.
    """
    model = config.build(image_size)
    image, logits = (None, image_size, image_size, 3), (None, num_classes)
    found = (type(model).__name__, getattr(model, "input_shape", None), getattr(model, "output_shape", None))
    if not isinstance(model, keras.Model) or found[1:] != (image, logits):
        raise UsageError(
            f"the plug-in model.name={config.name} built {found[0]} from {found[1]} to {found[2]}, but must build a "
            f"functional keras.Model from images {image} to logits {logits}"
        )
    return exact(model, config.batch_norm, config.name, seed, precision)
