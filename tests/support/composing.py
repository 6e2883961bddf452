"""A complete configuration from command-line overrides."""

from __future__ import annotations

from trainer.config.compose import run_with_hydra
from trainer.config.schema import Config


def compose(*arguments: str) -> Config:
    composed = []
    run_with_hydra(arguments, lambda invocation, config: composed.append(config))
    (config,) = composed
    return config
