"""``train``: compose a configuration with Hydra and start a run from it, or a sweep of several with ``--multirun``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.arguments import parse_arguments
from trainer.config.compose import run_with_hydra
from trainer.config.multirun import (
    NO_LAUNCHER,
    STOCK,
    Job,
    check_launcher,
    is_multirun,
    jobs_of,
    plugin,
    without_launcher,
)
from trainer.config.schema import Config, Invocation
from trainer.config.spelling import is_given, respelled
from trainer.distributed.attendance import expected
from trainer.errors import UsageError
from trainer.runtime.importing import importing_tensorflow
from trainer.runtime.shortage import refuse_small_limit
from trainer.runtime.signals import StopRequest
from trainer.sweeps import launching, plan, running


def main(arguments: Sequence[str]) -> int:
    stop = StopRequest()
    stop.install()

    if not is_multirun(arguments):
        _train(arguments, stop)
        return 0
    arguments = respelled(arguments, sweeps=True)
    if any(argument.lower() == "train.fast_dev_run=true" for argument in arguments):
        raise UsageError("train.fast_dev_run=true keeps nothing, so there is no sweep of it; try one run of the sweep")
    plan.refuse_place(_sweep_place(arguments))  # Hydra writes into it before it calls any job
    launcher, sweeper = plugin(arguments, "launcher"), plugin(arguments, "sweeper")
    if launcher != STOCK:
        if sweeper != STOCK:
            raise UsageError(
                f"hydra/sweeper={sweeper} with hydra/launcher={launcher}: a search chooses each trial by the results "
                "of the trials before, so they run one after another; leave the launcher out"
            )
        if launcher != NO_LAUNCHER:
            check_launcher(arguments)
    if sweeper != STOCK:
        # It loads code of the configuration that no resume loads, and the start cache is named for all such code.
        from trainer.sweeps import searching

        return searching.run(arguments, stop)
    jobs = jobs_of(arguments if launcher == STOCK else without_launcher(arguments))
    return _sweep(jobs, arguments, launcher, stop) if jobs else 0


def _train(arguments: Sequence[str], stop: StopRequest) -> None:
    with expected(arguments, stop) as arrive:

        def start(invocation: Invocation, config: Config) -> None:
            refuse_small_limit()
            with importing_tensorflow():
                from trainer.run import session  # imports TensorFlow, which a wrong configuration must not wait for

            arrive()
            session.train(invocation, config, stop, anywhere=not is_given("run_dir", arguments), ends_process=True)

        run_with_hydra(arguments, start)


def _sweep_place(arguments: Sequence[str]) -> Path:
    """The directory of a sweep as far as the command line gives it: up to the first interpolation."""
    given = [argument for argument in arguments if argument.startswith("hydra.sweep.dir=")]
    value = str(*parse_arguments(given[-1:]).values()) if given else ""
    return Path(value.partition("${")[0])


def _sweep(jobs: Sequence[Job], arguments: Sequence[str], launcher: str, stop: StopRequest) -> int:
    sweep, sweep_dir = plan.plan(jobs), jobs[0].sweep_dir
    on_existing = next(job.invocation.on_existing for job in jobs if job.invocation is not None)
    plan.begin(sweep_dir, sweep, on_existing)
    if launcher == NO_LAUNCHER:
        print(plan.ways_to_run(sweep_dir, sweep))
        return 0
    if launcher == STOCK:
        return running.run(sweep_dir, sweep, stop)
    overrides = tuple(trial.overrides for trial in sweep.trials)
    return launching.run(sweep_dir, sweep, overrides, arguments, launcher, stop)
