"""Image files by their paths alone, without classes: what a trained network is asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.data.reads import reading
from trainer.data.sources.open_files import AnyPath
from trainer.errors import BadRecord, one_line
from trainer.storage.unreadable import unusable_record

Numbers = npt.NDArray[np.int64]


class ImageFiles:
    """The files at ``paths``, in this order, as a split whose labels mean nothing: every one is 0."""

    def __init__(self, paths: Sequence[str], class_names: tuple[str, ...]) -> None:
        self._paths = paths
        self.class_names = class_names
        self.count = len(paths)

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        return [self._load(int(record)) for record in records], np.zeros(len(records), np.int64)

    def labels(self) -> Numbers:
        return np.zeros(self.count, np.int64)

    def place(self, record: int) -> str:
        return one_line(self._paths[record])

    def listing(self, records: Numbers) -> None:
        """There is none: no run was trained on them."""

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _load(self, record: int) -> bytes:
        return read_file(Path(self._paths[record]), lambda: self.place(record))


def read_file(path: AnyPath, place: Callable[[], str], advice: str = "", size: int | None = None) -> bytes:
    """The bytes of an image file, which ``place`` names in messages. ``size`` is what it had when the process began;
    None where nobody looked. ``advice`` is a line about an empty file.

    Raises:
        BadRecord: it cannot be read, is empty, or has another size.
    """
    try:
        with reading(place):
            data = path.read_bytes()
    except OSError as error:
        raise unusable_record(place(), error) from error
    if not data:
        raise BadRecord(f"{place()} is empty (0 bytes){advice and chr(10)}{advice}")
    if size is not None and len(data) != size:
        raise BadRecord(
            f"{place()} has {len(data)} bytes, but had {size} when this process began; "
            "data must not change while it is in use"
        )
    return data
