"""What a checkpoint says of itself: ``manifest.json``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of the process that led here: a new run, or a resume."""

    started: str  # ISO 8601, UTC
    host: str
    from_step: int
    checkpoint: str | None  # the directory it was restored from; None for a new run
    changes: tuple[str, ...]  # what was accepted, "key: stored -> wanted"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Facts about a checkpoint. ``files`` maps names to SHA-256 digests, ``fingerprints`` the sections of the
    configuration (``config.model``) and the kinds of facts (``structure``) to theirs; ``validation`` is None when the
    step was not evaluated.
    """

    format_version: int
    step: int
    examples: int
    epoch: float
    ledger: str
    validation: dict[str, float] | None
    class_names: tuple[str, ...]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    git_commit: str | None
    created: str
    lineage: tuple[Start, ...]
    files: dict[str, str]


class ManifestError(Exception):
    """The manifest is missing or cannot be understood; the message says why."""


def write(manifest: Manifest, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: it does not exist, is not JSON, or does not have exactly the expected fields.
    """
    try:
        container: Any = json.loads(path.read_text(encoding="utf-8"))
        if container["format_version"] != FORMAT_VERSION:
            raise ManifestError(f"{path} has format {container['format_version']}; this version reads {FORMAT_VERSION}")
        container["lineage"] = tuple(Start(**start) for start in container["lineage"])
        container["class_names"] = tuple(container["class_names"])
        return Manifest(**container)
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
