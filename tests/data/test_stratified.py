"""The split of one tree: of each class its share, nothing divided that belongs together, and little that moves."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.sources.packed_images import rank
from trainer.data.sources.stratified import validating, validating_groups, wanted


def ranks_of(names: list[str]) -> np.ndarray:
    return np.array([rank(name) for name in names])


def test_every_class_has_its_share_and_keeps_an_image_for_training() -> None:
    assert [wanted(count, 0.1) for count in (1, 2, 3, 10, 14, 15, 25, 100)] == [0, 1, 1, 1, 1, 2, 3, 10]
    assert [wanted(count, 0.999) for count in (1, 2, 10)] == [0, 1, 9]
    sizes = np.array([1, 2, 10, 40, 0, 100])
    labels = np.repeat(np.arange(6), sizes).astype(np.int32)
    names = [f"class {label}/{number}" for number, label in enumerate(labels)]
    chosen = validating(labels, ranks_of(names), 6, 0.1)
    assert np.bincount(labels[chosen], minlength=6).tolist() == [0, 1, 1, 4, 0, 10]
    lowest = sorted(np.flatnonzero(labels == 3), key=lambda number: rank(names[number]))[:4]
    assert set(np.flatnonzero(chosen & (labels == 3))) == set(lowest)


def test_an_added_image_moves_no_image_of_another_class_and_at_most_one_of_its_own() -> None:
    names = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(60)]
    labels = np.repeat([0, 1], 60).astype(np.int32)
    before = dict(zip(names, validating(labels, ranks_of(names), 2, 0.1), strict=True))
    moves = []
    for number in range(200):
        more = [*names, f"dog/new {number}.jpg"]
        chosen = validating(np.append(labels, np.int32(1)), ranks_of(more), 2, 0.1)
        after = dict(zip(more, chosen, strict=True))
        moved = [name for name in names if before[name] != after[name]]
        assert all(name.startswith("dog/") for name in moved)
        moves.append(len(moved))
    assert max(moves) == 1
    assert np.mean(moves) < 0.2


def test_a_larger_share_validates_with_the_same_images_and_more() -> None:
    labels, names = np.zeros(50, np.int32), [f"cat/{number}" for number in range(50)]
    parts = [set(np.flatnonzero(validating(labels, ranks_of(names), 1, share))) for share in (0.1, 0.3, 0.8)]
    assert parts[0] < parts[1] < parts[2]


def group_split(sizes: list[list[int]], share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``sizes[label]`` are those of the label's groups: labels, groups, chosen."""
    labels, groups = [], []
    for label, of_class in enumerate(sizes):
        for size in of_class:
            labels += [label] * size
            groups += [groups[-1] + 1 if groups else 0] * size
    count = groups[-1] + 1
    ranks = ranks_of([f"group {number}" for number in range(count)])
    one, two = np.array(labels, np.int32), np.array(groups, np.int64)
    return one, two, validating_groups(one, two, ranks, len(sizes), share)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_no_group_is_divided_and_every_class_comes_near_its_share(share: float) -> None:
    generator = np.random.default_rng(3)
    labels, groups, chosen = group_split([generator.integers(1, 12, 60).tolist() for _ in range(4)], share)
    assert all(len(set(chosen[groups == group])) == 1 for group in range(groups.max() + 1))
    for label in range(4):
        of_class = chosen[labels == label]
        assert abs(of_class.mean() - share) < 0.03


def test_a_class_of_large_groups_validates_with_the_smallest_and_one_group_trains() -> None:
    labels, groups, chosen = group_split([[50, 40, 60], [7], [3, 3]], 0.1)
    assert set(groups[chosen & (labels == 0)]) == {1}
    assert not chosen[labels == 1].any(), "its only group is for training"
    assert chosen[labels == 2].sum() == 3


def test_groups_that_span_classes_stay_together_and_leave_every_class_an_image_for_training() -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 600).astype(np.int32)
    groups = generator.integers(0, 80, 600)
    chosen = validating_groups(labels, groups, ranks_of([str(number) for number in range(80)]), 3, 0.2)
    assert all(len(set(chosen[groups == group])) <= 1 for group in range(80))
    assert all(abs(chosen[labels == label].mean() - 0.2) < 0.05 for label in range(3))
    # one patient has all of a rare class: it must train
    rare = np.array([0] * 20 + [1] * 2, np.int32)
    members = np.array([number % 10 for number in range(20)] + [0] * 2)
    for seed in range(20):
        ranks = np.random.default_rng(seed).random(10)
        assert not validating_groups(rare, members, ranks, 2, 0.3)[members == 0].any()


def test_groups_of_one_image_are_split_as_images_are() -> None:
    labels = np.repeat(np.arange(3), (7, 20, 41)).astype(np.int32)
    names = [f"{label}/{number}" for number, label in enumerate(labels)]
    ranks = ranks_of(names)
    assert (validating_groups(labels, np.arange(68), ranks, 3, 0.1) == validating(labels, ranks, 3, 0.1)).all()
