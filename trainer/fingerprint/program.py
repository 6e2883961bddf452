"""The facts about a process in which all processes of a run must agree: its code, what it was asked for, its packages,
and the environment variables that choose kernels.

What differs between machines that train one run rightly is not among them: places of data, runs and weights, names of
hosts, the model of the processor, and whether there is a GPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from trainer.config import plugins
from trainer.config.parse import leaves
from trainer.config.schema import Config, Invocation
from trainer.distributed.agreement import INSTRUCTION_SET, LIMIT, Facts, own_name, refuse_unless_alike
from trainer.fingerprint import surroundings
from trainer.fingerprint.versions import chosen_plugins
from trainer.runtime import distribution

COMPUTING = ("tensorflow", "keras", "numpy", "pillow")  # other packages that decide what is computed
NOT_SET = "not set"
DIGEST_LENGTH = 12
PLACE_NAME = re.compile(r"_(PATHS?|HOME|ROOT|DIR|VERSION)$")
PLACES = ("checkpoint.mirror",)  # beside the keys that are declared as paths


def of_process(asked: Mapping[str, str]) -> Facts:
    """The facts about this process, which was ``asked`` for a run."""
    around = surroundings.of_process(os.environ, surroundings.cpuinfo())
    hardware = (surroundings.PROCESSOR, INSTRUCTION_SET)
    variables = {name: value for name, value in around.items() if name not in hardware and not _is_place(name, value)}
    limit = next((os.environ[name].upper() for name in surroundings.LIMITS if os.environ.get(name)), NOT_SET)
    return {
        **asked,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "trainer": distribution.VERSION,
        **{name: metadata.version(name) for name in COMPUTING},
        **{f"the variable {name}": value for name, value in variables.items()},
        LIMIT: limit,
        INSTRUCTION_SET: around[INSTRUCTION_SET],
        **code(distribution.PACKAGE.name, distribution.PACKAGE),
    }


def asked_to_train(invocation: Invocation, config: Config) -> Facts:
    """What ``train`` was asked for, without places."""
    given = {path: value for path, value, facts in leaves(config) if not facts.path and path not in PLACES}
    return _texts({"command": "train", "on_existing": invocation.on_existing, "allow": invocation.allow, **given})


def asked_to_resume(values: Mapping[str, object], allow: object) -> Facts:
    """What ``resume`` was asked for, without places."""
    given = {path: value for path, value in values.items() if path not in (*PLACES, "data.root")}
    return _texts({"command": "resume", "allow": allow, **given})


def _texts(values: Mapping[str, object]) -> Facts:
    return {name: json.dumps(value, default=str) for name, value in values.items()}


def code(name: str, place: Path) -> Facts:
    """A digest of every Python file of a package, or of the one file that a module is."""
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return {
        f"code of {name}/{file.relative_to(place)}" if place.is_dir() else f"code of {name}": _digest(file)
        for file in files
    }


def plugin_code(config: Config) -> Facts:
    """``code`` of the packages of the plug-ins that a configuration names."""
    packages = plugins.packages(chosen_plugins(config))
    return {name: digest for package, place in packages.items() for name, digest in code(package, place).items()}


def refuse_other_code(there: Facts, here: Facts, rank: int) -> None:
    """
    Raises:
        ProcessesDiffer: the chief, ``there``, and process ``rank``, ``here``, have other plug-ins.
    """
    refuse_unless_alike({0: there, rank: here}, {0: "the chief", rank: own_name(rank)})


def _is_place(name: str, value: str) -> bool:
    """Whether a variable says where something lies, or which version lies there, as module systems and images do."""
    return value.startswith("/") or PLACE_NAME.search(name) is not None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST_LENGTH]
