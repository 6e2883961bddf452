"""The origin that our own checkpoints and exports record: the run's configuration, and ``origin.json``."""

from __future__ import annotations

import dataclasses
import json

import yaml

from trainer.config import stored
from trainer.config.schema import Config
from trainer.errors import UsageError
from trainer.interchange.contents import ORIGIN, ORIGIN_CONFIG, Contents
from trainer.storage.documents import parse_json
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint that weights were taken from. ``class_names`` are those of its data, in label order."""

    checkpoint: str
    checkpoint_digest: str  # SHA-256 of its manifest.json, which holds the SHA-256 of each of its other files
    step: int
    weights: str
    class_names: tuple[str, ...]

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def origin_of(contents: Contents) -> Origin | None:
    """The origin that the file records; None when this version does not understand it or the file has none."""
    if ORIGIN not in contents.facts:
        return None
    try:
        return build(Origin, parse_json(contents.facts[ORIGIN]), ORIGIN)
    except Unacceptable:
        return None


def origin_config(contents: Contents) -> Config | None:
    """The configuration in the file; None when this version does not understand it or the file has none."""
    if ORIGIN_CONFIG not in contents.facts:
        return None
    try:
        return stored.from_text(contents.facts[ORIGIN_CONFIG])
    except (UsageError, Unacceptable, yaml.YAMLError):
        return None
