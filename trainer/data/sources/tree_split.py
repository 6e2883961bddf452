"""One tree of class folders, split into training and validation, with a word about each class that comes off badly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.sources import stratified
from trainer.data.sources.image_groups import Grouping, grouped
from trainer.data.sources.packed_images import PackedImages, rank
from trainer.errors import NoSuchSplit, UsageError, few


def part_of_tree(
    images: PackedImages,
    config: ImageFolderConfig,
    folder: Path,
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
    share, labels = config.validation_share, images.labels
    grouping = None
    if config.group_pattern is not None:
        grouping = grouped(config, folder, images)
        validating = stratified.validating_groups(labels, *grouping.numbers(), len(classes), share)
    else:
        ranks = np.array([rank(path) for path, _, _ in images])
        if config.split_by == "path":
            validating = ranks < share
        else:
            validating = stratified.validating(labels, ranks, len(classes), share)
    if not validating.any() or validating.all():
        raise UsageError(_one_sided(config, folder, labels, grouping, "training" if validating.any() else "validation"))
    part = images.only(validating == (split == "validation"))
    if split == "train":
        if grouping is not None:
            groups, apart = len(grouping.names), len(np.unique(grouping.of_images[validating]))
            say(f"{groups} groups of data.group_pattern: {groups - apart} for training, {apart} for validation")
        used = np.array([config.classes is None or name in config.classes for name in classes])
        _refuse_untrained(part.labels, classes, used, folder, share)
        _warn(labels, validating, classes, used, share, grouping, say)
    return part


def _one_sided(
    config: ImageFolderConfig,
    folder: Path,
    labels: npt.NDArray[np.int32],
    grouping: Grouping | None,
    without: Literal["training", "validation"],
) -> str:
    """Why all images of a tree are in one split, and what gives the other one some."""
    root = Path(config.root)
    others = f" and all others into {root / 'train'}/CLASS/" if folder == root else ""
    beside = f"or put images for validation into {root / 'val'}/CLASS/{others}"
    if config.split_by == "path":
        return (
            f"data.validation_share={config.validation_share} leaves no image of {folder} for {without}, because the "
            f"hash of each path alone decides; set data.split_by=class, {beside}"
        )
    if grouping is not None:
        return (
            f"no group of data.group_pattern={config.group_pattern} can be spared for {without}: {len(grouping.names)} "
            f"{'group has' if len(grouping.names) == 1 else 'groups have'} all {len(labels)} images of {folder}\n"
            f"add images of other groups, {beside}; or set data.group_pattern=null to divide the groups"
        )
    return (
        f"every class of {folder} has a single image, which is needed for training, so none is left for validation\n"
        f"add images, at least a second one to some classes, {beside}"
    )


def _refuse_untrained(
    labels: npt.NDArray[np.int32], classes: Sequence[str], used: npt.NDArray[np.bool_], folder: Path, share: float
) -> None:
    """Refuse a class whose images are all for validation: a network cannot learn it."""
    counts = np.bincount(labels, minlength=len(classes))
    for count, name, matters in zip(counts, classes, used, strict=True):
        if not count and matters:
            raise UsageError(
                f"data.validation_share={share} leaves no image of {folder / name} for training, because all of its "
                "few images fall into validation; lower it, or add images"
            )


def _warn(
    labels: npt.NDArray[np.int32],
    validating: npt.NDArray[np.bool_],
    classes: Sequence[str],
    used: npt.NDArray[np.bool_],
    share: float,
    grouping: Grouping | None,
    say: Callable[[str], object],
) -> None:
    """Warn where the split of the classes that are ``used`` is not what ``data.validation_share`` asks for."""
    counts = np.bincount(labels, minlength=len(classes)) * used
    kept = np.bincount(labels[validating], minlength=len(classes)) * used
    count = int(used.sum())
    without = [f"{classes[label]} ({counts[label]})" for label in np.flatnonzero((counts > 0) & (kept == 0)).tolist()]
    if without:
        say(
            f"warning: {len(without)} of {count} classes have no image for validation, so nothing measures how "
            f"well they are learned; with the number of their images: {few(without)}"
        )
    if grouping is None:
        if _far_from(int(kept.sum()), share * int(counts.sum())):
            say(
                f"warning: {kept.sum()} of {counts.sum()} images validate, although data.validation_share={share}: "
                "each class with two images or more has one for validation at least, and one for training"
            )
        return
    spanning = grouping.spanning(labels)
    if spanning:
        first, found = spanning[0]
        say(
            f"warning: {len(spanning)} of {len(grouping.names)} groups of data.group_pattern have images of several "
            f"classes, the first {first} ({few([classes[label] for label in found])}); each stays in one split"
        )
    off = [
        f"{classes[label]} {kept[label]} of {counts[label]}"
        for label in np.flatnonzero(kept).tolist()
        if _far_from(int(kept[label]), share * int(counts[label]))
    ]
    if off:
        say(
            f"warning: the groups of data.group_pattern are too large for data.validation_share={share} of {len(off)} "
            f"of {count} classes; for validation are {few(off)}"
        )


def _far_from(count: int, wanted: float) -> bool:
    return abs(count - wanted) > max(1.0, wanted / 2.0)
