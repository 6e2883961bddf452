"""Run the trials of a sweep with one of Hydra's launcher plug-ins: several at a time, or as jobs of a cluster.

Hydra runs a second time, after the sweep was planned and written. Each process that the launcher starts only runs a
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
from trainer.sweeps.trial import is_finished, why_diverged

# launchers whose processes run on this machine and belong to the launching process
LOCAL = ("joblib", "submitit_local")


def run(
    sweep_dir: Path,
    sweep: Sweep,
    overrides: tuple[tuple[str, ...], ...],
    arguments: Sequence[str],
    launcher: str,
    stop: StopRequest,
) -> int:
    """Finish every unfinished trial and print a table of all trials; returns the exit status.

    ``overrides`` are those of each trial, as ``arguments`` make them. ``sweep`` may have them in other words.

    Raises:
        Stopped: a signal ended this process, and with a ``LOCAL`` launcher also the trials.
    """
    outcomes = Outcomes(stop)
    before = [trial for trial in sweep.trials if is_finished(sweep_dir, trial)]
    diverged_before = [trial for trial in sweep.trials if why_diverged(sweep_dir, trial) is not None]
    launch = Launch(sweep_dir, Path(tempfile.mkdtemp(prefix=".launch-", dir=sweep_dir)), overrides, launcher in LOCAL)

    def leave() -> NoReturn:
        raise _Left

    failure: TrainerError | None = None
    try:
        with stop.answered_by(functools.partial(launched.ask_to_stop, launch) if launch.local else leave):
            launch_with_hydra(arguments, sweep_dir, functools.partial(launched.run, launch))
        if launcher == "joblib":
            _end_pool()
    except TrainerError as error:  # trials that have begun still count, and are in the table
        failure = error
    except _Left:
        assert stop.signal is not None
        raise Stopped(
            f"{stop.signal.name}; the jobs that {launcher} has started continue by themselves; when they have ended:\n"
            f"  {resume_command(sweep_dir)}",
            exit_status(stop.signal),
        ) from None
    for trial in sweep.trials:
        status = launched.read_status(launch, trial.number)
        if trial in before:
            outcomes.finished_before(trial)
        elif (reason := why_diverged(sweep_dir, trial)) is not None:
            outcomes.diverged(trial, reason, before=trial in diverged_before)
        elif status is not None:
            outcomes.ended(trial, status)
        elif is_finished(sweep_dir, trial):  # its process was lost before it could leave a note
            outcomes.ended(trial, 0)
        elif stop.signal is None:
            outcomes.nothing_known(trial)
    shutil.rmtree(launch.place)
    if failure is not None:
        print(printable(f"error: {failure}"), flush=True)
    return outcomes.conclude(sweep_dir, sweep)


def _end_pool() -> None:
    """End joblib's processes. This process ends without exit hooks, so they would wait minutes for more work."""
    from joblib.externals.loky import get_reusable_executor  # the launcher has imported it too

    pool = get_reusable_executor(reuse=True)
    if hasattr(pool, "terminate"):  # joblib's own, with a temporary directory; n_jobs=1 needs no pool
        pool.terminate()
    pool.shutdown(wait=True)


class _Left(BaseException):
    """Leaves Hydra and the launcher, which handle ordinary exceptions, when there is nothing to wait for."""
