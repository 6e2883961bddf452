"""Changing a stored configuration on resume: what may change, and what a change implies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trainer.config import options, plugins
from trainer.config.check import check
from trainer.config.complete import with_leaves
from trainer.config.hints import hint
from trainer.config.keys import ResumePolicy, facts
from trainer.config.parse import leaves, parse
from trainer.config.schema import Config, Invocation
from trainer.errors import RestoreRefused, UsageError

ABSENT = "(absent)"
OF_TRAIN = frozenset(field.name for field in dataclasses.fields(Invocation)) - {"run_dir", "allow"}
PREPROCESS = "preprocess"  # a group whose options have no type


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

    ``group=option`` works as in ``train``: an option of another type brings its keys, and so does ``group.name=type``.
    One of the stored type changes nothing. Setting ``…epochs`` alone drops the ``…steps`` beside it, which would
    otherwise win.

    Raises:
        UsageError: a key, an option or a value is wrong.
        RestoreRefused: an option is asked for that no resume can change to.
    """
    container, values = _with_options(stored, values)
    known = {path for path, _ in _keys(container)}
    for path, value in values.items():
        if path not in known:
            _refuse_fixed_type(stored, container)
            raise UsageError(_unknown(path, value, known, container))
        *sections, name = path.split(".")
        section = container
        for step in sections:
            section = section[step]
        section[name] = value
        twin = name.replace("epochs", "steps")
        twin_path = ".".join([*sections, twin])
        if twin != name and twin in section and twin_path not in values:
            section[twin] = None
    _add_transforms(container)
    try:
        changed = parse(Config, container)
        check(changed)
    except UsageError:
        _refuse_fixed_type(stored, container)  # which is what is wrong, whatever its keys lack
        raise
    return changed


def _with_options(stored: Config, values: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, object]]:
    """The stored configuration as plain values with the chosen options in it, and the keys that are still to be set."""
    container, rest = dataclasses.asdict(stored), dict(values)
    _refuse_recipe(stored, values)
    for group in options.GROUPS:
        asked = [rest[path] for path in (group, f"{group}.name") if path in rest]
        if not asked:
            continue
        from trainer.config.compose import configuration_places, option_values  # imports Hydra, which takes a moment

        name = str(asked[-1])
        option = str(rest[group]) if group in rest else options.option_of(group, name, configuration_places())
        if option is None:
            continue  # the parser says which names there are
        section = option_values(group, option, stored.experiment)
        if f"{group}.name" not in rest:
            name = section["name"]
        kept = options.keys_of(group, name) is type(getattr(stored, group))
        if not kept:
            container[group] = {**section, "name": name}
        elif f"{group}.name" in rest:
            container[group]["name"] = name
        rest = {path: value for path, value in rest.items() if path not in (group, f"{group}.name")}
    if PREPROCESS in rest:
        container[PREPROCESS] |= _preprocessing(stored, str(rest.pop(PREPROCESS)))
    return container, rest


def _refuse_recipe(stored: Config, values: Mapping[str, object]) -> None:
    """Refuse ``experiment=RECIPE``: a resume would change the name alone, and train on with the stored recipe."""
    if "experiment" not in values or values["experiment"] == stored.experiment:
        return
    from trainer.config.compose import experiments

    wanted = values["experiment"]
    if wanted in experiments():
        raise RestoreRefused(
            f"experiment={wanted} is a recipe for a new run, and this run was begun with experiment={stored.experiment}"
            "; a resume keeps what is stored; nothing was restored or changed\n"
            "set the keys that are meant, or start a new run with that experiment in another run_dir"
        )


def _preprocessing(stored: Config, option: str) -> dict[str, Any]:
    """The values of ``preprocess=option``. The size of the images stays: the network was built for it."""
    from trainer.config.compose import option_values

    section = option_values(PREPROCESS, option, stored.experiment)
    return {key: value for key, value in section.items() if key not in ("image_size", "plugins")}


def _add_transforms(container: dict[str, Any]) -> None:
    """Add the section of each transform of a plug-in that is listed and has none yet, with its package's values."""
    preprocess = container[PREPROCESS]
    lists = [names for names in (preprocess["train"], preprocess["eval"]) if isinstance(names, list | tuple)]
    there = plugins.transforms_with_values()
    added = [name for names in lists for name in names if name in there and name not in preprocess["plugins"]]
    if added:
        from trainer.config.compose import transform_values

        preprocess["plugins"] = {**preprocess["plugins"], **{name: transform_values(name) for name in added}}


def _refuse_fixed_type(stored: Config, container: Mapping[str, Any]) -> None:
    for group in options.GROUPS:
        before, wanted = getattr(stored, group).name, container[group]["name"]
        keys = options.keys_of(group, str(wanted))
        if wanted == before or keys is None:
            continue
        policy = next(facts(field).resume for field in dataclasses.fields(keys) if field.name == "name")
        if policy == "fixed":
            raise RestoreRefused(
                f"{group}.name: {before} -> {wanted}; nothing was restored or changed\n"
                f"{group}.name cannot change on resume: leave it as stored, or start a new run in another run_dir"
            )


def _unknown(path: str, value: object, known: Iterable[str], container: Mapping[str, Any]) -> str:
    group, _, key = path.partition(".")
    owners = options.owners_of(group, key.partition(".")[0]) if group in options.GROUPS else []
    if owners:
        return f"{path} is not a key of {group}={container[group]['name']}; it is one of {', '.join(owners)}"
    if path in OF_TRAIN:
        return f"{path}={value} belongs to train, which begins a run; a resume goes on with what the run has"
    return f"unknown key {path}={value}{hint(path, {*known, *options.GROUPS})}"


def _keys(container: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``(dotted key, value)`` of a configuration as plain values."""
    for name, value in container.items():
        dotted = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield from _keys(value, dotted)
        else:
            yield dotted, value


def changes(stored: Config, wanted: Config, *, whole: bool = False) -> list[Change]:
    """Every key that differs, in the order of the schema.

    A key that is null in ``wanted`` and is filled in when a run starts keeps its stored value, unless the key it is
    computed from changes. With ``whole``, ``wanted`` was not made from ``stored``, but is the configuration that a run
    was begun with, such as that of a command which is given again: entries that the run has added to a list since stay.
    A section that turns into another variant (``optimizer.name``) is one change.
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
        kept = kept or (whole and fact.grows and old[: len(new)] == new)
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
