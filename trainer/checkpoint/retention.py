"""Which checkpoints stay, and deleting the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from trainer.checkpoint.directory import committed, manifest_of, remove
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.config.metrics import rank
from trainer.storage.unreadable import Unreadable

Validations = Mapping[int, dict[str, float]]  # step -> validation metrics
P = TypeVar("P", bound=PurePath)  # a checkpoint's directory, here or on a mirror


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest, the best by a validation metric, and those at multiples of a step."""

    keep_last: int
    keep_best: int
    keep_every_steps: int | None
    best_metric: str

    def kept(self, checkpoints: Sequence[tuple[P, Manifest]], validations: Validations) -> set[P]:
        """The checkpoints to keep out of all, oldest first."""
        kept = {path for path, _ in checkpoints[-self.keep_last :]}
        kept.update(ranked(checkpoints, validations, self.best_metric)[: self.keep_best])
        if self.keep_every_steps is not None:
            kept.update(path for path, manifest in checkpoints if manifest.step % self.keep_every_steps == 0)
        return kept


def ranked(checkpoints: Sequence[tuple[P, Manifest]], validations: Validations, metric: str) -> list[P]:
    """The checkpoints that were evaluated, best first; of equals, the oldest first.

    ``validations`` stands in where a manifest has none: a signal can commit a step before its evaluation is done.
    """
    values = {}
    for path, manifest in checkpoints:
        result = manifest.validation or validations.get(manifest.step)
        if result is not None:
            values[path] = result[metric]
    return sorted(values, key=lambda path: rank(values[path], metric))


def described(
    parent: Path, warn: Callable[[str], None], passed_over: tuple[type[Exception], ...] = (ManifestError,)
) -> list[tuple[Path, Manifest]]:
    """Every checkpoint whose manifest is whole, with it, oldest first; ``warn`` hears of the others.

    Raises:
        Unreadable: a manifest cannot be read now, and that is not among the errors ``passed_over``.
    """
    found = []
    for path in committed(parent):
        try:
            found.append((path, manifest_of(path)))
        except passed_over as error:
            warn(f"{path.name} does not count: {error}")
    return found


def retire(parent: Path, retention: Retention, validations: Validations, verified: Path) -> list[Path]:
    """Delete what the policy does not keep, so that a crash leaves no half-deleted checkpoint under its name.

    ``verified`` is the checkpoint that is known to be whole, and stays whatever the policy says.

    Raises:
        OSError: the first that was met, after all were tried; what no longer counts goes at the next start.
        Unreadable: ``parent`` cannot be listed now.
    """
    # a damaged checkpoint is evidence: it is neither counted nor deleted, and the next resume reports it
    checkpoints = described(parent, lambda reason: None, (ManifestError, Unreadable))
    retired = sorted({path for path, _ in checkpoints} - retention.kept(checkpoints, validations) - {verified})
    failure: OSError | None = None
    for path in retired:
        try:
            remove(path)
        except OSError as error:  # a foreign file in it that is in use or another user's; the others can still go
            failure = failure or error
    if failure is not None:
        raise failure
    return retired
