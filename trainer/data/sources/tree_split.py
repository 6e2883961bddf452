"""One tree of class folders, split into training and validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.sources.division import Division, judge, validating
from trainer.data.sources.folders import AnyFolder
from trainer.data.sources.image_groups import grouped
from trainer.data.sources.packed_images import PackedImages, rank
from trainer.errors import NoSuchSplit


def part_of_tree(
    images: PackedImages,
    config: ImageFolderConfig,
    folder: AnyFolder,
    classes: Sequence[str],
    split: Split,
    say: Callable[[str], object],
) -> PackedImages:
    """The images of the tree in ``folder`` that are ``split``. ``say`` gets warnings about the split, once for both.

    Raises:
        UsageError: there are none, or a class has none for training.
    """
    if split == "test":
        raise NoSuchSplit(
            f"{folder} is one tree of class folders, whose images train and validate, so it has no test split\n"
            f"a test set lies in {folder}/test/CLASS/ beside {folder}/train/CLASS/, or elsewhere: data.root=DIR"
        )
    rule, labels = _rule(config, folder), images.labels
    grouping = None if config.group_pattern is None else grouped(config, folder, images)
    used = np.array([config.classes is None or name in config.classes for name in classes])

    def ranks() -> npt.NDArray[np.float64]:
        return np.array([rank(path) for path, _, _ in images])

    chosen = validating(rule, labels, ranks, grouping, classes, used)
    if split == "train":
        judge(rule, labels, chosen, grouping, classes, used, say)
    return images.only(chosen == (split == "validation"))


def _rule(config: ImageFolderConfig, folder: AnyFolder) -> Division:
    root = config.root.rstrip("/")
    others = f" and all others into {root}/train/CLASS/" if str(folder) == root else ""
    return Division(
        share=config.validation_share,
        folds=config.folds,
        fold=config.fold,
        by_path=config.split_by == "path",
        place=str(folder),
        class_place=lambda name: str(folder / name),
        group_key="data.group_pattern",
        group_value=config.group_pattern,
        beside=f"or put images for validation into {root}/val/CLASS/{others}",
    )
