"""What a configuration finds in the start cache: the functions of programs that had the same code and configuration."""

from __future__ import annotations

from trainer.config import plugins, stored
from trainer.config.schema import Config
from trainer.distributed.replicas import Replicas
from trainer.fingerprint.versions import chosen_plugins
from trainer.runtime.start_cache import StartCache, start_cache

# the code that decides the graphs of a step, of an evaluation and of predictions
COMPILED = ("trainer.training", "trainer.models", "trainer.distributed", "trainer.config.schema")


def start_cache_of(config: Config, replicas: Replicas) -> StartCache | None:
    """None where nothing is kept: on several replicas, and with XLA, which keeps what it compiles."""
    if replicas.count > 1 or config.runtime.xla:
        return None
    return start_cache([*COMPILED, *plugins.packages(chosen_plugins(config))], stored.to_text(config))
