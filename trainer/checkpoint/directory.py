"""Checkpoint directories: committed whole or absent, found, verified and retired.

The crash argument. A checkpoint is written into a directory whose name no reader accepts. Every file is synced, then
that directory, so its content is on disk before anything points to it. One ``rename`` gives it its final name, and
syncing the parent makes the name durable. A crash before the rename leaves a directory that is ignored and removed
by the next writer; a crash after it leaves a complete checkpoint, whose name may at worst be lost with the power: the
checkpoint before is still there, because retention only runs after the sync of the parent. There is no pointer to
"the latest": the newest directory whose files have the digests of its manifest is the latest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.errors import NoValidCheckpoint

NAME = re.compile(r"step-(\d{8,})")
UNFINISHED = ".writing-"
RETIRED = ".deleting-"
SUPERSEDED = "superseded"

Validations = Mapping[int, dict[str, float]]  # step -> validation metrics


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def commit(
    parent: Path, step: int, fill: Callable[[Path], None], describe: Callable[[dict[str, str]], Manifest]
) -> Path:
    """Make the checkpoint of ``step`` under ``parent`` and return its directory.

    ``fill`` writes the files into the directory it is given; ``describe`` turns their digests into the manifest.
    """
    final = parent / name_of(step)
    assert not final.exists(), "a resume sets later checkpoints aside"
    parent.mkdir(parents=True, exist_ok=True)
    unfinished = parent / f"{UNFINISHED}{name_of(step)}"
    unfinished.mkdir()
    fill(unfinished)
    digests = {path.name: digest(path) for path in sorted(unfinished.iterdir())}
    manifests.write(describe(digests), unfinished / manifests.FILE_NAME)
    for path in unfinished.iterdir():
        sync(path)
    sync(unfinished)
    unfinished.rename(final)
    sync(parent)
    return final


def sync(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(parent: Path) -> None:
    """Remove what a dead writer left unfinished. Only the holder of the run directory may call this."""
    if parent.is_dir():
        for path in parent.iterdir():
            if path.name.startswith((UNFINISHED, RETIRED)):
                shutil.rmtree(path)


def committed(parent: Path) -> list[Path]:
    """Every directory that carries a checkpoint's name, oldest first; what is in it has not been looked at."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def verify(path: Path) -> Manifest:
    """Check a checkpoint against its manifest.

    Raises:
        NoValidCheckpoint: names the file that is missing, unexpected or changed.
    """
    try:
        manifest = manifests.read(path / manifests.FILE_NAME)
    except ManifestError as error:
        raise NoValidCheckpoint(str(error)) from error
    present = {file.name for file in path.iterdir()} - {manifests.FILE_NAME}
    for name in sorted(manifest.files.keys() | present):
        if name not in present:
            raise NoValidCheckpoint(f"{path / name} is missing")
        if name not in manifest.files:
            raise NoValidCheckpoint(f"{path / name} does not belong there: the manifest does not name it")
        found = digest(path / name)
        if found != manifest.files[name]:
            raise NoValidCheckpoint(
                f"{path / name} is damaged: its SHA-256 is {found[:16]}…, "
                f"the manifest says {manifest.files[name][:16]}…"
            )
    return manifest


def newest_valid(parent: Path, warn: Callable[[str], None]) -> tuple[Path, Manifest]:
    """The newest checkpoint that verifies; ``warn`` hears of each that does not.

    Raises:
        NoValidCheckpoint: there is none.
    """
    candidates = committed(parent)
    if not candidates:
        raise NoValidCheckpoint(f"{parent} holds no checkpoint; start the run with train")
    for path in reversed(candidates):
        try:
            return path, verify(path)
        except NoValidCheckpoint as error:
            warn(f"skipping {path.name}: {error}")
    raise NoValidCheckpoint(f"none of the {len(candidates)} checkpoints in {parent} is valid; see the warnings above")


def supersede_after(parent: Path, step: int) -> list[Path]:
    """Set aside checkpoints later than ``step``, which a resume from there makes obsolete. Nothing is deleted."""
    later = [path for path in committed(parent) if step_of(path) > step]
    for path in later:
        place = parent / SUPERSEDED
        place.mkdir(exist_ok=True)
        target = next(
            candidate
            for number in range(10**6)
            if not (candidate := place / (path.name if number == 0 else f"{path.name}.{number}")).exists()
        )
        path.rename(target)
    if later:
        sync(parent)
    return later


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest, the best by a validation metric, and those at multiples of a step."""

    keep_last: int
    keep_best: int
    keep_every_steps: int | None
    best_metric: str

    def kept(self, checkpoints: list[tuple[Path, Manifest]], validations: Validations) -> set[Path]:
        """The checkpoints to keep out of all, oldest first."""
        kept = {path for path, _ in checkpoints[-self.keep_last :]}
        kept.update(ranked(checkpoints, validations, self.best_metric)[: self.keep_best])
        if self.keep_every_steps is not None:
            kept.update(path for path, manifest in checkpoints if manifest.step % self.keep_every_steps == 0)
        return kept


def ranked(checkpoints: list[tuple[Path, Manifest]], validations: Validations, metric: str) -> list[Path]:
    """The checkpoints that were evaluated, best first; of equals, the oldest first.

    ``validations`` stands in where a manifest has none: a signal can commit a step before its evaluation is done.
    """
    values = {}
    for path, manifest in checkpoints:
        result = manifest.validation or validations.get(manifest.step)
        if result is not None:
            values[path] = result[metric]
    return sorted(values, key=lambda path: values[path] if metric == "loss" else -values[path])


def described(parent: Path) -> list[tuple[Path, Manifest]]:
    """Every checkpoint whose manifest can be read, with it, oldest first."""
    found = []
    for path in committed(parent):
        try:
            found.append((path, manifests.read(path / manifests.FILE_NAME)))
        except ManifestError:
            continue  # a damaged checkpoint is evidence: retention neither counts nor deletes it
    return found


def retire(parent: Path, retention: Retention, validations: Validations) -> list[Path]:
    """Delete what the policy does not keep, so that a crash leaves no half-deleted checkpoint under its name."""
    checkpoints = described(parent)
    retired = sorted({path for path, _ in checkpoints} - retention.kept(checkpoints, validations))
    for path in retired:
        doomed = parent / f"{RETIRED}{path.name}"
        path.rename(doomed)
        shutil.rmtree(doomed)
    return retired
