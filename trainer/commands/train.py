"""``train``: compose a configuration with Hydra and start a run from it."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.compose import run_with_hydra
from trainer.config.schema import Config, Invocation
from trainer.quiet import quiet_startup
from trainer.signals import StopRequest


def main(arguments: Sequence[str]) -> int:
    stop = StopRequest()
    stop.install()

    def start(invocation: Invocation, config: Config) -> None:
        with quiet_startup():
            from trainer import session  # imports TensorFlow, which a wrong configuration must not wait for

        session.train(invocation, config, stop)

    run_with_hydra(arguments, start)
    return 0
