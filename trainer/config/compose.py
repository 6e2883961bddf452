"""The only place that sees Hydra: from a command line to ``(Invocation, Config)``."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import plugins
from trainer.config.check import OWN_TRANSFORMS, check
from trainer.config.parse import parse
from trainer.config.schema import Config, Invocation
from trainer.errors import LaunchFailed, TrainerError, UsageError, nearest

ABSENT = object()
INSTALLED_TRANSFORMS = "installed_transforms"  # in the defaults list of conf/config.yaml
# The resolvers that conf/ uses. Any other could put into a stored configuration what does not belong there: oc.env
# the secrets of the environment, oc.decode and oc.create whatever a text says.
RESOLVERS = ("now", "hydra")
PACKAGE = Path(__file__).resolve().parent.parent
STOCK = "basic"  # Hydra's own launcher and sweeper
INSTALLED_BY_SWEEPS = ("joblib", "submitit_local", "submitit_slurm", "optuna")
CONCERNS = {kind: re.compile(rf"[+~]*hydra[/.]{kind}([./=]|$)") for kind in ("launcher", "sweeper")}
MESSAGE_SHOWN = 2000  # characters of what a launcher says


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


class _PluginConfigurations(SearchPathPlugin):
    """Lets Hydra find the values of installed plug-ins: ``model=NAME`` is ``conf/model/NAME.yaml`` of its package.

    The keys of every installed transform are composed, each in its section, as those of our own are whether or not they
    are listed; ``_typed`` leaves out what is not.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for directory in plugins.configuration_directories():
            search_path.append("trainer-plugin", f"file://{directory}")
        group = plugins.TRANSFORM_VALUES
        sections = [{f"{group}@{group.replace('/', '.')}.{name}": name} for name in plugins.transforms_with_values()]
        ConfigStore.instance().store(INSTALLED_TRANSFORMS, {"defaults": sections}, provider="trainer-plugin")


Plugins.instance().register(_PluginConfigurations)


