"""What a configuration finds in the start cache: the functions of programs that had the same code and configuration."""

from __future__ import annotations

from trainer.config import plugins
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.distributed.replicas import Replicas
from trainer.fingerprint.versions import chosen_plugins
from trainer.runtime.start_cache import StartCache, start_cache

# the code that decides the graphs of a step, of an evaluation and of predictions
BUILT = ("model.", "optimizer.", "schedule.")
COMPILED = ("trainer.training", "trainer.models", "trainer.distributed", "trainer.config.schema")


def start_cache_of(config: Config, replicas: Replicas) -> StartCache | None:
    """None where nothing is kept: on several replicas, and with XLA, which keeps what it compiles."""
    if replicas.count > 1 or config.runtime.xla:
        return None
    return start_cache([*COMPILED, *plugins.packages(chosen_plugins(config))], deciding(config))


def deciding(config: Config) -> str:
    """The keys that may decide a graph, as text: all that a resume may not change freely, and all of what plug-ins
    build. So a run that goes on for more steps, or keeps other checkpoints, finds what it has traced. The batch of an
    evaluation is free, and is seen in what the function takes; the devices are in the name as TensorFlow has them.
    """
    found = leaves(config)
    return "\n".join(f"{path} = {value!r}" for path, value, fact in found if fact.resume != "free" or path.startswith(BUILT))
