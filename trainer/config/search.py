"""A search: one of the jobs of a ``--multirun`` after the other, each chosen by the results of earlier ones.

``hydra/sweeper=optuna`` is a part of this program, with the keys of the plug-in hydra-optuna-sweeper. Here are its
settings, what it may vary, and how Hydra composes a job; ``trainer.sweeps`` chooses and runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config.compose import application, configuration_places
from trainer.config.explain import explain
from trainer.config.metrics import LOWER_IS_BETTER
from trainer.config.multirun import STOCK, Job, job_of, plugin, refuse_plugins, settings_of
from trainer.config.search_keys import DIRECTIONS, PRUNERS, SAMPLERS, OptunaKeys
from trainer.errors import TrainerError, UsageError

NAME = "optuna"
OLDEST = (4, 9)  # of Optuna: the one that this program is tested with
INSTALL = "pip install 'resumable-trainer[sweeps]'"
Value = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Integers:
    """The integers from ``low`` to ``high``, both included, in steps. ``log``: their logarithms are spread evenly."""

    low: int
    high: int
    step: int
    log: bool


@dataclasses.dataclass(frozen=True)
class Floats:
    """The numbers from ``low`` to ``high``; in steps, unless ``step`` is None."""

    low: float
    high: float
    step: float | None
    log: bool


Domain = Choices | Integers | Floats


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a search chooses. ``sampler`` and ``pruner`` are the ``name`` of one, and its keys."""

    n_trials: int
    direction: str
    storage: str | None
    study_name: str | None
    accepts_failures: bool
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Proposer:
    """What a search gets from Hydra. ``compose`` makes the job of a number from the values of what is varied."""

    settings: Settings
    space: Mapping[str, Domain]
    sweep_dir: Path
    compose: Callable[[int, Mapping[str, Value]], Job]


def assignments(values: Mapping[str, Value]) -> tuple[str, ...]:
    """The overrides that set ``values``."""
    return tuple(f"{name}={'null' if value is None else value}" for name, value in values.items())


def values_in(overrides: Sequence[str], space: Mapping[str, Domain]) -> dict[str, Value] | None:
    """The values of what is varied, from the overrides of a trial; None where they are not of this ``space``."""
    texts = dict(override.split("=", 1) for override in overrides if "=" in override)
    found: dict[str, Value] = {}
    for name, domain in space.items():
        if name not in texts:
            return None
        text = texts[name]
        try:
            if isinstance(domain, Choices):
                value = next(each for each in domain.values if assignments({name: each})[0] == f"{name}={text}")
            else:
                value = int(text) if isinstance(domain, Integers) else float(text)
                if not domain.low <= value <= domain.high:
                    return None
        except (StopIteration, ValueError):
            return None
        found[name] = value
    return found


def search_with_hydra(arguments: Sequence[str], search: Callable[[Proposer], None]) -> None:
    """Call ``search`` inside of Hydra, which composes its jobs.

    Raises:
        UsageError: Optuna is missing, or a stopped search could not continue with these settings; or as ``jobs_of``.
        TrainerError: ``search`` raised it.
    """
    sweeper = plugin(arguments, "sweeper")
    if sweeper != NAME:
        raise UsageError(f"hydra/sweeper={sweeper} is not supported; allowed: {STOCK}, {NAME}")
    _refuse_without_optuna()
    _check(settings_of(arguments, "sweeper"))
    task = _Task(arguments, search)
    try:
        with _made_here(task):
            application(arguments, task)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if task.begun and isinstance(error, ValueError):
            raise
        raise UsageError(explain(error, arguments, configuration_places())) from error
    if task.failure is not None:
        raise task.failure


def _refuse_without_optuna() -> None:
    try:
        version = importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"hydra/sweeper={NAME} is not installed: {INSTALL}") from None
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UsageError(f"optuna {version} is installed, and a search needs {oldest} or newer: {INSTALL}")


def _check(given: DictConfig) -> None:
    """Refuse settings with which a stopped search could not continue.

    Raises:
        UsageError: names the key and the value that it should have.
    """
    if OmegaConf.select(given, "sampler.seed") is None:
        raise UsageError(
            "hydra.sweeper.sampler.seed is not set: a search that is stopped and continued must choose what one that "
            "is never stopped would\nadd hydra.sweeper.sampler.seed=1; a grid needs no sweeper: key=1,2"
        )
    for kind, names in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        chosen = OmegaConf.select(given, f"{kind}.name")
        if chosen not in names:  # an installed hydra-optuna-sweeper has others
            raise UsageError(f"hydra/sweeper/{kind} is not one of {', '.join(names)}")
    if given.n_jobs != 1:
        raise UsageError(
            f"hydra.sweeper.n_jobs is {given.n_jobs}, but one process runs its trials in turn: use 1\n"
            "for more at a time, start the same command several times, with a fixed hydra.sweep.dir and "
            "on_existing=resume: they share the trials"
        )
    if given.direction not in DIRECTIONS:
        raise UsageError(f"hydra.sweeper.direction is {given.direction}; allowed: {', '.join(DIRECTIONS)}")
    if given.storage is not None and given.study_name is None:
        raise UsageError(
            "hydra.sweeper.storage is given without hydra.sweeper.study_name, and a search could not find its study "
            "again\nadd hydra.sweeper.study_name=NAME, or leave both out: the study is then in the sweep's directory"
        )


