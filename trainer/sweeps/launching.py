"""Running the trials of a sweep by a launcher plug-in of Hydra: several at a time, or as jobs of a cluster.

Hydra runs a second time, after the sweep was planned and written. What the launcher starts does nothing but run a
trial of ``sweep.yaml`` (``trainer/sweeps/launched.py``).
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trainer.config.multirun import launch_with_hydra
from trainer.errors import Stopped, TrainerError, printable
from trainer.runtime.signals import StopRequest, exit_status
from trainer.sweeps import launched
from trainer.sweeps.launched import Launch
from trainer.sweeps.outcomes import Outcomes
from trainer.sweeps.plan import Sweep, resume_command
from trainer.sweeps.trial import is_finished

# whose processes run on this machine and belong to the launching one
LOCAL = ("joblib", "submitit_local")


def run(
    sweep_dir: Path,
    sweep: Sweep,
    overrides: tuple[tuple[str, ...], ...],
    arguments: Sequence[str],
    launcher: str,
    stop: StopRequest,
) -> int:
    """Finish every trial that is not, and print a table of all; returns the exit status.

    ``overrides`` are those of each trial as ``arguments`` make them, which may be in other words than in ``sweep``.

    Raises:
        Stopped: a signal ended this process, and the trials where they are ``LOCAL``.
    """
    outcomes = Outcomes(stop)
    before = [trial for trial in sweep.trials if is_finished(sweep_dir, trial)]
    launch = Launch(sweep_dir, Path(tempfile.mkdtemp(prefix=".launch-", dir=sweep_dir)), overrides, launcher in LOCAL)

    def leave() -> NoReturn:
        raise _Left

    failure: TrainerError | None = None
    try:
        with stop.answered_by(functools.partial(launched.ask_to_stop, launch) if launch.local else leave):
            launch_with_hydra(arguments, sweep_dir, functools.partial(launched.run, launch))
        if launcher == "joblib":
            _end_pool()
    except TrainerError as error:  # what was begun counts, and is in the table
        failure = error
    except _Left:
        assert stop.signal is not None
        raise Stopped(
            f"{stop.signal.name}; the jobs that {launcher} has started go on by themselves; when they have ended:\n"
            f"  {resume_command(sweep_dir)}",
            exit_status(stop.signal),
        ) from None
    for trial in sweep.trials:
        status = launched.read_status(launch, trial.number)
        if trial in before:
            outcomes.finished_before(trial)
        elif status is not None:
            outcomes.ended(trial, status)
        elif is_finished(sweep_dir, trial):  # and its process was lost before it could say so
            outcomes.ended(trial, 0)
        elif stop.signal is None:
            outcomes.nothing_known(trial)
    shutil.rmtree(launch.place)
    if failure is not None:
        print(printable(f"error: {failure}"), flush=True)
    return outcomes.conclude(sweep_dir, sweep)


def _end_pool() -> None:
    """End joblib's processes, which otherwise wait minutes for more work: this process ends without its exit hooks."""
    from joblib.externals.loky import get_reusable_executor  # the launcher has imported it, too

    pool = get_reusable_executor(reuse=True)
    if hasattr(pool, "terminate"):  # joblib's own, with a temporary directory; with n_jobs=1 it needed none
        pool.terminate()
    pool.shutdown(wait=True)


class _Left(BaseException):
    """Leaves Hydra and the launcher, which answer to an ordinary exception, when there is nothing to wait for."""
