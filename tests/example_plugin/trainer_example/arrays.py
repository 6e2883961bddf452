"""The records of an .npz file, for trainer."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.plugins import BadRecord, UsageError

if TYPE_CHECKING:
    from trainer.plugins import Split
    from trainer_example import Arrays

Numbers = npt.NDArray[np.int64]


class ArraysSplit:
    """One split, kept in memory."""

    def __init__(self, config: Arrays, split: Split) -> None:
        try:
            with np.load(config.file) as arrays:
                self.class_names = tuple(map(str, arrays["class_names"]))
                self._images, self._labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"data.file={config.file} is not such a file: {error}") from error
        self.count = len(self._images)
        self._config, self._split = config, split

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        for record in records[~self._usable[records]]:
            raise BadRecord(f"{self.place(record)} has the label {self._labels[record]}, which is no class")
        return [_png(self._images[record]) for record in records], self._labels[records]

    def labels(self) -> Numbers:
        if self._config.on_bad_record == "fail":
            self.read(np.flatnonzero(~self._usable))
        return np.where(self._usable, self._labels, -1)

    def place(self, record: int) -> str:
        return f"{self._config.file} ({self._split} record {record})"

    def listing(self, records: Numbers) -> str:
        """All of it is known, so all of it is compared when a run goes on."""
        return hashlib.sha256(self._images[records].tobytes() + self._labels[records].tobytes()).hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    @property
    def _usable(self) -> npt.NDArray[np.bool_]:
        return (self._labels >= 0) & (self._labels < len(self.class_names))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
