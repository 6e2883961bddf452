"""Which trackers there are: those of the program, and those that other distributions add by entry point."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence

from trainer.config import plugins
from trainer.config.contracts import Tracker
from trainer.config.schema.tracking import TrackingConfig
from trainer.errors import UsageError, nearest
from trainer.runtime import distribution

# name → the module that has a class of that tracker. The extra of this distribution and the package have the name, too
OWN = {"mlflow": ("mlflow_runs", "MLflow"), "wandb": ("wandb_runs", "WandB")}


def names() -> list[str]:
    return [*OWN, *plugins.names(plugins.TRACKERS)]


def refuse_unregistered(tracking: TrackingConfig) -> None:
    """
    Raises:
        UsageError: ``tracking.register`` is set, and no tracker takes it.
    """
    if tracking.register is not None and set(tracking.trackers) <= {"wandb"}:
        raise UsageError(
            f"tracking.register={tracking.register} makes a version of a model in MLflow's registry, and "
            f"tracking.trackers is {list(tracking.trackers)}\nadd mlflow to it, or set tracking.register=null"
        )


def refuse_unusable(trackers: Sequence[str], key: str = "tracking.trackers") -> None:
    """Refuse a tracker that does not exist, or whose package is not installed. Nothing of them is imported. ``key`` is
    where they were given.

    Raises:
        UsageError: names it, and how to install it.
    """
    for name in trackers:
        if name not in names():
            raise UsageError(
                f"{key} has {name}, which no installed plug-in has; there are "
                f"{', '.join(names())}{nearest(name, names())}"
            )
        if trackers.count(name) > 1:
            raise UsageError(f"{key} has {name} twice")
        if name in OWN and not _is_installed(name):
            raise UsageError(
                f"{key} has {name}, whose package is not installed\n"
                f"install it: pip install '{distribution.NAME}[{name}]'; or do without: {key}=[]"
            )


def _is_installed(package: str) -> bool:
    """Whether there is such a package, and not merely a directory of that name, as W&B makes where it runs."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def maker_of(name: str) -> Callable[[], Tracker]:
    """What makes an object of a tracker. Its module is imported now.

    Raises:
        UsageError: a plug-in cannot be imported, or is not callable.
    """
    if name in OWN:
        module, attribute = OWN[name]
        make = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
    else:
        make = plugins.loaded(plugins.TRACKERS, name)
    if not callable(make):
        raise UsageError(
            f"{plugins.title(plugins.TRACKERS, name)} is {make!r}, but must make a trainer.plugins.Tracker"
        )
    found: Callable[[], Tracker] = make
    return found
