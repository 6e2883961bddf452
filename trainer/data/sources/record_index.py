"""Where the records of a set of TFRecord files lie, walked through only once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainer.data.sources.cache import Arrays, load_or_make
from trainer.data.sources.open_files import AnyPath, AnyRoot
from trainer.data.sources.progress import tracked
from trainer.data.sources.tfrecord import Index, index_records

CONCURRENT_FILES = 8  # hides the latency of network file systems; the walk itself is one core's work


def load_or_build(root: AnyRoot, shards: Sequence[AnyPath]) -> list[Index]:
    """The index (see ``index_records``) of every shard, from the cache if it is of exactly these files.

    Raises:
        UsageError: a shard cannot be indexed.
    """
    stored = load_or_make(root, "index", shards, (), lambda: _build(root, shards))
    return np.split(stored["spans"], np.cumsum(stored["counts"])[:-1])


def _build(root: AnyRoot, shards: Sequence[AnyPath]) -> Arrays:
    with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        indices = list(tracked(pool.map(index_records, shards), f"indexing {root}", len(shards)))
    return {"spans": np.concatenate(indices), "counts": np.array([len(index) for index in indices], np.int64)}
