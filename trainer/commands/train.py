"""``train``: compose a configuration with Hydra and start a run from it, or a sweep of several with ``--multirun``."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.compose import Job, run_with_hydra
from trainer.config.schema import Config, Invocation
from trainer.signals import StopRequest
from trainer.startup import importing_tensorflow
from trainer.sweeps import plan, running


def main(arguments: Sequence[str]) -> int:
    stop = StopRequest()
    stop.install()

    def start(invocation: Invocation, config: Config) -> None:
        with importing_tensorflow():
            from trainer import session  # imports TensorFlow, which a wrong configuration must not wait for

        session.train(invocation, config, stop)

    jobs = run_with_hydra(arguments, start)
    return _sweep(jobs, stop) if jobs else 0


def _sweep(jobs: Sequence[Job], stop: StopRequest) -> int:
    sweep, sweep_dir = plan.plan(jobs), jobs[0].sweep_dir
    on_existing = next(job.invocation.on_existing for job in jobs if job.invocation is not None)
    plan.begin(sweep_dir, sweep, on_existing)
    return running.run(sweep_dir, sweep, stop)
