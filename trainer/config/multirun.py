"""The jobs of a ``--multirun``: their list, their launch by a plug-in of Hydra, and a search by one."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config.compose import application, composing, configuration_places, run_application, typed
from trainer.config.explain import explain
from trainer.config.metrics import LOWER_IS_BETTER
from trainer.config.schema import Config, Invocation
from trainer.errors import LaunchFailed, TrainerError, UsageError

STOCK = "basic"  # Hydra's own launcher and sweeper
NO_LAUNCHER = "none"  # of this program: the sweep is only planned
CONCERNS = {kind: re.compile(rf"[+~]*hydra[/.]{kind}([./=]|$)") for kind in ("launcher", "sweeper")}
MESSAGE_SHOWN = 2000  # characters of a launcher's message


@dataclasses.dataclass(frozen=True)
class Job:
    """One combination of a ``--multirun``, as Hydra composed it: what to run, or the ``problem`` with it.

    ``directory`` is what Hydra calls ``hydra.sweep.subdir``, under ``sweep_dir``.
    """

    number: int
    sweep_dir: Path
    directory: str
    overrides: tuple[str, ...]
    invocation: Invocation | None
    config: Config | None
    problem: str | None


class Suspended(BaseException):
    """Ends a search that has no result to continue with. Hydra and sweepers would handle an ordinary exception."""


class NoResult(enum.Enum):
    """A trial of a search has no result. If that is ``FINAL``, the trial would end so again: it diverged, or its
    configuration is not valid. The sweeper learns of it and goes on. A trial that ``FAILED`` otherwise ends the search,
    and is tried again when the search continues, unless ``hydra.sweeper.max_failure_rate`` is 1.
    """

    FINAL = "final"
    FAILED = "failed"


class _TrialFailed(Exception):
    """Reports a trial without a result to the sweeper."""


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for several jobs."""
    return bool({"--multirun", "-m", "hydra.mode=MULTIRUN"} & set(arguments))


def plugin(arguments: Sequence[str], kind: str) -> str:
    """The ``launcher`` or ``sweeper`` that a command line chooses; ``STOCK`` when it chooses none."""
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"hydra/{kind}=")]
    return [STOCK, *chosen][-1]


def without_launcher(arguments: Sequence[str]) -> list[str]:
    """A command line that makes the same jobs with Hydra's own launcher."""
    return [argument for argument in arguments if not CONCERNS["launcher"].match(argument)]


def check_launcher(arguments: Sequence[str]) -> None:
    """
    Raises:
        UsageError: the launcher is not installed, or one of its settings is wrong.
    """
    _settings(arguments, "launcher")


def _settings(arguments: Sequence[str], kind: str) -> DictConfig:
    """The settings of the launcher or sweeper that a command line chooses, before anything else is done with it.

    Raises:
        UsageError: it is not installed, or one of its settings is wrong.
    """
    chosen = [argument for argument in arguments if CONCERNS[kind].match(argument)]
    with composing(chosen):
        settings = OmegaConf.select(hydra.compose("config", chosen, return_hydra_config=True), f"hydra.{kind}")
    assert isinstance(settings, DictConfig)
    return settings


def jobs_of(arguments: Sequence[str]) -> list[Job]:
    """The jobs of a ``--multirun`` with Hydra's own launcher and sweeper.

    Raises:
        UsageError: the command line is wrong; for a single job, only where Hydra itself cannot compose it.
    """
    jobs: list[Job] = []

    def job(composed: DictConfig) -> None:
        for kind in ("launcher", "sweeper"):
            _refuse_plugins(kind)
        jobs.append(_job(composed))

    run_application(arguments, job)
    return jobs


def launch_with_hydra(arguments: Sequence[str], sweep_dir: Path, run: Callable[[int, tuple[str, ...]], None]) -> None:
    """Have the launcher call ``run`` with the number and overrides of each job of a ``--multirun``, in its own
    processes. ``run`` is pickled, and its result is lost. Hydra and the launcher leave their records in ``sweep_dir``.

    Raises:
        LaunchFailed: the launcher failed, or lost a process.
        TrainerError: ``run`` raised it.
    """

    def job(composed: DictConfig) -> None:
        run(HydraConfig.get().job.num, tuple(HydraConfig.get().overrides.task))

    place = QuotedString(str(sweep_dir), Quote.single).with_quotes()
    try:
        application([*arguments, f"hydra.sweep.dir={place}"], job)
    except TrainerError:
        raise
    except Exception as error:  # whatever a plug-in, a cluster or a pool of processes raises
        said = f"{type(error).__name__}: {error}"[:MESSAGE_SHOWN].rstrip()
        raise LaunchFailed(f"hydra/launcher={plugin(arguments, 'launcher')} failed: {said}") from error


