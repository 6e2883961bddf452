"""What a configuration finds in the start cache: the functions of programs that had the same code and configuration."""

from __future__ import annotations

from trainer.config import plugins
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.distributed.replicas import Replicas
from trainer.fingerprint.versions import chosen_plugins
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
# A plug-in may build these of anything: modules of other packages, files, variables of the environment.
BUILDING = (plugins.MODELS, plugins.OPTIMIZERS, plugins.SCHEDULES)
COMPILED = ("train.log_every_steps",)  # keys that a resume may change freely, and that a graph has all the same


def start_cache_of(config: Config, replicas: Replicas) -> StartCache | None:
    """None where nothing is kept: on several replicas, with XLA, which keeps what it compiles, and where a plug-in has
    a part in the step: nothing tells from outside whether it would still build the same.
    """
    if replicas.count > 1 or config.runtime.xla:
        return None
    if any(group in BUILDING for group, _ in chosen_plugins(config)):
        return None
    return start_cache(DECIDING, deciding(config))


def deciding(config: Config) -> str:
    """The keys that may decide a graph, as text: all that a resume may not change freely, and what else is compiled. So
    a run that goes on for more steps, or keeps other checkpoints, finds what was traced before. The batch of an
    evaluation is free, and is seen in what the function takes; devices are in the name as TensorFlow has them.
    """
    return "\n".join(
        f"{path} = {value!r}" for path, value, fact in leaves(config) if fact.resume != "free" or path in COMPILED
    )
