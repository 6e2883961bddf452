"""Changing a stored configuration on resume: what may change, and what a change implies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.config.check import check
from trainer.config.complete import with_leaves
from trainer.config.keys import ResumePolicy
from trainer.config.parse import leaves, parse
from trainer.config.schema import Config
from trainer.errors import UsageError, nearest

ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Change:
    """One key whose value differs from the stored one; ``policy`` is the key's, see ``KeyFacts.resume``."""

    path: str
    stored: Any
    wanted: Any
    policy: ResumePolicy

    def __str__(self) -> str:
        return f"{self.path}: {self.stored} -> {self.wanted}"


def strategy_asked(values: Mapping[str, object]) -> str:
    """The ``runtime.strategy`` of a resume with ``values``. Only the chief knows the stored one, so without a value it
    is ``auto``.
    """
    return str(values["runtime.strategy"]) if "runtime.strategy" in values else "auto"


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


def changes(stored: Config, wanted: Config) -> list[Change]:
    """Every key that differs, in the order of the schema.

    A key that is null in ``wanted`` and is filled in when a run starts keeps its stored value, unless the key it is
    computed from changes. A section that turns into another variant (``optimizer.name``) is one change.
    """
    before = {path: (value, fact) for path, value, fact in leaves(stored)}
    after = {path: (value, fact) for path, value, fact in leaves(wanted)}
    recomputed = _recomputed(wanted, stored)
    found: list[Change] = []
    for path in [*after, *(path for path in before if path not in after)]:
        fact = (after[path] if path in after else before[path])[1]
        old = before[path][0] if path in before else ABSENT
        new = after[path][0] if path in after else ABSENT
        kept = fact.completed and new is None and path not in recomputed
        if old != new and not kept:
            found.append(Change(path, old, new, fact.resume))
    variants = {change.path.removesuffix("name") for change in found if change.path.endswith(".name")}
    return [change for change in found if change.path.endswith(".name") or not change.path.startswith(tuple(variants))]


def adopt(stored: Config, wanted: Config, accepted: list[Change]) -> Config:
    """The configuration to resume with: ``stored`` with the accepted changes of ``wanted``."""
    variants = {change.path.split(".")[0] for change in accepted if change.path.endswith(".name")}
    merged = dataclasses.replace(stored, **{section: getattr(wanted, section) for section in variants})
    leaf_changes = {change.path: change.wanted for change in accepted if not change.path.endswith(".name")}
    return with_leaves(merged, leaf_changes)


def _recomputed(wanted: Config, stored: Config) -> set[str]:
    """Cadences that follow a changed ``…epochs`` key, although their ``…steps`` is null."""
    if wanted.evaluation.every_epochs != stored.evaluation.every_epochs:
        return {"evaluation.every_steps"}
    return set()
