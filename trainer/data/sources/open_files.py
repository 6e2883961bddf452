"""Files that stay open while their records are read, on this machine or another one; there may be thousands."""

from __future__ import annotations

import os
import resource
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from trainer.data.remote.remote_path import RemoteFile, RemotePath, RemoteRoot
from trainer.errors import UsageError

AnyPath: TypeAlias = Path | RemotePath
AnyRoot: TypeAlias = Path | RemoteRoot


class OpenFile(Protocol):
    """A file that is read at any place. Safe to use from several threads."""

    @property
    def size(self) -> int:
        """In bytes, at this moment."""

    def pread(self, size: int, begin: int) -> bytes:
        """``size`` bytes from byte ``begin`` on; fewer at the end of the file.

        Raises:
            OSError: it cannot be read.
        """

    def at_hand(self, size: int, begin: int) -> bytes:
        """As ``pread``, of what is on this machine; nothing where some of it is not. For messages, which must not wait
        for another machine.
        """

    def expect(self, begin: int, end: int) -> None:
        """Bytes ``begin`` to ``end`` are read soon."""

    def close(self) -> None: ...


class LocalFile:
    """A file of this machine."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def pread(self, size: int, begin: int) -> bytes:
        return os.pread(self._descriptor, size, begin)

    def at_hand(self, size: int, begin: int) -> bytes:
        return self.pread(size, begin)

    def expect(self, begin: int, end: int) -> None:
        """The system reads ahead by itself."""

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class OpenFiles:
    """All files, open for as long as this object is there: a search opens its data for every trial.

    Raises:
        UsageError: one cannot be opened.
    """

    def __init__(self, paths: Sequence[AnyPath]) -> None:
        self._files: list[OpenFile] = []
        weakref.finalize(self, _close, self._files).atexit = False  # at the end of a process, some may be read
        allow_open_files(sum(isinstance(path, Path) for path in paths))
        for path in paths:
            self._files.append(open_file(path))

    def __getitem__(self, file: int) -> OpenFile:
        return self._files[file]

    def __iter__(self) -> Iterator[OpenFile]:
        return iter(self._files)


def _close(files: Sequence[OpenFile]) -> None:
    for file in files:
        file.close()


def open_file(path: AnyPath, *, in_order: bool = False) -> OpenFile:
    """``in_order``: it is read from its begin to its end.

    Raises:
        UsageError: it cannot be opened.
    """
    if isinstance(path, RemotePath):
        return RemoteFile(path, in_order=in_order)
    try:
        return LocalFile(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def size_of(path: AnyPath) -> int:
    """In bytes, when it was found."""
    return path.state().size if isinstance(path, RemotePath) else path.stat().st_size


def allow_open_files(count: int) -> None:
    """Raise this process's soft limit by ``count``: a thousand shards are common, and so is a limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        allowed = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
