"""Manifests for checkpoints that no run made."""

from __future__ import annotations

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, RecordedMetrics

NO_METRICS = RecordedMetrics(0, "0" * 64)


def describe(step: int, validation: dict[str, float] | None = None):  # type: ignore[no-untyped-def]
    def with_files(files: dict[str, str], sizes: dict[str, int]) -> Manifest:
        facts = (step, step * 8, 0.0, "0" * 16, validation, ("a", "b"), {}, {}, None, "", (), NO_METRICS, files, sizes)
        return Manifest(manifests.FORMAT_VERSION, *facts)

    return with_files
