"""What a manifest says about the program and the machine that made a checkpoint."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from trainer.config import plugins
from trainer.config.schema import Config
from trainer.config.schema.networks import ModelPlugin
from trainer.config.schema.optimization import OptimizerPlugin, SchedulePlugin
from trainer.config.schema.sources import SourcePlugin
from trainer.distributed.replicas import Replicas
from trainer.fingerprint import surroundings
from trainer.runtime import distribution
from trainer.runtime.devices import physical_gpus

REPORTED_PACKAGES = ("tensorflow", "keras", "numpy", "hydra-core", "omegaconf")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, and the kind of device (``cpu`` or the GPU's name)."""
    gpus = physical_gpus()
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"
    packages = {"trainer": distribution.VERSION, **{name: metadata.version(name) for name in REPORTED_PACKAGES}}
    return {"python": platform.python_version(), **packages, "device": device}


def of_run(config: Config, replicas: Replicas) -> dict[str, str]:
    """``versions`` and what else decides the last bits of a run: replicas, surroundings and the plug-ins it uses."""
    around = surroundings.of_process(os.environ, surroundings.cpuinfo())
    return {
        **versions(),
        "replicas": replicas.layout,
        **around,
        **_of_gpus(),
        **plugins.versions(chosen_plugins(config)),
    }


def _of_gpus() -> dict[str, str]:
    """What decides the last bits on GPUs only; empty where there are none."""
    if not physical_gpus():
        return {}
    rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    return {"cuDNN": surroundings.cudnn() or "not loaded", "TensorFloat-32": "on" if rounded else "off"}


def chosen_plugins(config: Config) -> list[tuple[str, str]]:
    """Group and name of what a configuration names and a plug-in may have brought."""
    brought = ModelPlugin | OptimizerPlugin | SchedulePlugin | SourcePlugin
    chosen = (
        (plugins.MODELS, config.model),
        (plugins.OPTIMIZERS, config.optimizer),
        (plugins.SCHEDULES, config.schedule),
        (plugins.SOURCES, config.data),
    )
    named = [(group, section.name) for group, section in chosen if isinstance(section, brought)]
    return [*named, *((plugins.TRANSFORMS, name) for name in config.preprocess.plugins)]


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout of this package, with ``+`` when files differ from it; None outside a checkout."""
    place = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(place), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def moment() -> str:
    """Like ``now``, to the microsecond: two runs on one host do not begin in the same microsecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
