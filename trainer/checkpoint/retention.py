"""The decision which checkpoints stay, and the deletion of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from trainer.checkpoint.directory import committed, manifest_of, remove
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.config.metrics import counts_by, rank
from trainer.storage.unreadable import Unreadable

Validations = Mapping[int, dict[str, float]]  # step -> validation metrics
P = TypeVar("P", bound=PurePath)  # a checkpoint's directory, here or on a mirror


@dataclasses.dataclass(frozen=True)
class Retention:
    """The policy: the newest checkpoints stay, the best by a validation metric, and those at multiples of a step."""

    keep_last: int
    keep_best: int
    keep_every_steps: int | None
    best_metric: str

    def kept(self, checkpoints: Sequence[tuple[P, Manifest]], validations: Validations) -> set[P]:
        """The checkpoints to keep. ``checkpoints`` are all of them, oldest first."""
        kept = {path for path, _ in checkpoints[-self.keep_last :]}
        kept.update(ranked(checkpoints, validations, self.best_metric)[: self.keep_best])
        if self.keep_every_steps is not None:
            kept.update(path for path, manifest in checkpoints if manifest.step % self.keep_every_steps == 0)
        return kept


def ranked(checkpoints: Sequence[tuple[P, Manifest]], validations: Validations, metric: str) -> list[P]:
    """The checkpoints that were evaluated, with a finite loss, best first; the oldest first among equals.

    Where a manifest has no validation, ``validations`` is used: a signal can commit a step before its evaluation is
    done.
    """
    values = {}
    for path, manifest in checkpoints:
        result = manifest.validation or validations.get(manifest.step)
        if result is not None and counts_by(result, metric):
            values[path] = result[metric]
    return sorted(values, key=lambda path: rank(values[path], metric))


def described(
    parent: Path, warn: Callable[[str], None], passed_over: tuple[type[Exception], ...] = (ManifestError,)
) -> list[tuple[Path, Manifest]]:
    """Every checkpoint with a valid manifest, and the manifest, oldest first. ``warn`` gets a line for each other one.

    Raises:
        Unreadable: a manifest cannot be read now, and ``passed_over`` does not include this error.
    """
    found = []
    for path in committed(parent):
        try:
            found.append((path, manifest_of(path)))
        except passed_over as error:
            warn(f"{path.name} does not count: {error}")
    return found


def retire(parent: Path, retention: Retention, validations: Validations, verified: Path) -> list[Path]:
    """Delete what the policy does not keep. A crash leaves no half-deleted checkpoint under its name.

    ``verified`` is a checkpoint that is known to be whole. It stays whatever the policy says.

    Raises:
        OSError: the first error, after all deletions were tried. The next start deletes what no longer counts.
        Unreadable: ``parent`` cannot be listed now.
    """
    # a damaged checkpoint is evidence: it does not count and is not deleted, and the next resume reports it
    checkpoints = described(parent, lambda reason: None, (ManifestError, Unreadable))
    retired = sorted({path for path, _ in checkpoints} - retention.kept(checkpoints, validations) - {verified})
    failure: OSError | None = None
    for path in retired:
        try:
            remove(path)
        except OSError as error:  # a foreign file in it is in use or another user's; the others still go
            failure = failure or error
    if failure is not None:
        raise failure
    return retired
