"""The configuration as text: what ``config.yaml`` in a run or checkpoint directory holds."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import yaml

from trainer.config.additions import with_additions
from trainer.config.check import check
from trainer.config.parse import parse
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.storage.documents import parse_yaml
from trainer.storage.guarded import read_text
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable

FILE_NAME = "config.yaml"
SIZE_LIMIT = 64 << 10  # bytes; a complete configuration has about 3 KB
REASON_SHOWN = 300  # characters


def to_text(config: Config) -> str:
    """The complete configuration as YAML, keys in the order of the schema."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)


def read(path: Path) -> Config:
    """Read a stored configuration, which may come from anywhere: no interpolation, no Hydra, nothing but the text.

    Raises:
        NoValidCheckpoint: the file is missing, is not a plain file, is not YAML of plain data, or is not a complete
            configuration of this version.
        Unreadable: the system cannot read it now.
    """
    try:
        with readable(path):
            text = read_text(path, SIZE_LIMIT)
        return from_text(text)
    except FileNotFoundError:
        raise NoValidCheckpoint(f"{path} does not exist, so the experiment cannot be rebuilt") from None
    except OSError as error:
        raise NoValidCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    except (Unacceptable, UsageError) as error:
        reason = str(error).splitlines()[0][:REASON_SHOWN]
        raise NoValidCheckpoint(f"{path} is not a stored configuration of this version: {reason}") from error


def from_text(text: str) -> Config:
    config = parse(Config, with_additions(copy.deepcopy(_data(text))))
    check(config)
    return config


@functools.lru_cache(maxsize=8)  # a start reads the same text several times, of a checkpoint and of its run
def _data(text: str) -> Any:
    return parse_yaml(text)


def section_digests(config: Config) -> dict[str, str]:
    """``config.model`` and so on → SHA-256 of the section's text: the declared fingerprint."""
    sections = _plain(dataclasses.asdict(config))
    return {
        f"config.{name}": hashlib.sha256(yaml.safe_dump(section, sort_keys=False).encode()).hexdigest()
        for name, section in sections.items()
    }


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML's safe types have no tuple."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
