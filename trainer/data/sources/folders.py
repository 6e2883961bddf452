"""Folders of images on this machine or another one, and what is in them, as the system describes it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from trainer.config.contracts import Split
from trainer.config.urls import is_url
from trainer.data.images.other_formats import BEGIN
from trainer.data.remote.bucket import State
from trainer.data.remote.tree import RemoteTree, tree_of
from trainer.errors import UsageError


@dataclasses.dataclass(frozen=True)
class RemoteFolder:
    """The folder ``below`` the root of a tree; an empty text is the root itself."""

    tree: RemoteTree = dataclasses.field(repr=False)
    below: str

    def __str__(self) -> str:
        return f"{self.tree.root}/{self.below}".rstrip("/")

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(self.tree, f"{self.below}/{name}".lstrip("/"))

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    def entry_at(self, path: str) -> RemoteEntry:
        """The entry with a path in a folder that has been looked at."""
        below = path.removeprefix(f"{self.tree.root}/")
        return RemoteEntry(RemoteFolder(self.tree, below), self.tree.state(below))

    def look_into(self, names: Iterable[str]) -> None:
        """Fetch files of this folder whose first bytes are asked for next, at the same time."""
        self.tree.begins([(self / name).below for name in names], BEGIN)

    def entries(self) -> list[RemoteEntry]:
        """
        Raises:
            UsageError: as ``RemoteTree.folder``.
        """
        there = self.tree.folder(self.below)
        folders = [RemoteEntry(self / name, None) for name in there.folders]
        return [*folders, *(RemoteEntry(self / name, there.state(name)) for name in there.files)]


@dataclasses.dataclass(frozen=True)
class RemoteEntry:
    """What lies at ``place``: a file in this ``state``, or a folder. It answers as ``os.DirEntry`` does."""

    place: RemoteFolder
    state: State | None

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def path(self) -> str:
        return str(self.place)

    def is_dir(self) -> bool:
        return self.state is None

    def is_file(self) -> bool:
        return self.state is not None


AnyFolder: TypeAlias = Path | RemoteFolder
AnyEntry: TypeAlias = "os.DirEntry[str] | RemoteEntry"


def folder_at(root: str, gigabytes: float, split: Split | None) -> AnyFolder:
    """``data.root``, to open ``split``; None: to look at it only. ``gigabytes`` are those of ``remote_root``.

    Raises:
        UsageError: it is no directory, or there is no way to its machine.
    """
    if is_url(root):
        return RemoteFolder(tree_of(root, gigabytes, split), "")
    place = Path(root)
    if not place.is_dir():
        raise UsageError(f"data.root={root} {'is not a directory' if place.exists() else 'does not exist'}")
    return place


def entries_of(folder: str | AnyFolder) -> list[AnyEntry]:
    """What is in a folder, in no order.

    Raises:
        UsageError: it cannot be read.
    """
    if isinstance(folder, RemoteFolder):
        return [*folder.entries()]
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error


def status_of(place: str | AnyFolder | RemoteEntry) -> os.stat_result:
    """What lies at a place. Of another machine it has the kind and, of a file, the size; the same folder has the same
    device and inode there, too.

    Raises:
        UsageError: it cannot be read.
    """
    if isinstance(place, RemoteFolder):
        place = RemoteEntry(place, None)
    if isinstance(place, RemoteEntry):
        number = int.from_bytes(hashlib.sha256(place.path.encode()).digest()[:8], "big")
        kind, size = (stat.S_IFDIR, 0) if place.state is None else (stat.S_IFREG, place.state.size)
        return os.stat_result((kind, number, 0, 1, 0, 0, size, 0, 0, 0))
    try:
        return os.stat(place)
    except OSError as error:
        link = f", a symbolic link to {os.readlink(place)}," if os.path.islink(place) else ""
        raise UsageError(f"{place}{link} cannot be read: {error.strerror}; repair or remove it") from error


def begin_of(place: str | RemoteEntry) -> bytes:
    """The first bytes of a file, by which its format is known; none where one of this machine cannot be read.

    Raises:
        UsageError: one of another machine cannot be read.
    """
    if isinstance(place, RemoteEntry):
        return place.place.tree.begins([place.place.below], BEGIN)[0]
    try:
        with open(os.open(place, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would block
            return file.read(BEGIN)
    except OSError:
        return b""