def search_with_hydra(arguments: Sequence[str], result_of: Callable[[Job], float | NoResult]) -> bool:
    """Have the sweeper choose each job by the results of earlier ones. Returns whether it wants no more.

    ``result_of`` runs a job. It may raise ``Suspended``.

    Raises:
        UsageError: with the sweeper's settings a stopped search could not continue; or as ``jobs_of``.
        TrainerError: ``result_of`` raised it.
    """
    sweeper = plugin(arguments, "sweeper")
    if sweeper != "optuna":
        raise UsageError(f"hydra/sweeper={sweeper} is not supported; allowed: {STOCK}, optuna")
    if not any(argument.startswith("hydra.sweeper.n_jobs=") for argument in arguments):
        arguments = [*arguments, "hydra.sweeper.n_jobs=1"]  # Optuna's default is 2: chosen without each other's result
    settings = _settings(arguments, "sweeper")
    _check_search(settings)
    accepts_failures = settings.max_failure_rate >= 1
    arguments = [*arguments, "hydra.sweeper.max_failure_rate=1"]  # which failures end the search is decided here
    failures: list[TrainerError] = []
    results: list[float] = []
    composed_once = False

    def job(composed: DictConfig) -> float:
        nonlocal composed_once
        composed_once = True
        try:
            _refuse_plugins("launcher")
            proposed = _job(composed)
            _check_direction(settings, proposed)
            result = result_of(proposed)
        except TrainerError as error:
            failures.append(error)  # as in run_application; the sweeper does not see it
            raise Suspended from error
        if result is NoResult.FAILED and not accepts_failures:
            raise Suspended
        if isinstance(result, NoResult):
            raise _TrialFailed("the trial failed; above is why")
        results.append(result)
        return result

    try:
        application(arguments, job)
    except Suspended:
        if failures:
            raise failures[0] from None
        return False
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if composed_once and not results and isinstance(error, ValueError):
            return True  # every trial has failed, and Optuna finds no best one
        if composed_once and isinstance(error, ValueError):
            raise
        raise UsageError(explain(error, arguments, configuration_places())) from error
    return True


def _refuse_plugins(kind: str) -> None:
    """Refuse a launcher or a sweeper that a configuration file chose: this program looks at the command line only.

    Raises:
        UsageError: names it.
    """
    chosen = HydraConfig.get().runtime.choices[f"hydra/{kind}"]
    if chosen != STOCK:
        raise UsageError(f"a configuration file sets hydra/{kind}={chosen}; give it on the command line instead")


def _check_search(sweeper: DictConfig) -> None:
    """Refuse settings of Optuna's sweeper with which a stopped search could not continue.

    Raises:
        UsageError: names the key and the value that it should have.
    """
    if OmegaConf.select(sweeper, "sampler.seed") is None:
        raise UsageError(
            "hydra.sweeper.sampler.seed is not set: a stopped search can continue only if the same trials are chosen "
            "again\nadd hydra.sweeper.sampler.seed=1; a grid needs no sweeper: key=1,2"
        )
    if sweeper.n_jobs != 1:
        raise UsageError(f"hydra.sweeper.n_jobs is {sweeper.n_jobs}, but a search runs its trials in turn: use 1")
    if sweeper.storage is not None:
        raise UsageError("hydra.sweeper.storage cannot be set: a search keeps its results with its trials")


def _check_direction(sweeper: DictConfig, job: Job) -> None:
    """Refuse to look for the worst trial.

    Raises:
        UsageError: names the key and the value that it should have.
    """
    if job.config is None:
        return
    metric = job.config.checkpoint.best_metric
    wanted = "minimize" if metric in LOWER_IS_BETTER else "maximize"
    direction = getattr(sweeper.direction, "name", sweeper.direction)
    if direction != wanted:
        raise UsageError(
            f"hydra.sweeper.direction is {direction}, and checkpoint.best_metric is {metric}\n"
            f"add hydra.sweeper.direction={wanted}, or choose another checkpoint.best_metric"
        )


def _job(composed: DictConfig) -> Job:
    """
    Raises:
        UsageError: all jobs would share one directory.
    """
    settings = HydraConfig.get()
    if any(override.split("=")[0] == "run_dir" for override in settings.overrides.task):
        raise UsageError(
            "run_dir is one directory, but a sweep needs one for each trial\n"
            "set hydra.sweep.dir=DIR for the sweep, and hydra.sweep.subdir for the trials in it"
        )
    invocation, config, problem = None, None, None
    try:
        invocation, config = typed(composed)
    except UsageError as error:
        problem = str(error)
    return Job(
        number=settings.job.num,
        sweep_dir=Path(settings.sweep.dir).absolute(),
        directory=str(settings.sweep.subdir),
        overrides=tuple(settings.overrides.task),
        invocation=invocation,
        config=config,
        problem=problem,
    )
