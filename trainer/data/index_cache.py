"""Where the records of a set of shards lie, kept in one file so that a large set is walked through only once.

The file lies beside the shards, or in the user's cache directory where that is read-only. It holds size and time of
modification of every shard and is made again when one of them differs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from trainer.data.tfrecord import index_records

Index = npt.NDArray[np.int64]

CONCURRENT_FILES = 8  # hides the latency of network file systems; the walk itself is one core's work
VERSION = 1


def load_or_build(root: Path, shards: Sequence[Path]) -> list[Index]:
    """The index (see ``index_records``) of every shard, from the cache if it is of these very files.

    Raises:
        UsageError: a shard cannot be indexed.
    """
    key = _key(shards)
    places = cache_files(root, shards)
    for place in places:
        indices = _load(place, key)
        if indices is not None:
            return indices
    indices = _build(root, shards)
    for place in places:
        if _store(place, key, indices):
            return indices
    print(f"the index of {root} could not be kept and will be made again: neither of these can be written:")
    print("".join(f"  {place.parent}\n" for place in places), end="")
    return indices


def cache_files(root: Path, shards: Sequence[Path]) -> tuple[Path, Path]:
    """Where the index may lie: beside the data, and in the user's cache directory (XDG Base Directory)."""
    names = [os.path.relpath(shard, root) for shard in shards]
    directory = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trainer"
    beside, elsewhere = _digest(names), _digest([str(root.resolve()), *names])
    return root / f".trainer-index-{beside}.npz", directory / f"index-{elsewhere}.npz"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _key(shards: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Version, then size and time of modification (ns) of every shard. The names are in the name of the cache."""
    states = [shard.stat() for shard in shards]
    return np.array([VERSION, *(value for state in states for value in (state.st_size, state.st_mtime_ns))], np.int64)


def _build(root: Path, shards: Sequence[Path]) -> list[Index]:
    with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        walked = pool.map(index_records, shards)
        hidden = not sys.stdout.isatty()
        return list(track(walked, f"indexing {root}", total=len(shards), disable=hidden, transient=True))


def _load(place: Path, key: npt.NDArray[np.int64]) -> list[Index] | None:
    """The stored indices, or None when there are none, or of other files, or unreadable."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            if not np.array_equal(stored["key"], key):
                return None
            spans, counts = stored["spans"], stored["counts"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return np.split(spans, np.cumsum(counts)[:-1])


def _store(place: Path, key: npt.NDArray[np.int64], indices: Sequence[Index]) -> bool:
    """Write the cache, whole or not at all; whether it was possible."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".trainer-index-", delete=False) as file:
            try:
                counts = [len(index) for index in indices]
                np.savez(file, key=key, spans=np.concatenate(indices), counts=np.array(counts, np.int64))
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, place)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return False
    return True
