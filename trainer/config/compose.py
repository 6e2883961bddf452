"""From a command line to ``(Invocation, Config)``. Hydra is used here, in ``explain``, ``multirun`` and ``search``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import options, plugins, registry
from trainer.config.check import OWN_TRANSFORMS, check
from trainer.config.explain import explain, known_keys
from trainer.config.hints import unknown_option, without_dashes
from trainer.config.parse import parse
from trainer.config.schema import Config, Invocation
from trainer.config.spelling import respelled
from trainer.errors import TrainerError, UsageError

INSTALLED_TRANSFORMS = "installed_transforms"  # in the defaults list of conf/config.yaml
# The resolvers that conf/ uses. Any other could put values into a stored configuration that do not belong there: oc.env
# secrets of the environment, oc.decode and oc.create whatever a text contains.
RESOLVERS = ("now", "hydra")
PACKAGE = Path(__file__).resolve().parent.parent


class _PluginConfigurations(SearchPathPlugin):
    """Lets Hydra find the values of installed plug-ins: ``model=NAME`` is ``conf/model/NAME.yaml`` of its package.

    The keys of every installed transform are composed in its section, listed or not, like those of the program's own
    transforms. ``typed`` leaves out the sections of transforms that are not listed.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for directory in plugins.configuration_directories():
            search_path.append("trainer-plugin", f"file://{directory}")
        group = plugins.TRANSFORM_VALUES
        names = dict.fromkeys([*registry.own_names(plugins.TRANSFORMS), *plugins.transforms_with_values()])
        sections = [{f"{group}@{group.replace('/', '.')}.{name}": name} for name in names]
        ConfigStore.instance().store(INSTALLED_TRANSFORMS, {"defaults": sections}, provider="trainer-plugin")


Plugins.instance().register(_PluginConfigurations)


def configuration_directory() -> Path:
    """``conf/``: at the top of a checkout, inside the package in an installed wheel."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def run_with_hydra(arguments: Sequence[str], run: Callable[[Invocation, Config], None]) -> None:
    """Compose the configuration from ``arguments`` and call ``run``, as a Hydra application.

    Raises:
        UsageError: the command line or the configuration is wrong.
        TrainerError: ``run`` raised it.
    """

    def job(composed: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UsageError("a configuration file sets hydra.mode; give --multirun on the command line instead")
        run(*typed(composed))

    run_application(respelled(arguments), job)


def run_application(arguments: Sequence[str], job: Callable[[DictConfig], None]) -> None:
    """Have Hydra call ``job`` with what it composes from ``arguments``.

    Raises:
        UsageError: Hydra cannot compose it.
        TrainerError: ``job`` raised it.
    """
    failures: list[TrainerError] = []
    composed_once = False

    def guarded(composed: DictConfig) -> None:
        nonlocal composed_once
        composed_once = True
        try:
            job(composed)
        except TrainerError as error:
            failures.append(error)  # raised below: on its way through Hydra it would gain lines of Hydra's

    try:
        application(arguments, guarded)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if composed_once and isinstance(error, ValueError):
            raise  # from the run itself; Hydra raises it for overrides such as optimizer=null
        raise UsageError(explain(error, arguments, configuration_places())) from error
    if failures:
        raise failures[0]


def application(arguments: Sequence[str], job: Callable[[DictConfig], object]) -> None:
    """Run ``job`` as a Hydra application with this command line; errors are Hydra's."""
    # Hydra prints its own errors and exits with 1 unless this is set; ours go through the contract's statuses.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    place = unknown_option(arguments)
    if place is not None:
        raise UsageError(without_dashes(arguments, place, known_keys(configuration_places())))
    sys.argv = ["python -m trainer train", *arguments]
    for argument in arguments:
        refuse_resolvers(argument, argument)
    hydra.main(version_base="1.3", config_path=str(configuration_directory()), config_name="config")(job)()


def compose(overrides: Sequence[str]) -> Config:
    """The configuration that ``train`` would use for ``overrides``, for a command that is not a Hydra application.

    Raises:
        UsageError: an override or the configuration is wrong.
    """
    return compose_run(overrides)[1]


def compose_run(overrides: Sequence[str]) -> tuple[Invocation, Config]:
    """Like ``compose``, and also returns what belongs to one invocation.

    Raises:
        UsageError: an override or the configuration is wrong.
    """
    overrides = respelled(overrides)
    with composing(overrides):
        return typed(hydra.compose("config", overrides))


