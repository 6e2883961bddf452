"""Changing a stored configuration on resume: what may change, and what a change implies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.config.check import check
from trainer.config.complete import with_leaves
from trainer.config.parse import leaves, parse
from trainer.config.schema import Config
from trainer.errors import RestoreRefused, UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Change:
    """One key whose value differs from the stored one."""

    path: str
    stored: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.stored} -> {self.wanted}"


def override(stored: Config, values: Mapping[str, object]) -> Config:
    """``stored`` with ``values`` (dotted key → value) set and everything validated again.

    Setting ``…epochs`` alone drops the ``…steps`` beside it, which would otherwise win.
    """
    container = dataclasses.asdict(stored)
    known = {path for path, _, _ in leaves(stored)}
    for path, value in values.items():
        if path not in known:
            raise UsageError(f"unknown key {path}={value}{nearest(path, known)}")
        *sections, name = path.split(".")
        section = container
        for step in sections:
            section = section[step]
        section[name] = value
        twin = name.replace("epochs", "steps")
        twin_path = ".".join([*sections, twin])
        if twin != name and twin in section and twin_path not in values:
            section[twin] = None
    changed = parse(Config, container)
    check(changed)
    return changed


def accept(stored: Config, wanted: Config) -> tuple[Config, list[Change]]:
    """The configuration to resume with, and the accepted changes.

    A key that is null in ``wanted`` and is filled in when a run starts keeps its stored value, unless the key it is
    computed from changes.

    Raises:
        RestoreRefused: a key that decides the result differs; names every such key with both values.
    """
    stored_leaves = {path: value for path, value, _ in leaves(stored)}
    wanted_leaves = {path: (value, fact) for path, value, fact in leaves(wanted)}
    refused: list[Change] = []
    accepted: list[Change] = []
    for path in [*wanted_leaves, *(path for path in stored_leaves if path not in wanted_leaves)]:
        old = stored_leaves[path] if path in stored_leaves else "(absent)"
        new, fact = wanted_leaves[path] if path in wanted_leaves else ("(absent)", None)
        if old == new or (
            fact is not None and fact.completed and new is None and path not in _recomputed(wanted, stored)
        ):
            continue
        change = Change(path, old, new)
        (accepted if fact is not None and fact.resume == "free" else refused).append(change)
    if refused:
        listed = "\n".join(f"  {change}" for change in refused)
        raise RestoreRefused(
            "the stored experiment differs from what was asked for in keys that change the result:\n"
            f"{listed}\nleave them as stored, or start a new run in another run_dir"
        )
    return with_leaves(stored, {change.path: change.wanted for change in accepted}), accepted


def _recomputed(wanted: Config, stored: Config) -> set[str]:
    """Cadences that follow a changed ``…epochs`` key, although their ``…steps`` is null."""
    if wanted.evaluation.every_epochs != stored.evaluation.every_epochs:
        return {"evaluation.every_steps"}
    return set()
