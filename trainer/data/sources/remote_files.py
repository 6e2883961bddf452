"""The files of a split that lie on another machine: which ones match a pattern, and what reading them costs."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from trainer.config.contracts import Split
from trainer.data.remote.bucket import State
from trainer.data.remote.remote_path import RemotePath, RemoteRoot, cache_directory
from trainer.data.sources.open_files import AnyPath, AnyRoot
from trainer.data.sources.parquet_rows import in_bytes
from trainer.errors import warn

MAGIC = re.compile(r"[*?\[]")


def matching(root: RemoteRoot, patterns: Sequence[str]) -> dict[str, list[RemotePath]]:
    """The files below ``root`` that match each pattern, as ``Path.glob`` matches them; with their states now.

    Raises:
        UsageError: a folder cannot be listed, or a file does not say of which version it is.
    """
    plain = [pattern for pattern in patterns if not MAGIC.search(pattern)]
    if len(plain) == len(patterns) and root.bucket.lists_poorly:
        states = dict(zip(plain, root.bucket.states(plain), strict=True))
        return {name: [_path(root, name, state)] if state is not None else [] for name, state in states.items()}

    @cache
    def listed(folder: str, deep: bool) -> dict[str, State | None]:
        return root.bucket.names(folder, deep=deep)

    found = {}
    for pattern in patterns:
        folder, rest = _fixed_part(pattern)
        accepted = _translated(rest)
        there = listed(folder, "/" in rest)
        found[pattern] = {
            f"{folder}/{name}".lstrip("/"): state for name, state in there.items() if accepted.fullmatch(name)
        }
    unknown = [name for names in found.values() for name, state in names.items() if state is None]
    states = dict(zip(unknown, root.bucket.states(unknown), strict=True))
    return {
        pattern: [_path(root, name, known) for name, state in names.items() if (known := state or states.get(name))]
        for pattern, names in found.items()
    }


def _path(root: RemoteRoot, name: str, state: State | None) -> RemotePath:
    return RemotePath(f"{root}/{name}", name, state, root)


def _fixed_part(pattern: str) -> tuple[str, str]:
    """The folder that a pattern names, and the rest of it."""
    parts = pattern.split("/")
    count = next((number for number, part in enumerate(parts) if MAGIC.search(part)), len(parts) - 1)
    count = min(count, len(parts) - 1)
    return "/".join(parts[:count]), "/".join(parts[count:])


def _translated(pattern: str) -> re.Pattern[str]:
    parts = pattern.split("/")
    text = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            text += "[^/]+" if last else "(?:[^/]+/)*"
        else:
            inside = fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z").removesuffix(r")\z")
            text += f"(?:{inside.replace('.*', '[^/]*')})" + ("" if last else "/")
    return re.compile(text)


def as_they_fit(root: AnyRoot, files: list[AnyPath]) -> list[AnyPath]:
    """The files of a split; where the cache has no room for all of them, they know."""
    if not isinstance(root, RemoteRoot):
        return files
    tight = as_it_fits(root, _size(files))
    if tight.fits:
        return files
    return [dataclasses.replace(file, root=tight) for file in files if isinstance(file, RemotePath)]


def as_it_fits(root: RemoteRoot, total: int) -> RemoteRoot:
    """The root, from which ``total`` bytes are read at random."""
    return root if total <= root.most_bytes else dataclasses.replace(root, fits=False)


def _size(files: Sequence[AnyPath]) -> int:
    return sum(file.state().size for file in files if isinstance(file, RemotePath))


def ahead_of(root: AnyRoot, files: Sequence[AnyPath], split: Split) -> int:
    """How many records are announced before they are read; 0 where the files are on this machine. Says, once for each
    run, what it costs that the files of ``split`` do not fit on local disk.
    """
    if not isinstance(root, RemoteRoot):
        return 0
    if split == "train":
        say_cost(root, _size(files))
    return min(file.root.pieces_ahead for file in files if isinstance(file, RemotePath))


def say_cost(root: RemoteRoot, total: int) -> None:
    """Say how much of ``total`` bytes for training is kept on this machine, and what it costs if that is not all."""
    place, most = cache_directory(), root.most_bytes
    print(f"{in_bytes(total)} for training in {root}; up to {in_bytes(most)} are kept in {place}")
    if total > most:
        warn(
            f"{1 - most / total:.0%} of the images are fetched again in each epoch, because "
            f"data.disk_cache_gigabytes={most / 1e9:g} is less than the {in_bytes(total)} of the files for training; "
            "raise it, where the disk has room"
        )
        return
    free = _free(place)
    if free is not None and free < total:
        warn(
            f"the disk of {place} has {in_bytes(free)} free, and {in_bytes(total)} for training are to be kept there "
            "unless they are already; free some, or name another place: XDG_CACHE_HOME=DIR"
        )


def _free(place: Path | None) -> int | None:
    """The free bytes of the disk that a directory is on, or will be on."""
    while place is not None and not place.exists() and place != place.parent:
        place = place.parent
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None
