"""A few records of a split, which stand for all of them: always the same ones of the same split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainer.data.sources.source import Source
from trainer.errors import BadRecord


def spread(source: Source, number: int) -> Iterator[tuple[int, bytes]]:
    """At most ``number`` records, evenly spread: each record's number and encoded image. Those that cannot be read are
    left out: whoever trains on them hears of it.
    """
    for record in np.unique(np.linspace(0, source.count - 1, number).astype(np.int64)).tolist():
        try:
            (image,), _ = source.read(np.array([record]))
        except BadRecord:
            continue
        yield record, image
