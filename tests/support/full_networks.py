"""Inception V3 at full width, and the published numbers of its parameters."""

from __future__ import annotations

import keras
from composing import compose

from trainer.config.complete import complete, with_leaves
from trainer.config.schema import Config
from trainer.models.registry import build_model

# torchvision.models.inception_v3: 27,161,264 with the aux head and 23,834,568 without, where batch norm has a
# multiplier and moving statistics are not counted: two of our three numbers a channel, of another three
PUBLISHED_TORCHVISION = (27_161_264, 23_834_568)
NORMALISED_CHANNELS = 17_216
NORMALISED_CHANNELS_AUX = 128 + 768


def full(**changes: object) -> Config:
    defaults = {"model.width": 1.0, "model.num_classes": 1000, "preprocess.image_size": 299}
    return with_leaves(complete(compose(), 100, 10), {**defaults, **changes})


def build(config: Config, image_size: int = 299) -> keras.Model:
    return build_model(config.model, image_size, config.seed, "float32")
