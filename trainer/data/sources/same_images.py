"""Images that two splits have in common, by their paths and, for some of them, by their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from trainer.data.sources.packed_images import Image, composed
from trainer.errors import BadRecord

COMPARED = 20  # files: names like 001.bmp have the same size in many folders, but not the same bytes

Load = Callable[[int], bytes]


def in_both(images: Iterable[Image], load: Load, others: Iterable[Image], load_other: Load) -> npt.NDArray[np.int64]:
    """The numbers of ``images`` whose path, size and bytes one of ``others`` has, too; both load by number. Bytes are
    compared for the first ``COMPARED`` of them: none is returned when one of these differs.
    """
    there = {(composed(path), size): record for record, (path, _, size) in enumerate(others)}
    places = [there.get((composed(path), size)) for path, _, size in images]
    found = [(record, place) for record, place in enumerate(places) if place is not None]
    try:
        same = all(load(record) == load_other(place) for record, place in found[:COMPARED])
    except BadRecord:
        same = False  # whatever cannot be read is reported where it is evaluated
    return np.array([record for record, _ in found if same], np.int64)
