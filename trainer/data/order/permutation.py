"""The order of examples as a pure function of (seed, position).

A position is the global example number: the 0-based count of examples that training consumed before it. Nothing
else is state: position 10^9 costs what position 0 costs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.runtime.seeds import derive_seed

ROUNDS = 12  # small domains have few bits for a round; 4 suffice for pseudo-randomness of large ones (Luby, Rackoff)


def records_at(positions: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """The record numbers, each in [0, count), that training reads at ``positions`` (int64 ``[n]``).

    Every epoch of ``count`` positions holds every record once, in an order of its own.
    """
    epochs, offsets = np.divmod(positions, count)
    records = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        records[chosen] = permute(offsets[chosen], count, derive_seed(seed, "order", int(epoch)))
    return records


def permute(
    values: npt.NDArray[np.int64], count: int | npt.NDArray[np.int64], key: int | npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """A keyed bijection of [0, count), applied to ``values`` (int64 ``[n]``); each may have its own count and key.

    A balanced Feistel network over the next even number of bits; results that fall outside the range are
    encrypted again until they fall inside ("cycle walking", Black and Rogaway, 2002), on average less than 4 times.
    """
    counts = np.broadcast_to(np.asarray(count, np.uint64), values.shape)
    bits = np.frexp(np.maximum(counts, 2) - np.uint64(1))[1]  # of the largest value; exact below 2^53
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    starts = np.broadcast_to(np.asarray(key, np.uint64), values.shape)
    steps = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = mix(starts + steps[:, np.newaxis])
    result = _feistel(values.astype(np.uint64), half, keys)
    while (outside := result >= counts).any():
        result[outside] = _feistel(result[outside], half[outside], keys[:, outside])
    return result.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """``half`` is ``[n]``, ``keys`` ``[rounds, n]``."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) & mask)
    return (left << half) | right


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014) on uint64 ``[n]``: every bit reaches every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
