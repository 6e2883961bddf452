"""What a checkpoint says about itself: ``manifest.json``.

Its last entry, ``sha256``, is the digest of the text of all others. It shows whether a manifest was changed after it
was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from trainer.storage.documents import finite_or_null, nan_for_null, parse_json, shown
from trainer.storage.guarded import read_text
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable

CHECKPOINTS = "checkpoints"  # in a run directory and in a mirror
PREFIX = "state"  # of state.index and state.data-00000-of-00001
FILE_NAME = "manifest.json"
FORMAT_VERSION = 2
SELF_DIGEST = "sha256"
SIZE_LIMIT = 64 << 20  # bytes; ten thousand class names are 200 KB

DIGEST = re.compile(r"[0-9a-f]{64}")
LEDGER = re.compile(r"[0-9a-f]{16}")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
METRICS = ("loss", "accuracy")


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of the run: a new run, or a resume."""

    started: str  # ISO 8601, UTC
    host: str
    from_step: int
    checkpoint: str | None  # the path that this start read its state or weights from; None for a new run without any
    changes: tuple[str, ...]  # what was accepted, "key: stored -> wanted"


@dataclasses.dataclass(frozen=True)
class RecordedMetrics:
    """The part of metrics.jsonl that was written before a checkpoint: its first ``size`` bytes and their SHA-256."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Facts about a checkpoint.

    ``files`` maps file names to SHA-256 digests, ``sizes`` maps them to bytes. ``fingerprints`` maps the sections of
    the configuration (``config.model``) and the kinds of facts (``structure``) to their SHA-256 digests. ``validation``
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
    metrics: RecordedMetrics
    files: dict[str, str]
    sizes: dict[str, int]


class ManifestError(Exception):
    """The manifest is missing or cannot be parsed. The message says why."""


def write(manifest: Manifest | str, path: Path) -> None:
    """Write a manifest, or the text of one that was read: an older program may have spelled the same otherwise."""
    if isinstance(manifest, str):
        path.write_bytes(manifest.encode("utf-8"))
        return
    container = finite_or_null(dataclasses.asdict(manifest))
    path.write_text(_text({**container, SELF_DIGEST: _digest(container)}), encoding="utf-8")


def read(path: Path) -> Manifest:
    """Read a manifest. It may come from anywhere.

    Raises:
        ManifestError: it does not exist, is not a regular file, was changed after it was written, or does not have
            exactly the expected fields with values that a checkpoint can have.
        Unreadable: the system cannot read it now.
    """
    try:
        with readable(path):
            text = read_text(path, SIZE_LIMIT)
        return from_text(text, str(path))
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing") from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except Unacceptable as error:
        raise ManifestError(str(error)) from error


def from_text(text: str, place: str) -> Manifest:
    """The manifest in the text that ``write`` wrote. Errors call it ``place``.

    Raises:
        ManifestError: as ``read``.
    """
    try:
        container = parse_json(text)
        if not isinstance(container, dict) or not {"format_version", SELF_DIGEST} <= container.keys():
            raise Unacceptable("it is not a manifest")
        if container["format_version"] != FORMAT_VERSION:
            version = shown(container["format_version"])
            raise ManifestError(f"{place} has format {version}; this version reads {FORMAT_VERSION}")
        if container.pop(SELF_DIGEST) != _digest(container):
            raise ManifestError(f"{place} was changed after it was written: its own SHA-256 does not match")
        validation = container["validation"] if "validation" in container else None
        if isinstance(validation, dict):
            container["validation"] = nan_for_null(validation)
        manifest = build(Manifest, container, "manifest")
        _check(manifest)
    except Unacceptable as error:
        raise ManifestError(f"{place} cannot be read: {error}") from error
    return manifest


def _text(container: dict[str, Any]) -> str:
    return json.dumps(container, indent=2) + "\n"


def _digest(container: dict[str, Any]) -> str:
    return hashlib.sha256(_text(container).encode()).hexdigest()


def _numbers(manifest: Manifest) -> list[tuple[str, float]]:
    """Every count in the manifest, with its name."""
    return [
        ("step", manifest.step),
        ("examples", manifest.examples),
        ("epoch", manifest.epoch),
        ("metrics.size", manifest.metrics.size),
        *((f"sizes.{file}", size) for file, size in manifest.sizes.items()),
        *((f"lineage[{index}].from_step", start.from_step) for index, start in enumerate(manifest.lineage)),
    ]


def _check(manifest: Manifest) -> None:
    """Refuse values that no checkpoint has. Only a measured loss may be infinite or NaN, which JSON has as null."""
    for name, number in _numbers(manifest):
        if not (math.isfinite(number) and number >= 0):
            raise Unacceptable(f"{name} is {number}, but must be at least 0")
    if manifest.validation is not None and any(name not in manifest.validation for name in METRICS):
        raise Unacceptable(f"validation has {shown(list(manifest.validation))}, but needs {' and '.join(METRICS)}")
    for name, text, pattern in (
        ("ledger", manifest.ledger, LEDGER),
        ("metrics.sha256", manifest.metrics.sha256, DIGEST),
        *((f"files.{file}", value, DIGEST) for file, value in manifest.files.items()),
        *((f"fingerprints.{kind}", value, DIGEST) for kind, value in manifest.fingerprints.items()),
    ):
        if not pattern.fullmatch(text):
            raise Unacceptable(f"{name} is {shown(text)}, which is not a digest")
    for file in manifest.files:
        if not PLAIN_NAME.fullmatch(file):
            raise Unacceptable(f"files has {shown(file)}, which is not the name of a file in this directory")
    if manifest.files.keys() != manifest.sizes.keys():
        raise Unacceptable("files and sizes do not name the same files")
