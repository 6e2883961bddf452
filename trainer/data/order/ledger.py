"""The ledger: a digest of which record was consumed at which position, to audit that every example came exactly once.

An entry is a 64-bit mix of (position, record). The entries of a batch are summed, so that the parts of a batch that
several workers read add up to the same digest; the batches are chained, so that their order counts. All arithmetic is
modulo 2^64. The configuration is enough to compute what a ledger must be, without reading any data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trainer.data.order.permutation import mix

CHAIN_FACTOR = 6364136223846793005  # Knuth, MMIX: an odd multiplier that mixes 64 bits


def entries(positions: npt.NDArray[np.int64], records: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The entry of each (position, record), int64 ``[n]``."""
    return mix(mix(positions.astype(np.uint64)) ^ records.astype(np.uint64)).astype(np.int64)


def expected_ledger(
    records_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]], examples: int, batch_size: int
) -> int:
    """The ledger in [0, 2^64) after the first ``examples`` positions in batches of ``batch_size``.

    ``records_of`` maps positions to their records.
    """
    ledger = 0
    for first in range(0, examples, batch_size):
        positions = np.arange(first, first + batch_size, dtype=np.int64)
        digest = int(entries(positions, records_of(positions)).astype(np.uint64).sum(dtype=np.uint64))
        ledger = (ledger * CHAIN_FACTOR + digest) % 2**64
    return ledger