def configuration_directory() -> Path:
    """``conf/``: at the top of a checkout, inside the package in an installed wheel."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


class Suspended(BaseException):
    """Ends a search for which there is no result to go on with. Hydra and sweepers answer to an ordinary exception."""


class _TrialFailed(Exception):
    """How a sweeper hears of a trial without a result."""


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
    directory = configuration_directory()
    for argument in chosen:
        _refuse_resolvers(argument, argument)
    try:
        with hydra.initialize_config_dir(str(directory), version_base="1.3"):
            settings = OmegaConf.select(hydra.compose("config", chosen, return_hydra_config=True), f"hydra.{kind}")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(_explain(error, chosen, directory)) from error
    assert isinstance(settings, DictConfig)
    return settings


def run_with_hydra(arguments: Sequence[str], run: Callable[[Invocation, Config], None]) -> list[Job]:
    """Compose the configuration from ``arguments`` and call ``run``; of a ``--multirun``, return the jobs instead.

    Raises:
        UsageError: the command line or the configuration is wrong; for a job of a ``--multirun``, only where Hydra
            itself cannot compose it.
    """

    jobs: list[Job] = []
    failures: list[TrainerError] = []
    composed_once = False

    def job(composed: DictConfig) -> None:
        nonlocal composed_once
        composed_once = True
        is_trial = HydraConfig.get().mode == RunMode.MULTIRUN
        if is_trial:
            for kind in ("launcher", "sweeper"):
                _refuse_plugins(kind)  # raised through Hydra: this may be a process of the plug-in's
        try:
            if is_trial:
                jobs.append(_job(composed))
            else:
                run(*_typed(composed))
        except TrainerError as error:
            failures.append(error)  # raised below: on its way through Hydra it would gain lines of Hydra's

    try:
        _hydra(arguments, job)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if composed_once and isinstance(error, ValueError):
            raise  # from the run itself; Hydra raises it for overrides such as optimizer=null
        raise UsageError(_explain(error, arguments, configuration_directory())) from error
    if failures:
        raise failures[0]
    return jobs


def launch_with_hydra(arguments: Sequence[str], sweep_dir: Path, run: Callable[[int, tuple[str, ...]], None]) -> None:
    """Have the launcher call ``run`` with number and overrides of each job of a ``--multirun``, in processes of its
    own: ``run`` is pickled, and what it returns is lost. ``sweep_dir`` is where Hydra and the launcher leave records.

    Raises:
        LaunchFailed: the launcher could not, or lost a process.
        TrainerError: ``run`` raised it.
    """

    def job(composed: DictConfig) -> None:
        run(HydraConfig.get().job.num, tuple(HydraConfig.get().overrides.task))

    place = QuotedString(str(sweep_dir), Quote.single).with_quotes()
    try:
        _hydra([*arguments, f"hydra.sweep.dir={place}"], job)
    except TrainerError:
        raise
    except Exception as error:  # whatever a plug-in, a cluster or a pool of processes raises
        said = f"{type(error).__name__}: {error}"[:MESSAGE_SHOWN].rstrip()
        raise LaunchFailed(f"hydra/launcher={plugin(arguments, 'launcher')} failed: {said}") from error


def search_with_hydra(arguments: Sequence[str], result_of: Callable[[Job], float | None]) -> bool:
    """Have the sweeper choose jobs by the results of those before; returns whether it wants no more.

    ``result_of`` runs a job; None is a failure, of which the sweeper is told. It may raise ``Suspended``.

    Raises:
        UsageError: the settings of the sweeper make no search that can be stopped and go on, or as ``run_with_hydra``.
        TrainerError: ``result_of`` raised it.
    """
    sweeper = plugin(arguments, "sweeper")
    if sweeper != "optuna":
        raise UsageError(f"hydra/sweeper={sweeper} is not supported; allowed: {STOCK}, optuna")
    if not any(argument.startswith("hydra.sweeper.n_jobs=") for argument in arguments):
        arguments = [*arguments, "hydra.sweeper.n_jobs=1"]  # Optuna's own value is 2: chosen without the other's result
    settings = _settings(arguments, "sweeper")
    _check_search(settings)
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
            failures.append(error)  # as in run_with_hydra; and no sweeper is told
            raise Suspended from error
        if result is None:
            raise _TrialFailed("the trial failed; above is why")
        results.append(result)
        return result

    try:
        _hydra(arguments, job)
    except (Suspended, _TrialFailed):  # the latter when more have failed than the sweeper was told to accept
        if failures:
            raise failures[0] from None
        return False
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if composed_once and not results and isinstance(error, ValueError):
            return True  # every trial has failed, and Optuna finds no best one
        if composed_once and isinstance(error, ValueError):
            raise
        raise UsageError(_explain(error, arguments, configuration_directory())) from error
    return True


def _hydra(arguments: Sequence[str], job: Callable[[DictConfig], object]) -> None:
    """Run ``job`` as a Hydra application with this command line."""
    # Hydra prints its own errors and exits with 1 unless this is set; ours go through the contract's statuses.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["python -m trainer train", *arguments]
    for argument in arguments:
        _refuse_resolvers(argument, argument)
    hydra.main(version_base="1.3", config_path=str(configuration_directory()), config_name="config")(job)()


def compose(overrides: Sequence[str]) -> Config:
    """The configuration that ``train`` would use for ``overrides``, for a command that is no Hydra application.

    Raises:
        UsageError: an override or the configuration is wrong.
    """
    return compose_run(overrides)[1]


def compose_run(overrides: Sequence[str]) -> tuple[Invocation, Config]:
    """As ``compose``, with what belongs to one invocation.

    Raises:
        UsageError: an override or the configuration is wrong.
    """
    directory = configuration_directory()
    for override in overrides:
        _refuse_resolvers(override, override)
    try:
        with hydra.initialize_config_dir(str(directory), version_base="1.3"):
            return _typed(hydra.compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(_explain(error, overrides, directory)) from error


def option_groups() -> list[str]:
    """The groups whose options are chosen as ``group=option``: ``model``, ``optimizer`` …"""
    return sorted(path.name for path in configuration_directory().iterdir() if path.is_dir())


def _refuse_plugins(kind: str) -> None:
    """Refuse a launcher or a sweeper that a configuration file chose: the command line is what is looked at first.

    Raises:
        UsageError: names it.
    """
    chosen = HydraConfig.get().runtime.choices[f"hydra/{kind}"]
    if chosen != STOCK:
        raise UsageError(f"a configuration file sets hydra/{kind}={chosen}; give it on the command line instead")


def _check_search(sweeper: DictConfig) -> None:
    """Refuse settings of Optuna's sweeper with which a search that was stopped could not go on.

    Raises:
        UsageError: names the key and the value that it should have.
    """
    if OmegaConf.select(sweeper, "sampler.seed") is None:
        raise UsageError(
            "hydra.sweeper.sampler.seed is not set: a search that was stopped goes on only where the same trials are "
            "chosen again\nadd hydra.sweeper.sampler.seed=1; a grid needs no sweeper: key=1,2"
        )
    if sweeper.n_jobs != 1:
        raise UsageError(f"hydra.sweeper.n_jobs is {sweeper.n_jobs}, but a search runs its trials in turn: use 1")
    if sweeper.storage is not None:
        raise UsageError("hydra.sweeper.storage cannot be set: what a search has found is kept with its trials")


def _check_direction(sweeper: DictConfig, job: Job) -> None:
    """Refuse to look for the worst trial.

    Raises:
        UsageError: names the key and the value that it should have.
    """
    if job.config is None:
        return
    metric = job.config.checkpoint.best_metric
    wanted = "minimize" if metric == "loss" else "maximize"
    direction = getattr(sweeper.direction, "name", sweeper.direction)
    if direction != wanted:
        raise UsageError(
            f"hydra.sweeper.direction is {direction}, and checkpoint.best_metric is {metric}\n"
            f"add hydra.sweeper.direction={wanted}, or choose the other checkpoint.best_metric"
        )


def _job(composed: DictConfig) -> Job:
    """
    Raises:
        UsageError: all jobs are to share one directory.
    """
    settings = HydraConfig.get()
    if _overrides("run_dir"):
        raise UsageError(
            "run_dir is one directory, and a sweep needs one for each trial\n"
            "hydra.sweep.dir=DIR sets that of the sweep, hydra.sweep.subdir those of the trials in it"
        )
    invocation, config, problem = None, None, None
    try:
        invocation, config = _typed(composed)
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


def _typed(composed: DictConfig) -> tuple[Invocation, Config]:
    _refuse_resolvers(OmegaConf.to_container(composed, resolve=False), "")
    container = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(container, dict)
    invocation = {name: container.pop(name, None) for name in (field.name for field in dataclasses.fields(Invocation))}
    if "preprocess" in container:
        _leave_out_unlisted(container["preprocess"])
    config = parse(Config, container)
    check(config)
    return parse(Invocation, invocation), config


def _leave_out_unlisted(preprocess: object) -> None:
    """Keep the sections of those plug-ins alone that are named as transforms. What is malformed is for the parser."""
    if not isinstance(preprocess, dict) or not {"train", "eval", "plugins"} <= preprocess.keys():
        return
    lists = [names for names in (preprocess["train"], preprocess["eval"]) if isinstance(names, list)]
    listed = {name for names in lists for name in names if isinstance(name, str)}
    if isinstance(preprocess["plugins"], dict):
        preprocess["plugins"] = {
            name: keys for name, keys in preprocess["plugins"].items() if name in listed - OWN_TRANSFORMS
        }


def _refuse_resolvers(node: object, place: str) -> None:
    """Refuse an interpolation that calls a resolver other than those of ``conf/``; ``node`` is not resolved yet.

    Raises:
        UsageError: names the key or argument, and the resolver.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            _refuse_resolvers(value, f"{place}.{name}" if place else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _refuse_resolvers(value, f"{place}[{index}]")
    elif isinstance(node, str):
        for name, end in re.findall(r"\$\{([^:}]*?)(:|\$\{)", node):
            if end != ":" or name.strip() not in RESOLVERS:  # a name that is put together could become any resolver
                raise UsageError(
                    f"{place}: the resolver {name.strip() or node} is not allowed, because what it answers would be "
                    "stored in every checkpoint, secrets of the environment too\n"
                    'let the shell insert a value that may be stored: key="$VARIABLE"'
                )


def _overrides(name: str) -> bool:
    return any(override.split("=")[0] == name for override in HydraConfig.get().overrides.task)


def _explain(error: Exception, arguments: Sequence[str], directory: Path) -> str:
    """Hydra's message in one to three lines, with the nearest valid key or option."""
    text = str(error)
    unknown_key = re.search(r"Could not override '([^']+)'", text)
    if unknown_key:
        path = unknown_key.group(1)
        if path == plugins.TRANSFORM_VALUES:
            return (
                f"{path} is no group to choose from: name the transform in preprocess.train or preprocess.eval, and "
                f"set its keys as {path.replace('/', '.')}.NAME.KEY"
            )
        owners = _owners(directory, path)
        if owners:
            chosen = _chosen(path.partition(".")[0], arguments, directory)
            return f"{path} is not a key of {chosen}; it is one of {', '.join(owners)}"
        given = next((argument for argument in arguments if argument.startswith(f"{path}=")), path)
        return f"unknown key {given}{nearest(path, _known_keys(directory))}"
    unknown_option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if unknown_option:
        group, option = unknown_option.groups()
        if group in ("hydra/launcher", "hydra/sweeper"):
            hint = ": pip install 'trainer[sweeps]'" if option in INSTALLED_BY_SWEEPS else ""
            return f"{group}={option} is not installed{hint}"
        options = _options(directory, group)
        allowed = ", ".join(options) if options else "nothing: there is no such group"
        return f"{group}={option} does not exist; allowed: {allowed}{nearest(option, options)}"
    no_group = re.search(r"Could not override '?([^'\n]+)'?\.?\s+No match in the defaults list", text, re.IGNORECASE)
    if no_group:
        return f"unknown group {no_group.group(1)}{nearest(no_group.group(1), _options(directory, ''))}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:3])


def _places(directory: Path) -> list[Path]:
    """Where configuration files are: our own, and those of installed plug-ins."""
    return [directory, *plugins.configuration_directories()]


def _files(directory: Path, group: str) -> dict[str, Path]:
    """The files of a group by option; where two have one name, Hydra takes the first."""
    found = [path for place in reversed(_places(directory)) for path in (place / group).glob("*.yaml")]
    return {path.stem: path for path in found}


def _options(directory: Path, group: str) -> list[str]:
    return sorted(_files(directory, group))


def _owners(directory: Path, path: str) -> list[str]:
    """The options (``data=image_folder``) that define a key which the chosen option of the group lacks."""
    group, _, rest = path.partition(".")
    return [
        f"{group}={option}"
        for option, file in sorted(_files(directory, group).items())
        if OmegaConf.select(OmegaConf.load(file), rest, default=ABSENT) is not ABSENT
    ]


def _chosen(group: str, arguments: Sequence[str], directory: Path) -> str:
    """``group=option`` as given, or as in the defaults list."""
    given = [argument for argument in arguments if argument.startswith(f"{group}=")]
    defaults = OmegaConf.select(OmegaConf.load(directory / "config.yaml"), "defaults")
    entries = [f"{group}={entry[group]}" for entry in defaults if isinstance(entry, DictConfig) and group in entry]
    return [*entries, *given][-1]


def _known_keys(directory: Path) -> list[str]:
    """Every key that a configuration file of the project or of a plug-in defines."""

    def keys(node: object, path: str) -> Iterator[str]:
        if isinstance(node, Mapping):
            for name, value in node.items():
                dotted = f"{path}.{name}" if path else str(name)
                yield dotted
                yield from keys(value, dotted)

    known: set[str] = set()
    for file, group in (
        (file, file.relative_to(place).parent) for place in _places(directory) for file in place.rglob("*.yaml")
    ):
        sections = [] if group.parts[:1] == ("experiment",) else list(group.parts)
        if group.as_posix() == plugins.TRANSFORM_VALUES:
            sections.append(file.stem)
        package = ".".join(sections)
        known.update([package] if package else [], keys(OmegaConf.to_container(OmegaConf.load(file)), package))
    return sorted(name for name in known if not name.startswith(("defaults", "hydra")))
