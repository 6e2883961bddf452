"""Images divided into training and validation by hashes, with a word about each class that comes off badly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer.data.sources import stratified
from trainer.data.sources.image_groups import Grouping
from trainer.data.sources.packed_images import rank
from trainer.errors import UsageError, few

Labels = npt.NDArray[np.int32]
Ranks = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Division:
    """The rule by which images are divided: ``share`` of each class validates, or part ``fold`` of ``folds`` equal
    ones. With ``by_path`` the rank of each image alone decides.

    The rest is for messages. ``place`` is what is divided, ``class_place`` makes the place of a class. ``group_key`` is
    the key that makes groups, ``group_value`` its value. ``beside`` says how validation gets images of its own.
    """

    share: float
    folds: int | None
    fold: int | None
    by_path: bool
    place: str
    class_place: Callable[[str], str]
    group_key: str
    group_value: str | None
    beside: str

    @property
    def groups_given(self) -> str:
        return f"{self.group_key}={self.group_value}"

    @property
    def wanted(self) -> float:
        """The share of the images that validates."""
        return self.share if self.folds is None else 1.0 / self.folds

    @property
    def given(self) -> str:
        """The key that says how much validates."""
        return f"data.validation_share={self.share}" if self.folds is None else f"data.folds={self.folds}"


def validating(
    rule: Division,
    labels: Labels,
    ranks: Callable[[], Ranks],
    grouping: Grouping | None,
    classes: Sequence[str],
    used: Chosen,
) -> Chosen:
    """Which images validate, bool ``[n]``. ``labels`` are int32 ``[n]``, ``ranks`` makes float64 ``[n]``; ``used``,
    bool ``[classes]``, are the classes that matter.

    Raises:
        UsageError: none of them would, or all, or folds would leave a class untrained.
    """
    if rule.folds is not None:
        folds = _folds(rule, rule.folds, labels, ranks, grouping, classes)
        _refuse_in_one_fold(rule, folds, labels, classes, used)
        chosen = folds == rule.fold
    elif grouping is not None:
        chosen = stratified.validating_groups(labels, *grouping.numbers(), len(classes), rule.share)
    elif rule.by_path:
        chosen = ranks() < rule.share
    else:
        chosen = stratified.validating(labels, ranks(), len(classes), rule.share)
    if not chosen.any() or chosen.all():
        raise UsageError(_one_sided(rule, len(labels), grouping, "training" if chosen.any() else "validation"))
    return chosen


def judge(
    rule: Division,
    labels: Labels,
    chosen: Chosen,
    grouping: Grouping | None,
    classes: Sequence[str],
    used: Chosen,
    say: Callable[[str], object],
) -> None:
    """Say how the images were divided, and warn about the classes that are ``used``, bool ``[classes]``, where that is
    not what was asked for.

    Raises:
        UsageError: a class that is used has no image for training.
    """
    if grouping is not None:
        groups, apart = len(grouping.names), len(np.unique(grouping.of_images[chosen]))
        say(f"{groups} groups of {rule.group_key}: {groups - apart} for training, {apart} for validation")
    _refuse_untrained(rule, labels[~chosen], classes, used)
    _warn(rule, labels, chosen, grouping, classes, used, say)


def _folds(
    rule: Division,
    folds: int,
    labels: Labels,
    ranks: Callable[[], Ranks],
    grouping: Grouping | None,
    classes: Sequence[str],
) -> npt.NDArray[np.int64]:
    if grouping is not None:
        return stratified.folds_of_groups(labels, *grouping.numbers(), len(classes), folds)
    offsets = np.array([int(rank(name) * folds) for name in classes], np.int64)
    return stratified.folds_of(labels, ranks(), offsets, folds)


def _refuse_in_one_fold(
    rule: Division, folds: npt.NDArray[np.int64], labels: Labels, classes: Sequence[str], used: Chosen
) -> None:
    """Refuse a class all of whose images are in one fold: the run that validates it could not learn it."""
    assert rule.folds is not None
    there = np.unique(labels.astype(np.int64) * rule.folds + folds) // rule.folds
    single = (np.bincount(there, minlength=len(classes)) == 1) & used
    alone = [classes[label] for label in np.flatnonzero(single).tolist()]
    if alone:
        what = "image" if rule.group_value is None else f"group of {rule.groups_given}"
        raise UsageError(
            f"{rule.given} validates every image once, but {len(alone)} of {len(classes)} classes of {rule.place} have "
            f"a single {what}, so the fold that validates it cannot learn the class: {few(alone)}\n"
            f"add images, leave the classes out, or set data.folds=null data.fold=null"
        )


def _one_sided(
    rule: Division, count: int, grouping: Grouping | None, without: Literal["training", "validation"]
) -> str:
    """Why all images are in one split, and what gives the other one some."""
    if rule.folds is not None:
        return (
            f"data.fold={rule.fold} of data.folds={rule.folds} has no image for {without}: {rule.place} has {count} "
            f"images{'' if grouping is None else f' in {len(grouping.names)} groups'}; choose fewer folds"
        )
    if rule.by_path:
        return (
            f"data.validation_share={rule.share} leaves no image of {rule.place} for {without}, because the "
            f"hash of each path alone decides; set data.split_by=class, {rule.beside}"
        )
    if grouping is not None:
        return (
            f"no group of {rule.groups_given} can be spared for {without}: {len(grouping.names)} "
            f"{'group has' if len(grouping.names) == 1 else 'groups have'} all {count} images of {rule.place}\n"
            f"add images of other groups, {rule.beside}; or set {rule.group_key}=null to divide the groups"
        )
    return (
        f"every class of {rule.place} has a single image, which is needed for training, so none is left for validation"
        f"\nadd images, at least a second one to some classes, {rule.beside}"
    )


def _refuse_untrained(rule: Division, trained: Labels, classes: Sequence[str], used: Chosen) -> None:
    """Refuse a class whose images are all for validation: a network cannot learn it."""
    counts = np.bincount(trained, minlength=len(classes))
    for count, name, matters in zip(counts, classes, used, strict=True):
        if not count and matters:
            raise UsageError(
                f"{rule.given} leaves no image of {rule.class_place(name)} for training, because all of its "
                "few images fall into validation; lower it, or add images"
            )


def _warn(
    rule: Division,
    labels: Labels,
    chosen: Chosen,
    grouping: Grouping | None,
    classes: Sequence[str],
    used: Chosen,
    say: Callable[[str], object],
) -> None:
    """Warn where the split of the classes that are ``used`` is not what was asked for."""
    counts = np.bincount(labels, minlength=len(classes)) * used
    kept = np.bincount(labels[chosen], minlength=len(classes)) * used
    count = int(used.sum())
    without = [f"{classes[label]} ({counts[label]})" for label in np.flatnonzero((counts > 0) & (kept == 0)).tolist()]
    if without:
        say(
            f"warning: {len(without)} of {count} classes have no image for validation, so nothing measures how "
            f"well they are learned; with the number of their images: {few(without)}"
        )
    if grouping is None:
        if _far_from(int(kept.sum()), rule.wanted * int(counts.sum())):
            say(
                f"warning: {kept.sum()} of {counts.sum()} images validate, although {rule.given}: "
                "each class with two images or more has one for validation at least, and one for training"
            )
        return
    spanning = grouping.spanning(labels)
    if spanning:
        first, found = spanning[0]
        say(
            f"warning: {len(spanning)} of {len(grouping.names)} groups of {rule.group_key} have images of several "
            f"classes, the first {first} ({few([classes[label] for label in found])}); each stays in one split"
        )
    off = [
        f"{classes[label]} {kept[label]} of {counts[label]}"
        for label in np.flatnonzero(kept).tolist()
        if _far_from(int(kept[label]), rule.wanted * int(counts[label]))
    ]
    if off:
        say(
            f"warning: the groups of {rule.group_key} are too large for {rule.given} of {len(off)} "
            f"of {count} classes; for validation are {few(off)}"
        )


def _far_from(count: int, wanted: float) -> bool:
    return abs(count - wanted) > max(1.0, wanted / 2.0)
