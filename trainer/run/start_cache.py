"""What a configuration finds in the start cache: the functions of programs that had the same code and configuration."""

from __future__ import annotations

import keras

from trainer.config import plugins
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.distributed.replicas import Replicas
from trainer.fingerprint.versions import chosen_plugins
from trainer.models.definition import definition
from trainer.runtime.start_cache import StartCache, start_cache

# The code that decides the graphs of a step, of an evaluation and of predictions, and the facts about them: the
# packages that these may import, but those of files and records (tests/run/test_start_cache.py).
DECIDING = (
    "trainer.training",
    "trainer.models",
    "trainer.distributed",
    "trainer.fingerprint",
    "trainer.data",
    "trainer.config",
    "trainer.runtime",
)
# A plug-in may make these of anything: modules of other packages, files, variables of the environment.
COMPUTING = (plugins.OPTIMIZERS, plugins.SCHEDULES)
COMPILED = ("train.log_every_steps",)  # keys that a resume may change freely, and that a graph has all the same


def start_cache_of(config: Config, replicas: Replicas, model: keras.Model) -> StartCache | None:
    """None where nothing is kept: on several replicas, with XLA, which keeps what it compiles, and where the code of a
    plug-in has a part in the step: nothing tells from outside whether it would still do the same. A network that a
    plug-in has built of Keras's layers is known by its definition.
    """
    if replicas.count > 1 or config.runtime.xla:
        return None
    chosen = chosen_plugins(config)
    if any(group in COMPUTING for group, _ in chosen):
        return None
    networks = [entry for entry in chosen if entry[0] == plugins.MODELS]
    if not networks:
        return start_cache(DECIDING, deciding(config))
    defined = definition(model)
    if defined is None:
        return None
    # its code as well: it might have changed a class of Keras
    return start_cache((*DECIDING, *plugins.packages(networks)), f"{deciding(config)}\n{defined}")


def deciding(config: Config) -> str:
    """The keys that may decide a graph, as text: all that a resume may not change freely, and what else is compiled. So
    a run that goes on for more steps, or keeps other checkpoints, finds what was traced before. The batch of an
    evaluation is free, and is seen in what the function takes; devices are in the name as TensorFlow has them.
    """
    return "\n".join(
        f"{path} = {value!r}" for path, value, fact in leaves(config) if fact.resume != "free" or path in COMPILED
    )
