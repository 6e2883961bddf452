"""The command line that repeats a run from the start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from trainer.command_line import argument, command_line
from trainer.config.compose import compose
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.errors import UsageError

GROUPS = ("model", "optimizer", "schedule", "data", "mixing")  # a section's name is the option that was chosen
NEEDS_NO_QUOTES = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][a-z_0-9]*", re.ASCII)


def command(config: Config, run_dir: Path, *more: str) -> str:
    """``python -m trainer train …`` with every value of ``config`` that differs from this version's default."""
    return command_line("train", argument("run_dir", run_dir), *more, *overrides(config))


def overrides(config: Config) -> list[str]:
    """The overrides from which ``compose`` makes ``config``."""
    chosen = _experiment(config)
    composed = compose(chosen)
    values = {path: value for path, value, _ in leaves(config) if path != "experiment"}
    for group in GROUPS:
        name = getattr(config, group).name
        if getattr(composed, group).name != name:
            chosen.append(f"{group}={name}")
            if group == "data":  # some of its keys have no default
                given = [path for path, value in values.items() if path.startswith("data.") and value is not None]
                chosen += [f"{path}={spelled(values[path])}" for path in given if path != "data.name"]
    for path in ("preprocess.train", "preprocess.eval"):  # first: they bring the keys of the plug-ins they name
        if values[path] != getattr(composed.preprocess, path.rpartition(".")[2]):
            chosen.append(f"{path}={spelled(values[path])}")
    already = {path: value for path, value, _ in leaves(compose(chosen))}
    return [*chosen, *(f"{path}={spelled(value)}" for path, value in values.items() if already[path] != value)]


def _experiment(config: Config) -> list[str]:
    """The option of the experiment's name, where there is one."""
    option = [f"experiment={spelled(config.experiment)}"]
    try:
        compose(option)
    except UsageError:
        return []
    return option


def spelled(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, str) and not NEEDS_NO_QUOTES.fullmatch(value):
        return str(QuotedString(value, Quote.single).with_quotes())
    return str(value)
