"""The configuration a checkpoint is held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainer.commands.arguments import parse_arguments
from trainer.config.complete import complete
from trainer.config.compose import compose, option_groups
from trainer.config.override import override
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.data.source import open_source
from trainer.diagnosis.findings import MISMATCH, Finding

EXPERIMENT = "experiment"


def wanted_config(stored: Config | None, overrides: Sequence[str]) -> Config:
    """The stored configuration, or without one the default, with ``overrides`` applied.

    ``group=option`` replaces a section of a stored configuration by what ``train`` would compose for it.

    Raises:
        UsageError: an override is wrong.
    """
    if stored is None:
        return completed(compose(overrides))
    groups = [argument for argument in overrides if argument.partition("=")[0] in option_groups()]
    config = stored
    if groups:
        composed = compose(groups)
        sections = {argument.partition("=")[0] for argument in groups}
        if EXPERIMENT in sections:
            config = composed  # an experiment lays its values over every section
        else:
            config = dataclasses.replace(config, **{name: getattr(composed, name) for name in sections})
    rest = [argument for argument in overrides if argument not in groups]
    return completed(override(config, parse_arguments(rest)))


def completed(config: Config) -> Config:
    source = open_source(config.data, "train")
    return complete(config, source.count, len(source.class_names))


def setting_differences(stored: Config, wanted: Config, accounted_for: Sequence[str]) -> list[Finding]:
    """Keys that a resume does not change freely and that differ, except those that another finding is about.

    Many of them leave no trace in the tensors: the restore itself would succeed and the result be wrong.
    """
    before = {path: value for path, value, _ in leaves(stored)}
    findings = []
    for path, value, fact in leaves(wanted):
        told = any(path == key or (key.endswith(".") and path.startswith(key)) for key in accounted_for)
        if fact.resume == "free" or told:
            continue
        old = before[path] if path in before else "(absent)"
        if old != value:
            title = f"{path} is {old} in the checkpoint's configuration and {value} in the model: {fact.doc}"
            findings.append(Finding("setting", MISMATCH, title, (), (f"{path}={old}",), (path,)))
    return findings
