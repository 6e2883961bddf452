"""What a checkpoint says of itself: ``manifest.json``.

Its last entry, ``sha256``, is the digest of the text of all others, so a manifest that was changed is told from one
that was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

FILE_NAME = "manifest.json"
FORMAT_VERSION = 2
SELF_DIGEST = "sha256"


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
    """Facts about a checkpoint. ``files`` maps names to SHA-256 digests, ``sizes`` to bytes, ``fingerprints`` the
    sections of the configuration (``config.model``) and the kinds of facts (``structure``) to theirs; ``validation``
    is None when the step was not evaluated.
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
    sizes: dict[str, int]


class ManifestError(Exception):
    """The manifest is missing or cannot be understood; the message says why."""


def write(manifest: Manifest, path: Path) -> None:
    container = dataclasses.asdict(manifest)
    path.write_text(_text({**container, SELF_DIGEST: _digest(container)}), encoding="utf-8")


def read(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: it does not exist, is not JSON, was changed, or does not have exactly the expected fields.
    """
    try:
        return from_text(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error


def from_text(text: str, place: str) -> Manifest:
    """The manifest that ``write`` wrote; ``place`` is what an error calls it.

    Raises:
        ManifestError: as ``read``.
    """
    try:
        container: Any = json.loads(text)
        if container["format_version"] != FORMAT_VERSION:
            version = container["format_version"]
            raise ManifestError(f"{place} has format {version}; this version reads {FORMAT_VERSION}")
        wanted = container.pop(SELF_DIGEST)
        if _digest(container) != wanted:
            raise ManifestError(f"{place} was changed after it was written: its own SHA-256 does not match")
        container["lineage"] = tuple(
            Start(**{**start, "changes": tuple(start["changes"])}) for start in container["lineage"]
        )
        container["class_names"] = tuple(container["class_names"])
        return Manifest(**container)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{place} cannot be read: {error}") from error


def _text(container: dict[str, Any]) -> str:
    return json.dumps(container, indent=2) + "\n"


def _digest(container: dict[str, Any]) -> str:
    return hashlib.sha256(_text(container).encode()).hexdigest()
