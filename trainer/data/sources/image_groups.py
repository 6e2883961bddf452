"""Groups of images that must not be divided between splits: of one patient, slide or video."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import numpy.typing as npt

from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.sources.folders import AnyFolder
from trainer.data.sources.packed_images import PackedImages, composed, rank
from trainer.errors import UsageError

Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Grouping:
    """The groups of images: ``names``, in the order in which they occur, and the number of each image's, ``[n]``."""

    names: tuple[str, ...]
    of_images: Numbers

    def numbers(self) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """The group of each image, and the rank of each group."""
        return self.of_images, np.array([rank(name) for name in self.names])

    def spanning(self, labels: npt.NDArray[np.int32]) -> list[tuple[str, list[int]]]:
        """The groups that have several labels, with these."""
        pairs = np.unique(np.stack([self.of_images, labels.astype(np.int64)]), axis=1).T
        several = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
        return [(self.names[group], pairs[pairs[:, 0] == group, 1].tolist()) for group in several]


def grouped(config: ImageFolderConfig, folder: AnyFolder, images: PackedImages) -> Grouping:
    """The groups that ``data.group_pattern`` makes of the images below ``folder``, by their paths below ``data.root``.

    Raises:
        UsageError: an image has none.
    """
    assert config.group_pattern is not None
    pattern = re.compile(config.group_pattern)
    prefix = "" if str(folder) == config.root.rstrip("/") else f"{folder.name}/"
    numbers: dict[str, int] = {}
    found = np.zeros(len(images), np.int64)
    missed: list[str] = []
    for record, (path, _, _) in enumerate(images):
        name = group_of(pattern, prefix + composed(path))
        if name is None:
            missed.append(prefix + path)
        else:
            found[record] = numbers.setdefault(name, len(numbers))
    if missed:
        raise UsageError(
            f"data.group_pattern={config.group_pattern} does not match {len(missed)} of {len(images)} images, the "
            f"first {missed[0]}, so their group is not known; the pattern is searched for in each path below data.root"
        )
    return Grouping(tuple(numbers), found)


def group_of(pattern: re.Pattern[str], path: str) -> str | None:
    """The name of an image's group: the first group of the pattern, else the whole match; None without a match."""
    match = pattern.search(path)
    if match is None:
        return None
    name: str | None = match[1] if pattern.groups else None
    return match[0] if name is None else name
