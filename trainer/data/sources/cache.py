"""Facts about files that need a read of all of them, kept so that this happens only once.

A cache lies beside the files, or in the user's cache directory if theirs is read-only. It holds the size and the
modification time of every file, and is made again when one of them differs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.runtime.user_cache import user_cache

Arrays = Mapping[str, npt.NDArray[np.int64]]

VERSION = 2


def load_or_make(
    root: Path, kind: str, files: Sequence[Path], settings: Sequence[str], make: Callable[[], Arrays]
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


def cache_files(root: Path, kind: str, files: Sequence[Path], settings: Sequence[str]) -> list[Path]:
    """Where a cache may lie: beside the files, and in the user's cache directory if there is one."""
    names = [*(os.path.relpath(file, root) for file in files), *settings]
    beside, elsewhere = _digest(names), _digest([str(root.resolve()), *names])
    cache = user_cache()
    there = [] if cache is None else [cache / f"{kind}-{elsewhere}.npz"]
    return [root / f".trainer-{kind}-{beside}.npz", *there]


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _key(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Version, then size and time of modification (ns) of every file. The names are in the name of the cache."""
    states = [file.stat() for file in files]
    return np.array([VERSION, *(value for state in states for value in (state.st_size, state.st_mtime_ns))], np.int64)


def _load(place: Path, key: npt.NDArray[np.int64]) -> Arrays | None:
    """The stored arrays, or None when there are none, or they are of other files or unreadable."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            if not np.array_equal(stored["key"], key):
                return None
            return {name: stored[name] for name in stored.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _store(place: Path, key: npt.NDArray[np.int64], arrays: Arrays) -> bool:
    """Write the cache, whole or not at all; returns whether it was possible."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".trainer-", delete=False) as file:
            try:
                np.savez(file, allow_pickle=False, key=key, **arrays)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, place)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return False
    return True
