"""The classifiers of ``keras.applications``, from random weights."""

from __future__ import annotations

import typing

import keras

from trainer.config.schema.networks import ApplicationName, KerasApplicationConfig
from trainer.config.schema.training import Precision
from trainer.models.exact import exact

# the closed list of the schema: a stored configuration reaches nothing else
BUILDERS = {name: getattr(keras.applications, name) for name in typing.get_args(ApplicationName)}


def build_keras_application(
    config: KerasApplicationConfig, num_classes: int, image_size: int, seed: int | None, precision: Precision
) -> keras.Model:
    """The named application as a function of its configuration and a seed; see ``exact`` for what differs from it.

    Inputs, outputs and ``precision`` are those of ``build_inception_v3``.
    """
    application = BUILDERS[config.name](
        weights=None, input_shape=(image_size, image_size, 3), classes=num_classes, classifier_activation=None
    )
    return exact(application, config.batch_norm, config.name, seed, precision, config.conventions)
