"""Seeds as pure functions of names: every random draw is decided by (seed, purpose, position)."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A non-negative 31-bit seed for one purpose.

    SHA-256 keeps the seeds of different purposes unrelated and never changes between versions of a library.
    31 bits fit every consumer: Keras initialisers, int32 and int64 tensors.
    """
    text = "/".join(["trainer", str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
