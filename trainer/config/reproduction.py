"""The command line that repeats a run from the start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from trainer.command_line import argument, command_line, literal
from trainer.config import options
from trainer.config.compose import compose, configuration_places
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.errors import UsageError

GROUPS = ("model", "optimizer", "schedule", "data", "mixing")  # a section's name is the option that was chosen
NEEDS_NO_QUOTES = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][a-z_0-9]*", re.ASCII)


def command(config: Config, run_dir: Path, *more: str) -> str:
    """``python -m trainer train …`` with every value of ``config`` that differs from this version's default."""
    return command_line("train", argument("run_dir", run_dir), *more, *overrides(config))


def command_with(config: Config, values: Mapping[str, Any], run_dir: Path, init_from: Path | None) -> str:
    """``python -m trainer train …`` for a new run like that of ``config``, with other ``values`` (dotted key or group →
    value), from random weights or those of a checkpoint.
    """
    groups = {path.partition(".")[0] for path in values if path.removesuffix(".name") in options.GROUPS}
    replaced = {*values, *(path.replace("epochs", "steps") for path in values)}
    if replaced & {"train.steps", "schedule"}:
        replaced.add("schedule.decay_steps")  # follows the length
    if "data" in groups:
        replaced.add("model.num_classes")  # follows the data
    kept = [text for text in overrides(config) if text.partition("=")[0] not in replaced]
    kept = [text for text in kept if not text.startswith(tuple(f"{group}{end}" for group in groups for end in "=."))]
    chosen = [text for group in options.GROUPS for text in _chosen(group, values)]
    others = [argument(path, value) for path, value in values.items() if path.removesuffix(".name") not in groups]
    weights = [] if init_from is None else [argument("init_from", init_from)]
    return command_line("train", argument("run_dir", run_dir), *weights, *kept, *chosen, *others)


def _chosen(group: str, values: Mapping[str, Any]) -> list[str]:
    """The arguments that choose the option that ``values`` ask for; none when they ask for none."""
    name = str(values[f"{group}.name"]) if f"{group}.name" in values else None
    if group in values:
        return [argument(group, values[group]), *([] if name is None else [argument(f"{group}.name", name)])]
    return [] if name is None else options.chosen(group, name, configuration_places()).split()


def overrides(config: Config) -> list[str]:
    """The overrides from which ``compose`` makes ``config``."""
    chosen = _experiment(config)
    composed = compose(chosen)
    values = {path: value for path, value, _ in leaves(config) if path != "experiment"}
    for group in GROUPS:
        name = getattr(config, group).name
        if getattr(composed, group).name != name:
            chosen += options.chosen(group, name, configuration_places()).split()
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
    return literal(value, _quoted_if_needed)


def _quoted_if_needed(text: str) -> str:
    return text if NEEDS_NO_QUOTES.fullmatch(text) else str(QuotedString(text, Quote.single).with_quotes())
