"""Paths, labels and sizes of images, of which there may be millions, and the hash of a path that orders them."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Image = tuple[str, int, int]  # path below the folder it was found in, label, size in bytes


class PackedImages:
    """Paths, ``labels`` (int32 ``[n]``) and ``sizes`` (bytes, int64 ``[n]``) of images, of which there may be millions:
    20 bytes each, and the path.
    """

    def __init__(self, images: Iterable[Image]) -> None:
        paths, ends, labels, sizes = bytearray(), array("q", [0]), array("i"), array("q")
        for path, label, size in images:
            paths += os.fsencode(path)
            ends.append(len(paths))
            labels.append(label)
            sizes.append(size)
        self._paths, self._ends = paths, ends
        self.labels = np.array(labels, np.int32)
        self.sizes = np.array(sizes, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Image]:
        for number in range(len(self)):
            yield self.path(number), int(self.labels[number]), int(self.sizes[number])

    def only(self, chosen: npt.NDArray[np.bool_]) -> PackedImages:
        """Those of ``chosen``, bool ``[n]``, in their order."""
        return PackedImages(image for image, kept in zip(self, chosen.tolist(), strict=True) if kept)

    def path(self, number: int) -> str:
        return os.fsdecode(bytes(self._paths[self._ends[number] : self._ends[number + 1]]))


def rank(path: str) -> float:
    """A number in [0, 1) that only the path below the folder of its split decides; uniform over paths."""
    return _rank(composed(path).encode("utf-8", "surrogateescape"))


def rank_of_encoded(path: bytes) -> float:
    """The rank of a path as the file system has it."""
    return _rank(path) if path.isascii() else rank(os.fsdecode(path))


def _rank(path: bytes) -> float:
    digest = hashlib.sha256(path).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: a float holds every value, and none rounds to 1


def composed(name: str) -> str:
    """A name or path in Unicode's composed form (NFC), in which names are compared. It is read as UTF-8, whatever the
    locale of this process makes of file names.
    """
    if name.isascii():
        return name  # most are, and there may be millions
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "surrogateescape"))
