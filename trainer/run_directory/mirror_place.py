"""The directory of a mirror, on any filesystem that fsspec knows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, ManifestError, Start
from trainer.errors import UsageError
from trainer.run_directory import validation_predictions
from trainer.run_directory.layout import CHECKPOINTS, PREDICTIONS
from trainer.storage.documents import parse_json
from trainer.storage.filesystems import filesystem_of
from trainer.storage.going_on import COPIES
from trainer.storage.guarded import refuse_unless_directory, refuse_unless_file
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable

OWNER = "owner.json"
OWNER_LIMIT = 64 << 10  # bytes; it has about 300
PATTERN = re.compile(r"[*?\[]")  # the characters that fsspec's ``has_magic`` finds

Checkpoints = list[tuple[PurePosixPath, Manifest]]  # oldest first


def _progress() -> Any:
    """What fsspec calls when a part of a file has come."""
    from fsspec.callbacks import Callback  # takes long, as filesystem_of says

    return Callback(hooks={"parts": lambda size, value: COPIES.advance()})


class Place:
    """A directory on any filesystem that fsspec knows.

    Raises:
        UsageError: the scheme is unknown, or the package of its filesystem is not installed.
    """

    def __init__(self, url: str) -> None:
        self._files, root = filesystem_of(url)
        from fsspec.implementations.local import LocalFileSystem  # takes long, as filesystem_of says

        protocol = self._files.protocol
        self._protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        self.url = url
        self.root = PurePosixPath(root)
        self.checkpoints = self.root / CHECKPOINTS
        # its path on this machine; None on another filesystem than this machine's
        self.local = Path(root) if isinstance(self._files, LocalFileSystem) else None

    def read(self, path: PurePosixPath, limit: int) -> bytes:
        """The content of a small file, at most ``limit`` bytes.

        Raises:
            Unacceptable: it is larger, and no more of it was read; or it is no regular file.
        """
        self._accept(path)
        content = self._files.cat_file(str(path), start=0, end=limit + 1)
        assert isinstance(content, bytes)
        if len(content) > limit:
            raise Unacceptable(f"{path.name} has more than {limit} bytes")
        return content

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file to the mirror.

        Raises:
            OSError: the copy, read back, differs from the file.
            Unacceptable: something that is no regular file has the name.
        """
        self._accept(target)
        with COPIES.doing(lambda: f"copying {source} to {self.url}"):
            self._put(source, target)

    def _put(self, source: Path, target: PurePosixPath) -> None:
        self._files.makedirs(str(target.parent), exist_ok=True)
        self._files.put_file(str(source), str(target))
        COPIES.advance()
        self._files.invalidate_cache()
        with source.open("rb") as here, self._files.open(str(target), "rb") as there:
            if hashlib.file_digest(here, "sha256").digest() != hashlib.file_digest(there, "sha256").digest():
                raise OSError(f"{target} is not what was copied to it")

    def _accept(self, path: PurePosixPath) -> None:
        """On this machine's filesystem, neither follow a link out of the mirror nor wait for the other end of a FIFO.

        Raises:
            Unacceptable: a directory on the way from the mirror's root to ``path`` is none, or ``path`` is no file.
        """
        self._accept_directory(path.parent)
        if self.local is not None and os.path.lexists(path):
            refuse_unless_file(Path(path))

    def _accept_directory(self, path: PurePosixPath) -> None:
        """As ``_accept``, for a directory and those on the way to it."""
        if self.local is None:
            return
        place = self.local
        for name in path.relative_to(self.root).parts:
            place /= name
            if os.path.lexists(place):
                refuse_unless_directory(place)

    def read_if_there(self, path: PurePosixPath, limit: int) -> bytes | None:
        """As ``read``; None where there is no such file."""
        self._files.invalidate_cache()
        return self.read(path, limit) if self._files.exists(str(path)) else None

    def has(self, path: PurePosixPath) -> bool:
        """Whether there is a file now."""
        self._files.invalidate_cache()
        return bool(self._files.exists(str(path)))

    def owner(self) -> Start | None:
        """The first start of the run that owns the place; None when no run owns it yet.

        Raises:
            UsageError: this program did not write ``owner.json``.
        """
        try:
            content = self.read_if_there(self.root / OWNER, OWNER_LIMIT)
            if content is None:
                return None
            return build(Start, parse_json(content.decode()), OWNER)
        except (UnicodeDecodeError, Unacceptable) as error:
            raise UsageError(f"{self.url}/{OWNER} is not from this program: {error}; choose another place") from error

    def write_owner(self, start: Start) -> None:
        self._files.makedirs(str(self.root), exist_ok=True)
        self._accept(self.root / OWNER)
        self._files.pipe_file(str(self.root / OWNER), json.dumps(dataclasses.asdict(start)).encode())

    def get(self, source: PurePosixPath, target: Path, limit: int) -> None:
        """Copy a file from the mirror.

        Raises:
            Unacceptable: it has more than ``limit`` bytes, or is no regular file. Nothing of it was copied.
        """
        self._accept(source)
        size = self._files.size(str(source))
        if size is not None and size > limit:
            raise Unacceptable(f"{source.name} has {size} bytes, and at most {limit} were expected")
        self._files.get_file(str(source), str(target), callback=_progress())

    def remove(self, checkpoint: PurePosixPath) -> None:
        self._accept_directory(checkpoint)
        self._files.rm_file(str(checkpoint / manifests.FILE_NAME))
        self._remove(checkpoint)

    def clear(self, path: PurePosixPath) -> None:
        """Remove what an interrupted copy left."""
        if self._files.exists(str(path)):
            self._remove(path)

    def _remove(self, path: PurePosixPath) -> None:
        """Remove a file, or a directory with all its content, and nothing else.

        Except on the local filesystem, fsspec's ``rm`` treats a path as a pattern: given ``lr=[1]``, it would delete
        ``lr=1``, which belongs to another run.
        """
        self._accept_directory(path.parent)
        if PATTERN.search(str(path)) and "file" not in self._protocols:
            for name in self._files.find(str(path)):
                self._files.rm_file(name)
        else:
            self._files.rm(str(path), recursive=True)

    def predictions(self) -> set[str]:
        """The names of the prediction files on the mirror."""
        return {name for name in self._names(self.root / PREDICTIONS) if validation_predictions.NAME.fullmatch(name)}

    def _names(self, place: PurePosixPath) -> list[str]:
        """The names in a directory now; empty when it does not exist."""
        self._files.invalidate_cache()
        if not self._files.exists(str(place)):
            return []
        return [PurePosixPath(name).name for name in self._files.ls(str(place), detail=False)]

    def set_aside(self, checkpoint: PurePosixPath) -> None:
        superseded = self.checkpoints / directory.SUPERSEDED
        self._accept_directory(superseded)
        number, target = 0, superseded / checkpoint.name
        while self._files.exists(str(target)):
            number, target = number + 1, superseded / f"{checkpoint.name}.{number + 1}"
        self._files.makedirs(str(target), exist_ok=True)
        # file by file: fsspec can move a directory only where directories exist, and an object store has none
        for file in self._files.find(str(checkpoint)):
            self._files.cp_file(file, str(target / PurePosixPath(file).name))
        self.remove(checkpoint)

    def described(self) -> Checkpoints:
        """Every checkpoint on the mirror that has a valid manifest, oldest first."""
        found = []
        for name in self._names(self.checkpoints):
            path = self.checkpoints / name
            if directory.NAME.fullmatch(name) and self._files.exists(str(path / manifests.FILE_NAME)):
                try:
                    text = self.read(path / manifests.FILE_NAME, manifests.SIZE_LIMIT).decode(errors="replace")
                    found.append((path, manifests.from_text(text, f"{name}/{manifests.FILE_NAME}")))
                except (ManifestError, Unacceptable):
                    continue  # evidence, as in the run directory
        return sorted(found, key=lambda entry: entry[1].step)
