"""The labels of all records, for files that must be read for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from trainer.data.sources.progress import tracked
from trainer.errors import BadRecord

Numbers = npt.NDArray[np.int64]

CONCURRENT_READS = 8  # hides the latency of network file systems
RECORDS_A_TASK = 256
UNKNOWN = -1


def read_labels(read: Callable[[int], int], count: int, skip_bad: bool, title: str) -> Numbers:
    """The labels of records 0 to ``count``, int64 ``[count]``, by reading every record once, in parallel.

    ``read`` returns the label of one record. With ``skip_bad`` a record that cannot be used has ``UNKNOWN``.

    Raises:
        BadRecord: a record cannot be used and ``skip_bad`` is false.
    """

    def part(first: int) -> list[int]:
        return [label(record) for record in range(first, min(first + RECORDS_A_TASK, count))]

    def label(record: int) -> int:
        try:
            return read(record)
        except BadRecord:
            if skip_bad:
                return UNKNOWN
            raise

    def labels() -> Iterator[int]:
        firsts = range(0, count, RECORDS_A_TASK)
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            for found in tracked(pool.map(part, firsts), f"reading the labels of {title}", len(firsts)):
                yield from found

    return np.fromiter(labels(), np.int64, count)
