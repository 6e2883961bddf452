"""What a source of images is, and the registry of sources."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.config.schema import DigitsConfig
from trainer.data.embedded import DigitsSource, Split


class Source(Protocol):
    """One split of a data set, with random access. Reads may come from several threads."""

    count: int
    class_names: tuple[str, ...]

    def read(self, records: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """Encoded images and labels (int64 ``[n]``, each in [0, len(class_names))) of ``records`` (int64 ``[n]``)."""


def open_source(config: DigitsConfig, split: Split) -> Source:
    """Open one split of the configured data."""
    return DigitsSource(config, split)
