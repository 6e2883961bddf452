"""Facts about files that need a read of all of them, kept so that this happens only once.

A cache lies beside the files, or in the user's cache directory if theirs is read-only. It holds the size and the
modification time of every file, and is made again when one of them differs. The cache of files on another machine lies
in the user's cache directory, and holds their ETags, or what else they have, in place of times.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.remote.remote_path import RemotePath, RemoteRoot
from trainer.data.sources.open_files import AnyPath, AnyRoot
from trainer.runtime.user_cache import replacing, user_cache

Arrays = Mapping[str, npt.NDArray[Any]]

VERSION = 2


def load_or_make(
    root: AnyRoot, kind: str, files: Sequence[AnyPath], settings: Sequence[str], make: Callable[[], Arrays]
) -> Arrays:
    """The result of ``make``, from the cache if that is of exactly these files below ``root``.

    ``kind`` (``index``, ``labels``) is part of the cache's name; ``settings`` are all values besides the files that the
    result depends on. Errors of ``make`` are raised.
    """
    key = _key(files)
    places = cache_files(root, kind, files, settings)
    for place in places:
        stored = _load(place, key)
        if stored is not None:
            return stored
    made = make()
    if not any(_store(place, key, made) for place in places):
        print(f"the {kind} of {root} could not be kept and will be made again: nothing can be written to")
        print("".join(f"  {place.parent}\n" for place in places), end="")
    return made


def cache_files(root: AnyRoot, kind: str, files: Sequence[AnyPath], settings: Sequence[str]) -> list[Path]:
    """Where a cache may lie: beside the files, and in the user's cache directory if there is one."""
    cache = user_cache()
    if isinstance(root, RemoteRoot):
        digest = _digest([str(root), *map(str, files), *settings])
        return [] if cache is None else [cache / f"{kind}-{digest}.npz"]
    names = [*(os.path.relpath(str(file), root) for file in files), *settings]
    beside, elsewhere = _digest(names), _digest([str(root.resolve()), *names])
    there = [] if cache is None else [cache / f"{kind}-{elsewhere}.npz"]
    return [root / f".trainer-{kind}-{beside}.npz", *there]


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _key(files: Sequence[AnyPath]) -> npt.NDArray[np.int64]:
    """Version, then size and time of modification (ns) of every file, or a digest of its ETag on another machine. The
    names are in the name of the cache.
    """
    return np.array([VERSION, *(value for file in files for value in _facts(file))], np.int64)


def _facts(file: AnyPath) -> tuple[int, int]:
    if isinstance(file, RemotePath):
        state = file.state()
        digest = hashlib.sha256(state.version.encode()).digest()
        return state.size, int.from_bytes(digest[:8], "big", signed=True)
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _load(place: Path, key: npt.NDArray[np.int64]) -> Arrays | None:
    """The stored arrays, or None when there are none, or they are of other files or unreadable."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            if not np.array_equal(stored["key"], key):
                return None
            return {name: stored[name] for name in stored.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):  # RuntimeError: a damaged flag
        return None


def _store(place: Path, key: npt.NDArray[np.int64], arrays: Arrays) -> bool:
    """Write the cache, whole or not at all; returns whether it was possible."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as file:
            np.savez(file, allow_pickle=False, key=key, **arrays)
    except OSError:
        return False
    return True