@contextlib.contextmanager
def composing(overrides: Sequence[str]) -> Iterator[None]:
    """In this block ``hydra.compose`` finds ``conf/``, and its errors are raised in the words of this program.

    Raises:
        UsageError: ``overrides`` cannot be composed, or what they make cannot be resolved.
    """
    directory = configuration_directory()
    for override in overrides:
        refuse_resolvers(override, override)
    try:
        with hydra.initialize_config_dir(str(directory), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # a program or a notebook would show pages of Hydra's frames, and the message says all that they do
        raise UsageError(explain(error, overrides, configuration_places())) from None


def configuration_places() -> list[Path]:
    """The directories of configuration files: the program's own, and those of installed plug-ins."""
    return [configuration_directory(), *plugins.configuration_directories()]


def option_values(group: str, option: str, experiment: str) -> dict[str, Any]:
    """The section that ``train`` would compose for ``group=option``, neither parsed nor checked. An experiment of this
    name, if there is one, sets its values in it.

    Raises:
        UsageError: there is no such option.
    """
    overrides = [f"{group}={option}"]
    if (configuration_directory() / "experiment" / f"{experiment}.yaml").is_file():
        overrides.append(f"experiment={experiment}")
    with composing(overrides):
        section = OmegaConf.to_container(hydra.compose("config", overrides)[group], resolve=True)
    assert isinstance(section, dict)
    values = {str(key): value for key, value in section.items()}
    keys = options.keys_of(group, str(values["name"])) if "name" in values else None
    known = values if keys is None else options.field_names(keys)  # an experiment may set keys of another type
    return {key: value for key, value in values.items() if key in known}


def default_values() -> dict[str, Any]:
    """What ``train`` composes without an argument, as it is written: interpolations are not resolved."""
    with composing([]):
        container = OmegaConf.to_container(hydra.compose("config"), resolve=False)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def experiment_files() -> list[Path]:
    """The recipes that ``experiment=`` can choose, by name."""
    return sorted(path for place in configuration_places() for path in (place / "experiment").glob("*.yaml"))


def transform_values(name: str) -> dict[str, Any]:
    """The values that the package of a transform gives its keys.

    Raises:
        UsageError: they cannot be composed.
    """
    with composing([]):
        section = OmegaConf.to_container(hydra.compose("config")["preprocess"]["plugins"][name], resolve=True)
    assert isinstance(section, dict)
    return {str(key): value for key, value in section.items()}


def experiments() -> list[str]:
    """The recipes that ``experiment=`` can choose."""
    return sorted(path.stem for path in experiment_files())


def option_groups() -> list[str]:
    """The groups whose options are chosen as ``group=option``: ``model``, ``optimizer`` …"""
    return sorted(path.name for path in configuration_directory().iterdir() if path.is_dir())


def typed(composed: DictConfig) -> tuple[Invocation, Config]:
    """The configuration that Hydra composed, after parsing and checks.

    Raises:
        UsageError: it is not a valid configuration.
    """
    refuse_resolvers(OmegaConf.to_container(composed, resolve=False), "")
    try:
        container = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key} cannot be resolved: {str(error).splitlines()[0]}") from error
    assert isinstance(container, dict)
    invocation = {name: container.pop(name, None) for name in (field.name for field in dataclasses.fields(Invocation))}
    if "preprocess" in container:
        _leave_out_unlisted(container["preprocess"])
    options.refuse_other_keys({str(key): value for key, value in container.items()}, configuration_places())
    config = parse(Config, container)
    check(config)
    return parse(Invocation, invocation), config


def _leave_out_unlisted(preprocess: object) -> None:
    """Keep only the sections of plug-ins that are listed as transforms. The parser refuses what is malformed."""
    if not isinstance(preprocess, dict) or not {"train", "eval", "plugins"} <= preprocess.keys():
        return
    lists = [names for names in (preprocess["train"], preprocess["eval"]) if isinstance(names, list)]
    listed = {name for names in lists for name in names if isinstance(name, str)}
    if isinstance(preprocess["plugins"], dict):
        preprocess["plugins"] = {
            name: keys for name, keys in preprocess["plugins"].items() if name in listed - OWN_TRANSFORMS
        }


def refuse_resolvers(node: object, place: str) -> None:
    """Refuse an interpolation that calls a resolver other than those of ``conf/``; ``node`` is not resolved yet.

    Raises:
        UsageError: names the key or argument, and the resolver.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            refuse_resolvers(value, f"{place}.{name}" if place else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            refuse_resolvers(value, f"{place}[{index}]")
    elif isinstance(node, str):
        for name, end in re.findall(r"\$\{([^:}]*?)(:|\$\{)", node):
            if end != ":" or name.strip() not in RESOLVERS:  # a name that is put together could become any resolver
                raise UsageError(
                    f"{place}: the resolver {name.strip() or node} is not allowed, because its result would be stored "
                    "in every checkpoint, secrets of the environment too\n"
                    'let the shell insert a value that may be stored: key="$VARIABLE"'
                )
