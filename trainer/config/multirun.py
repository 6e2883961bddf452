"""The jobs of a ``--multirun``: their list, and their launch by a plug-in of Hydra."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from trainer.config.compose import application, composing, run_application, typed
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
    settings_of(arguments, "launcher")


def settings_of(arguments: Sequence[str], kind: str) -> DictConfig:
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
            refuse_plugins(kind)
        jobs.append(job_of(composed))

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


def refuse_plugins(kind: str) -> None:
    """Refuse a launcher or a sweeper that a configuration file chose: this program looks at the command line only.

    Raises:
        UsageError: names it.
    """
    chosen = HydraConfig.get().runtime.choices[f"hydra/{kind}"]
    if chosen != STOCK:
        raise UsageError(f"a configuration file sets hydra/{kind}={chosen}; give it on the command line instead")


def job_of(composed: DictConfig) -> Job:
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
