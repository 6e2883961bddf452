"""A complete configuration from command-line overrides."""

from __future__ import annotations

import functools
import os

from trainer.config.compose import run_with_hydra
from trainer.config.schema import Config


def compose(*arguments: str) -> Config:
    return _composed(os.getcwd(), *arguments)  # paths in a configuration are relative to it


@functools.cache  # Hydra takes a sixth of a second, and most tests ask for one of a few configurations
def _composed(directory: str, *arguments: str) -> Config:
    composed = []
    run_with_hydra(arguments, lambda invocation, config: composed.append(config))
    (config,) = composed
    return config
