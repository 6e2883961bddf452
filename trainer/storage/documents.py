"""JSON and YAML as data: bounded in depth, without duplicate keys. Of YAML, only the part that JSON also has."""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from trainer.storage.unacceptable import Unacceptable

DEPTH_LIMIT = 16  # our own documents have at most 6 levels
NODE_LIMIT = 10_000  # scalars and containers of a YAML document; a configuration has about 150
MERGE_KEY = "<<"
VALUE_SHOWN = 60  # characters


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        Unacceptable: it is not JSON, repeats a key, or is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise Unacceptable(f"it is nested more than {DEPTH_LIMIT} levels deep") from None
    except ValueError as error:
        raise Unacceptable(f"it is not JSON: {error}") from error
    _limit_depth(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise Unacceptable(f"the key {shown(repeated)} appears twice")
    return entries


def _limit_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            entry
            for container in level
            if isinstance(container, dict | list)
            for entry in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise Unacceptable(f"it is nested more than {DEPTH_LIMIT} levels deep")


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """The JSON text of a value. Numbers that are not finite become null: JSON has neither NaN nor infinity."""
    return json.dumps(finite_or_null(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def finite_or_null(value: Any) -> Any:
    """The value with None in the place of every number that is not finite, however deep."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: finite_or_null(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return value


def nan_for_null(values: dict[str, Any]) -> dict[str, Any]:
    """The numbers as they were before ``finite_or_null``: NaN for null."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def parse_yaml(text: str, node_limit: int = NODE_LIMIT) -> Any:
    """The value of a YAML text of at most ``node_limit`` plain scalars, lists and sections.

    Everything that makes YAML more than data is refused before any value is built: anchors, aliases, merge keys, tags,
    directives and more than one document.

    Raises:
        Unacceptable: names the line.
    """
    try:
        _refuse_beyond_data(text, node_limit)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise Unacceptable(f"{place}it is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # an impossible date, an integer of thousands of digits
        raise Unacceptable(f"it is not YAML: {str(error).splitlines()[0]}") from error


class _Section:
    """A mapping or list that is still open while the events of a document are read."""

    def __init__(self, is_mapping: bool) -> None:
        self.is_mapping = is_mapping
        self.names: set[str] = set()
        self.at_key = is_mapping

    def take(self, event: yaml.Event) -> None:
        """Account for one entry. In a mapping, names and values alternate."""
        if not self.is_mapping:
            return
        if self.at_key:
            if not isinstance(event, yaml.ScalarEvent):
                raise _refusal(event, "a key is not plain text")
            if event.value == MERGE_KEY:
                raise _refusal(event, "merge keys (<<) are not allowed")
            if event.value in self.names:
                raise _refusal(event, f"the key {shown(event.value)} appears twice")
            self.names.add(event.value)
        self.at_key = not self.at_key


def _refuse_beyond_data(text: str, node_limit: int) -> None:
    """Go through the document without building anything."""
    nodes, documents = 0, 0
    sections: list[_Section] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1 or event.version is not None or event.tags:
                raise _refusal(event, "directives and second documents are not allowed")
        if isinstance(event, yaml.CollectionEndEvent):
            sections.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        _refuse_reference(event)
        nodes += 1
        if nodes > node_limit:
            raise _refusal(event, f"it has more than {node_limit:,} entries")
        if sections:
            sections[-1].take(event)
        if isinstance(event, yaml.CollectionStartEvent):
            sections.append(_Section(isinstance(event, yaml.MappingStartEvent)))
            if len(sections) > DEPTH_LIMIT:
                raise _refusal(event, f"it is nested more than {DEPTH_LIMIT} levels deep")


def _refuse_reference(event: yaml.NodeEvent) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _refusal(event, f"anchors and aliases ({shown(event.anchor)}) are not allowed")
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise _refusal(event, f"tags ({shown(event.tag)}) are not allowed")


def _refusal(event: yaml.Event, reason: str) -> Unacceptable:
    assert event.start_mark is not None
    return Unacceptable(f"line {event.start_mark.line + 1}: {reason}")


def shown(value: object) -> str:
    """A value as text for a message: escaped and shortened."""
    text = repr(value)
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}…"
