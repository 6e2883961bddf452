"""Folds of a cross-validation: every image is validated exactly once, and each fold has its share of every class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from composing import compose
from image_data import composed, folder_source, make_splits, make_tree, png, write

from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.complete import complete
from trainer.config.override import override
from trainer.data.sources.packed_images import rank
from trainer.data.sources.source import Source, open_source
from trainer.data.sources.stratified import folds_of, folds_of_groups
from trainer.errors import UsageError


def names(source: Source) -> list[str]:
    return [source.place(record).split(" (")[0] for record in range(source.count)]


def patients(root: Path, count: int) -> Path:
    """Images of patients with one to seven images and one class each, or both, in class folders and in a table."""
    rows, number = ["path,label,patient\n"], 0
    for patient in range(count):
        for image in range(1 + patient % 7):
            name = "ill" if patient % 3 == 0 or (patient % 5 == 0 and image % 2) else "well"
            path = f"{name}/{number:03d}_p{patient}.png"
            write(root / path, png(number))
            rows.append(f"{path},{name},p{patient}\n")
            number += 1
    write(root.parent / "labels.csv", "".join(rows).encode())
    return root


def open_fold(place: Path, kind: str, split: str, *overrides: str) -> Source:
    """A split of the same images, in folders or named by a table."""
    if kind == "image_folder":
        keys = ("data=image_folder", f"data.root={place / 'images'}")
        pattern = {"data.group_pattern": "_(p[0-9]+)"} if "grouped" in overrides else {}
    else:
        keys = ("data=table", f"data.file={place / 'labels.csv'}", f"data.root={place / 'images'}")
        pattern = {"data.group_column": "patient"} if "grouped" in overrides else {}
    values = {**pattern, **parse_arguments([each for each in overrides if each != "grouped"])}
    return open_source(override(composed(*keys), values).data, split)  # type: ignore[arg-type]


@pytest.mark.parametrize("grouped", [(), ("grouped",)], ids=["by image", "by group"])
@pytest.mark.parametrize("kind", ["image_folder", "table"])
def test_every_image_is_validated_exactly_once(kind: str, grouped: tuple[str, ...], tmp_path: Path) -> None:
    patients(tmp_path / "images", 40)
    everything = {str(path) for path in (tmp_path / "images").rglob("*.png")}
    validated: Counter[str] = Counter()
    for fold in range(5):
        keys = (*grouped, "data.folds=5", f"data.fold={fold}")
        train, validation = (open_fold(tmp_path, kind, split, *keys) for split in ("train", "validation"))
        assert set(names(train)) | set(names(validation)) == everything
        assert not set(names(train)) & set(names(validation))
        validated.update(names(validation))
        share = np.bincount(validation.labels()) / np.bincount(np.append(train.labels(), validation.labels()))
        assert (np.abs(share - 0.2) < (0.06 if grouped else 0.03)).all()
        if grouped:
            of = [{name.split("_")[-1] for name in names(each)} for each in (train, validation)]
            assert not of[0] & of[1]
    assert validated == dict.fromkeys(everything, 1)


def test_a_tree_and_a_table_of_the_same_paths_have_the_same_folds(tmp_path: Path) -> None:
    patients(tmp_path / "images", 20)
    for fold in range(3):
        keys = ("data.folds=3", f"data.fold={fold}")
        found = [set(names(open_fold(tmp_path, kind, "validation", *keys))) for kind in ("image_folder", "table")]
        assert found[0] == found[1]


def test_the_parts_of_a_class_differ_by_one_image_at_most_and_are_pinned() -> None:
    sizes = np.array([1, 2, 7, 10, 23])
    labels = np.repeat(np.arange(5), sizes).astype(np.int32)
    ranks = np.array([rank(f"{label}/{number}") for number, label in enumerate(labels)])
    found = folds_of(labels, ranks, np.array([0, 1, 2, 3, 4]), 5)
    table = np.array([np.bincount(found[labels == label], minlength=5) for label in range(5)])
    assert (table.sum(1) == sizes).all()
    assert (table.max(1) - table.min(1) <= 1).all()
    # pinned, because other folds would train on what validated in a stored run
    assert found[labels == 3].tolist() == PINNED
    lowest = np.argsort(ranks[labels == 4])[:4]
    assert set(found[labels == 4][lowest]) == {4}, "the lowest ranks of a class are in the fold of its offset"


def test_groups_go_whole_to_the_emptiest_fold() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1], np.int32)
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 3])
    found = folds_of_groups(labels, groups, np.array([0.4, 0.3, 0.2, 0.1]), 2, 2)
    assert found.tolist() == [1, 1, 1, 0, 0, 0, 0, 1]


PINNED = [3, 0, 2, 3, 4, 4, 1, 1, 0, 2]


def test_a_class_that_no_fold_could_learn_is_refused_unless_it_is_not_used(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 10)
    write(root / "yak" / "only.png", png(7))
    with pytest.raises(UsageError, match=r"1 of 4 classes of .* have a single image, so the fold .*: yak\n"):
        folder_source(root, "train", "data.folds=5", "data.fold=2")
    assert folder_source(root, "train", "data.folds=5", "data.fold=2", "data.classes=[ox,cat]").count == 16


def test_folds_need_one_tree(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "splits", 10, 3)
    with pytest.raises(UsageError, match=r"data.folds=2 divides one tree, and .* has a folder for validation: val/"):
        folder_source(root, "train", "data.folds=2", "data.fold=0")
    with pytest.raises(UsageError, match=r"data.split_by=path does not look at classes; set data.split_by=class"):
        compose("data=image_folder", "data.root=x", "data.folds=2", "data.fold=0", "data.split_by=path")


def test_a_configuration_stored_before_there_were_folds_means_what_it_meant() -> None:
    config = complete(compose("data=image_folder", "data.root=/x"), 100, 10)
    text = stored.to_text(config)
    assert "  folds: null\n  fold: null\n" in text
    assert stored.from_text(text.replace("  folds: null\n  fold: null\n", "")) == config
