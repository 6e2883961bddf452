"""Which images of one tree validate: of each class its share, decided by hashes, so that it is the same everywhere.

Nothing is drawn, and no seed plays a part: the same folder has the same split in every run. A rank, see
``packed_images.rank``, belongs to a path or to a group's name. Low ranks validate. So an added image moves no image of
another class, and at most one of its own: the one at the border.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.int64]
Ranks = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]


def wanted(count: int, share: float) -> int:
    """How many of ``count`` images of a class validate: ``share`` of them, rounded, but at least one, and at least one
    image stays for training. A single image is for training.
    """
    return min(max(1, math.floor(share * count + 0.5)), count - 1)


def validating(labels: Labels, ranks: Ranks, classes: int, share: float) -> Chosen:
    """Which images validate, bool ``[n]``, from ``labels`` and ``ranks`` (``[n]`` each): the lowest of each class."""
    order = np.lexsort((ranks, labels))
    counts = np.bincount(labels, minlength=classes)
    firsts = np.cumsum(counts) - counts
    chosen = np.zeros(len(labels), bool)
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        if count:
            chosen[order[first : first + wanted(count, share)]] = True
    return chosen


def validating_groups(labels: Labels, groups: Numbers, ranks: Ranks, classes: int, share: float) -> Chosen:
    """Which images validate, bool ``[n]``, where a group is never divided.

    ``groups`` (``[n]``) has the number of each image's group, ``ranks`` (``[number of groups]``) the rank of each. In
    the order of ranks, a group validates when that brings its classes closer to their shares. Then a class without an
    image for validation gets its smallest group that can be spared. No class loses its last image for training.
    """
    counts = np.bincount(labels, minlength=classes)
    targets = [wanted(int(count), share) for count in counts]
    parts = _parts(labels, groups, classes)
    order = np.argsort(ranks, kind="stable").tolist()
    sizes = np.bincount(groups, minlength=len(ranks)).tolist()
    taken = np.zeros(len(ranks), bool)
    validate = [0] * classes

    def spared(group: int) -> bool:
        return all(validate[label] + images < counts[label] for label, images in parts[group])

    def take(group: int) -> None:
        taken[group] = True
        for label, images in parts[group]:
            validate[label] += images

    for group in order:
        change = sum(
            (abs(validate[label] + images - targets[label]) - abs(validate[label] - targets[label]))
            / int(counts[label])
            for label, images in parts[group]
        )
        if change < 0.0 and spared(group):
            take(group)
    place = {group: number for number, group in enumerate(order)}
    those: dict[int, list[int]] = {label: [] for label in range(classes) if counts[label] and not validate[label]}
    for group, found in enumerate(parts):
        for label, _ in found:
            if label in those:
                those[label].append(group)
    for label, without in those.items():
        if not validate[label]:  # it may have got a group that another class needed
            able = [group for group in without if spared(group)]
            if able:
                take(min(able, key=lambda group: (sizes[group], place[group])))
    return taken[groups]


def folds_of(labels: Labels, ranks: Ranks, offsets: Numbers, folds: int) -> Numbers:
    """The fold of each image, int64 ``[n]``: each class in the order of its ranks, cut into ``folds`` parts whose sizes
    differ by one at most. ``offsets``, int64 ``[classes]``, says which fold has the lowest ranks of a class; so small
    classes do not all fall into the same folds.
    """
    order = np.lexsort((ranks, labels))
    counts = np.bincount(labels, minlength=len(offsets))
    firsts = np.cumsum(counts) - counts
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels)) - firsts[labels[order]]
    return (places * folds // counts[labels] + offsets[labels]) % folds


def folds_of_groups(labels: Labels, groups: Numbers, ranks: Ranks, classes: int, folds: int) -> Numbers:
    """The fold of each image, int64 ``[n]``, where a group is never divided.

    The largest group comes first, and of equal ones that of lower rank. Each goes to the fold that has the smallest
    shares of its classes so far; of several, to that with the fewest images, and of these to the first.
    """
    counts = np.bincount(labels, minlength=classes)
    parts = _parts(labels, groups, classes)
    sizes = np.bincount(groups, minlength=len(ranks))
    filled = np.zeros((classes, folds))  # share of each class that a fold has
    images = np.zeros(folds, np.int64)
    of_groups = np.zeros(len(ranks), np.int64)
    for group in np.lexsort((ranks, -sizes)).tolist():
        there = [label for label, _ in parts[group]]
        weights = np.array([count for _, count in parts[group]], np.float64)
        crowded = (weights[:, None] * filled[there]).sum(axis=0)  # in one order on every machine, which BLAS is not
        fold = int(np.lexsort((images, crowded))[0])
        of_groups[group] = fold
        filled[there, fold] += weights / counts[there]
        images[fold] += sizes[group]
    return of_groups[groups]


def _parts(labels: Labels, groups: Numbers, classes: int) -> list[list[tuple[int, int]]]:
    """For each group, ``(label, images)`` of each class that it has."""
    found, images = np.unique(groups * classes + labels, return_counts=True)
    parts: list[list[tuple[int, int]]] = [[] for _ in range(int(groups.max(initial=-1)) + 1)]
    for code, count in zip(found.tolist(), images.tolist(), strict=True):
        parts[code // classes].append((code % classes, count))
    return parts
