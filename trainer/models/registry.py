"""Which builder a configuration names. A stored configuration never imports or instantiates what it names."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
from keras.src.backend.common import global_state  # not public; it has what Keras numbers names by

from trainer.config.registry import builder_of
from trainer.config.schema.networks import ModelConfig
from trainer.config.schema.training import Precision

COUNTS = "object_name_uids"


def build_model(config: ModelConfig, image_size: int, seed: int | None, precision: Precision) -> keras.Model:
    """Build the configured network. Arguments, inputs and outputs are those of ``build_inception_v3``."""
    assert config.num_classes is not None, "complete() fills it in"
    with _names_of_a_new_process():
        return builder_of(config)(config, config.num_classes, image_size, seed, precision)


@contextmanager
def _names_of_a_new_process() -> Iterator[None]:
    """Keras numbers what was given no name, such as the scales of ConvNeXt, through the process. Names are in
    checkpoints, so a network has those of a process that has built nothing else.
    """
    counted = global_state.get_global_attribute(COUNTS)
    global_state.set_global_attribute(COUNTS, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(COUNTS, counted)


def output_names(class_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """A name for every output of a network: those of the data's classes, and numbers for the outputs beyond them."""
    assert num_classes is not None, "complete() fills it in"
    return (*class_names, *map(str, range(len(class_names), num_classes)))
