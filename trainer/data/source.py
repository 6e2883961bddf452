"""What a source of images is, and the registry of sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.config.schema import DataConfig
from trainer.data.embedded import DigitsSource
from trainer.data.image_folder import ImageFolderSource
from trainer.data.shards import TFRecordSource
from trainer.data.split import Split


class Source(Protocol):
    """One split of a data set, with random access. Reads may come from several threads.

    ``listing`` is a digest of what is known of every record without reading it (names, sizes); None for data that is
    part of the program.
    """

    count: int
    class_names: tuple[str, ...]
    listing: str | None

    def read(self, records: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """Encoded images and labels (int64 ``[n]``, each in [0, len(class_names))) of ``records`` (int64 ``[n]``).

        Raises:
            UsageError: a record cannot be read or has no usable image or label; names file and record.
        """

    def place(self, record: int) -> str:
        """Where a record lies, for messages: the file and, where it holds several, the record's number in it."""


# data.name -> what opens one split of it
SOURCES: dict[str, Callable[[Any, Split], Source]] = {
    "digits": DigitsSource,
    "image_folder": ImageFolderSource,
    "tfrecord": TFRecordSource,
}


def open_source(config: DataConfig, split: Split) -> Source:
    """Open one split of the configured data.

    Raises:
        UsageError: the data is missing or not what its source expects; names the file or folder.
        NoValidCheckpoint: the embedded data is damaged.
    """
    return SOURCES[config.name](config, split)