def _settings(given: DictConfig) -> Settings:
    plain = cast(dict[str, Any], OmegaConf.to_container(given, resolve=True))
    return Settings(
        n_trials=plain["n_trials"],
        direction=plain["direction"],
        storage=plain["storage"],
        study_name=plain["study_name"],
        accepts_failures=plain["max_failure_rate"] >= 1,
        sampler=plain["sampler"],
        pruner=plain["pruner"],
    )


class _Task:
    """What Hydra calls with each job that it has composed, and in the place of a sweeper."""

    def __init__(self, arguments: Sequence[str], search: Callable[[Proposer], None]) -> None:
        self._arguments = arguments
        self._search = search
        self.begun = False
        self.failure: TrainerError | None = None

    def __call__(self, composed: DictConfig) -> Job:
        refuse_plugins("launcher")
        return job_of(composed)

    def search(self, config: DictConfig, launcher: Launcher, overrides: Sequence[str]) -> None:
        """Run the search with the jobs that ``launcher`` makes of ``overrides`` and of chosen values."""
        try:
            settings = _settings(config.hydra.sweeper)
            space, fixed = _space(config.hydra.sweeper.params or {}, overrides)

            def compose(number: int, values: Mapping[str, Value]) -> Job:
                try:
                    (made,) = launcher.launch([(*assignments(values), *fixed)], initial_job_idx=number)
                    job = made.return_value
                except (HydraException, OmegaConfBaseException) as error:
                    raise UsageError(explain(error, self._arguments, configuration_places())) from error
                assert isinstance(job, Job)
                _check_direction(settings, job)
                return job

            self.begun = True
            self._search(Proposer(settings, space, Path(config.hydra.sweep.dir).absolute(), compose))
        except TrainerError as error:
            self.failure = error  # on its way through Hydra it would gain lines of Hydra's


@dataclasses.dataclass(frozen=True)
class _Sweeper:
    """What Hydra uses of a sweeper."""

    task: _Task
    config: DictConfig
    launcher: Launcher

    def sweep(self, arguments: Sequence[str]) -> None:
        self.task.search(self.config, self.launcher, arguments)


@contextlib.contextmanager
def _made_here(task: _Task) -> Iterator[None]:
    """In this block Hydra gets its sweeper from here. By itself it makes those of installed plug-ins only."""
    plugins = Plugins.instance()

    def make(*, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> _Sweeper:
        return _Sweeper(task, config, plugins.instantiate_launcher(hydra_context, task_function, config))

    vars(plugins)["instantiate_sweeper"] = make
    try:
        yield
    finally:
        del vars(plugins)["instantiate_sweeper"]


def _space(params: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Domain], tuple[str, ...]]:
    """What is varied, by key, and the other overrides.

    Raises:
        UsageError: nothing is varied, or in a way that Optuna does not know.
    """
    given = [f"{name}={value}" for name, value in params.items()]
    space: dict[str, Domain] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides([*given, *overrides]):
        name = override.get_key_element()
        if override.is_sweep_override():
            space[name] = _domain(override)
            fixed.pop(name, None)
        else:
            value = override.get_value_element_as_str()
            fixed[name] = str(override.input_line) if override.is_delete() else f"{name}={value}"
            space.pop(name, None)
    if not space:
        raise UsageError(
            "this search varies nothing\n"
            "add what it may choose: 'optimizer.learning_rate=tag(log,interval(1e-4,1e-1))', optimizer=adam,sgd"
        )
    return space, tuple(fixed.values())


def _domain(override: Override) -> Domain:
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return Integers(value.start, value.end, 1, log)
        return Floats(value.start, value.end, None, log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        assert value.start is not None
        assert value.stop is not None
        if isinstance(value.start, int) and isinstance(value.stop, int) and isinstance(value.step, int):
            return Integers(value.start, value.stop, value.step, log=False)
        return Floats(value.start, value.stop, value.step, log=False)
    if isinstance(value, ChoiceSweep | RangeSweep):
        return Choices(tuple(_plain(override, each) for each in override.sweep_iterator(Transformer.encode)))
    raise UsageError(f"{override.input_line}: a search takes interval(…), range(…), choice(…) or values with commas")


def _plain(override: Override, value: object) -> Value:
    if not isinstance(value, str | int | float | bool | None):
        raise UsageError(f"{override.input_line}: a search chooses between texts, numbers, true, false and null only")
    return value


def _check_direction(settings: Settings, job: Job) -> None:
    """Refuse to look for the worst trial.

    Raises:
        UsageError: names the key and the value that it should have.
    """
    if job.config is None:
        return
    metric = job.config.checkpoint.best_metric
    wanted = "minimize" if metric in LOWER_IS_BETTER else "maximize"
    if settings.direction != wanted:
        raise UsageError(
            f"hydra.sweeper.direction is {settings.direction}, and checkpoint.best_metric is {metric}\n"
            f"add hydra.sweeper.direction={wanted}, or choose another checkpoint.best_metric"
        )


def _register() -> None:
    """Tell Hydra of the keys. They replace those of an installed plug-in of the same name."""
    store = ConfigStore.instance().store
    store(group="hydra/sweeper", name=NAME, node=OptunaKeys, provider="trainer")
    for group, types in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        for name, keys in types.items():
            store(group=f"hydra/sweeper/{group}", name=name, node=keys, provider="trainer")


_register()
