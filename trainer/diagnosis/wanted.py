"""The configuration that a checkpoint is compared with."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trainer.command_line import consent
from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose, option_groups
from trainer.config.override import changes, override
from trainer.config.reproduction import spelled
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint
from trainer.interchange.contents import Kind
from trainer.interchange.findings import MISMATCH, Finding, Unusable
from trainer.interchange.locate import locate
from trainer.storage.unreadable import readable

EXPERIMENT = "experiment"


def wanted_config(base: Config | None, overrides: Sequence[str]) -> Config:
    """The stored configuration, or without one the default, with ``overrides`` applied; not completed.

    ``group=option`` replaces a section of a stored configuration by the section that ``train`` would compose.

    Raises:
        UsageError: an override is wrong.
    """
    if base is None:
        return compose(overrides)
    groups = [argument for argument in overrides if argument.partition("=")[0] in option_groups()]
    config = base
    if groups:
        sections = {argument.partition("=")[0] for argument in groups}
        # an option may need values that only the command line has: data=tfrecord data.root=…
        composed = compose([argument for argument in overrides if argument.partition("=")[0].split(".")[0] in sections])
        if EXPERIMENT in sections:
            config = composed  # an experiment may set values in every section
        else:
            config = dataclasses.replace(config, **{name: getattr(composed, name) for name in sections})
    rest = [argument for argument in overrides if argument not in groups]
    return override(config, parse_arguments(rest))


def check_overrides(path: Path, overrides: Sequence[str]) -> None:
    """Refuse wrong overrides for the checkpoint at ``path`` before anything slow is imported.

    Raises:
        UsageError: an override is wrong.
    """
    config = None
    with contextlib.suppress(Unusable, NoValidCheckpoint):  # the diagnosis will report it
        with readable(path):
            located = locate(path)
        if located.kind is Kind.OWN:
            config = stored.read(located.path / stored.FILE_NAME)
    wanted_config(config, overrides)


def setting_differences(before: Config, wanted: Config, accounted_for: Sequence[str]) -> list[Finding]:
    """Differing keys that a resume does not change freely, except those that another finding covers.

    Many of them leave no trace in the tensors: the restore itself would succeed, and the result would be wrong.
    """
    findings = []
    for change in changes(before, wanted):
        told = any(change.path == key or (key.endswith(".") and change.path.startswith(key)) for key in accounted_for)
        if change.policy != "free" and not told:
            allowed = change.policy == "consent"
            details = (f"a resume accepts it with {consent([change.path])}",) if allowed else ()
            title = (
                f"{change.path} is {change.stored} in the checkpoint's configuration and {change.wanted} in the model"
            )
            fitting = (f"{change.path.removesuffix('.name')}={spelled(change.stored)}",)
            findings.append(Finding("setting", MISMATCH, title, details, fitting, (change.path,)))
    return findings
