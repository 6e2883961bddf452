"""One tree of class folders: what trains, what validates, and which words are said about it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from image_data import CLASSES, everything, folder_source, jpeg, make_tree, png, write

from trainer.data.sources.image_groups import group_of
from trainer.errors import UsageError

PATIENTS = r"data.group_pattern='(p\d+)_'"


def test_every_class_has_its_share_and_the_split_is_pinned(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 40)
    parts = {split: folder_source(root, split) for split in ("train", "validation")}
    assert {split: np.bincount(part.labels()).tolist() for split, part in parts.items()} == {
        "train": [36, 36, 36],
        "validation": [4, 4, 4],
    }
    # pinned, because another split would train on what validates a stored run
    places = [parts["validation"].place(record) for record in range(12)]
    assert [place.removeprefix(f"{root}/").split(" ")[0] for place in places] == PINNED
    assert not set(everything(parts["train"])[0]) & set(everything(parts["validation"])[0])
    assert parts["train"].whole == parts["validation"].whole == 120


PINNED = [
    *("cat/004.jpg", "cat/012.jpg", "cat/014.jpg", "cat/023.png"),
    *("dog/013.png", "dog/014.jpg", "dog/020.jpg", "dog/024.jpg"),
    *("ox/009.png", "ox/012.jpg", "ox/015.png", "ox/027.png"),
]


def test_classes_without_an_image_for_validation_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, 20, CLASSES)
    for name in ("elk", "yak"):
        write(tmp_path / name / "only.png", png(7))
    assert np.bincount(folder_source(tmp_path).labels()).tolist() == [18, 18, 1, 18, 1]
    folder_source(tmp_path, "validation")
    assert capsys.readouterr().out == (
        "warning: 2 of 5 classes have no image for validation, so nothing measures how well they are learned; with the "
        "number of their images: elk (1), yak (1)\n"
    )


def test_a_tree_with_one_image_a_class_says_what_to_do_and_doing_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_tree(tmp_path / "tree", 1)
    for split in ("train", "validation"):
        with pytest.raises(UsageError) as refused:
            folder_source(root, split, "data.validation_share=0.5")
        assert str(refused.value) == (
            f"every class of {root} has a single image, which is needed for training, so none is left for validation\n"
            f"add images, at least a second one to some classes, or put images for validation into {root}/val/CLASS/ "
            f"and all others into {root}/train/CLASS/"
        )
    assert capsys.readouterr().out == "", "the error says it all"
    write(root / "cat" / "second.png", png(9))
    assert folder_source(root, "validation").count == 1
    (tmp_path / "tree").rename(tmp_path / "train")
    (tmp_path / "tree").mkdir()
    (tmp_path / "train").rename(root / "train")
    (root / "train" / "cat" / "second.png").unlink()
    make_tree(root / "test", 1)
    with pytest.raises(
        UsageError, match=rf"(?s)of {root}/train has a single .* for validation into {root}/val/CLASS/$"
    ):
        folder_source(root, "train")
    make_tree(root / "val", 1)
    assert folder_source(root, "validation").count == 3


def test_groups_of_which_none_can_validate_are_named_as_the_cause(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 5)
    with pytest.raises(
        UsageError, match=r"data.group_pattern=\^\[a-z\]\+ can be spared .*: 3 groups have all 15 images of "
    ):
        folder_source(root, "train", "data.group_pattern='^[a-z]+'")  # each class is one
    with pytest.raises(UsageError, match=r"can be spared for validation: 1 group has all 15 images of "):
        folder_source(root, "validation", r"data.group_pattern='\.'")


def test_classes_that_are_not_chosen_are_no_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, 20, ["cat", "dog"])
    for name in ("elk/a", "elk/b", "yak/a", "yak/b"):
        write(tmp_path / name / "only.png", png(7))
    with pytest.raises(UsageError, match="hold folders of the same names: a, b"):
        folder_source(tmp_path)
    assert folder_source(tmp_path, "train", "data.classes=[dog,cat]").count == 36
    assert capsys.readouterr().out == ""


def test_a_share_that_small_classes_exceed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, 2, ["a", "b", "c", "d", "e"])
    assert folder_source(tmp_path).count == 5
    assert "warning: 5 of 10 images validate, although data.validation_share=0.1: each class" in capsys.readouterr().out


def patients(root: Path, *, spanning: bool = False) -> Path:
    """Three images of each of ten patients, each with one class; with ``spanning``, the tenth has both."""
    for number in range(30):
        patient = number // 3
        name = "ill" if patient % 2 and not (spanning and number == 29) else "well"
        write(root / name / f"p{patient}_{number}.jpg", jpeg(number))
    return root


def test_the_images_of_a_group_are_all_in_one_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = patients(tmp_path)
    found = {}
    for split in ("train", "validation"):
        source = folder_source(root, split, PATIENTS, "data.validation_share=0.2")
        found[split] = {Path(source.place(record)).name.split("_")[0] for record in range(source.count)}
        assert set(source.labels()) == {0, 1}
    assert not found["train"] & found["validation"]
    assert len(found["train"]) + len(found["validation"]) == 10
    assert found["validation"] == {"p0", "p7"}, "pinned: another split would train on what validates a stored run"
    assert capsys.readouterr().out == "10 groups of data.group_pattern: 8 for training, 2 for validation\n"


def test_groups_of_several_classes_and_groups_too_large_for_the_share_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_source(patients(tmp_path / "spanning", spanning=True), "train", PATIENTS)
    assert "warning: 1 of 10 groups of data.group_pattern have images of several classes, the first p9 (ill, well)" in (
        capsys.readouterr().out
    )
    for name in ("a", "b"):
        for number in range(40):
            write(tmp_path / "large" / name / f"p{number % 2}{name}_{number}.jpg", jpeg(number))
    folder_source(tmp_path / "large", "train", r"data.group_pattern='p\d.'")
    assert "too large for data.validation_share=0.1 of 2 of 2 classes; for validation are a 20 of 40, b 20 of 40" in (
        capsys.readouterr().out
    )


def test_the_group_is_the_first_group_of_the_pattern_or_the_whole_match() -> None:
    path = "train/cat/p12_left.jpg"
    for pattern, group in (
        (r"p\d+", "p12"),
        (r"/(p\d+)_(\w+)\.", "p12"),
        (r"(?:cat|dog)/[^_]+", "cat/p12"),
        (r"(q\d+)|p\d+", "p12"),
        (r"^[^/]+", "train"),
        (r"q", None),
    ):
        assert group_of(re.compile(pattern), path) == group


def test_a_pattern_that_is_wrong_or_leaves_an_image_out_is_refused(tmp_path: Path) -> None:
    root = write(patients(tmp_path) / "well" / "stray.png", png(1)).parents[1]
    for overrides, message in (
        ((PATIENTS,), "does not match 1 of 31 images, the first well/stray.png, so their group is not known"),
        (("data.group_pattern='(p'",), "data.group_pattern=(p is not a regular expression: missing ), unterminated"),
        ((PATIENTS, "data.split_by=path"), "data.split_by=path decides for each image by itself"),
    ):
        with pytest.raises(UsageError) as refused:
            folder_source(root, "train", *overrides)
        assert message in str(refused.value)


def test_a_group_that_folders_divide_between_splits_is_refused(tmp_path: Path) -> None:
    for split, patient in (("train", 1), ("train", 2), ("val", 3), ("test", 2)):
        for name in ("ill", "well"):
            write(tmp_path / split / name / f"p{patient}_{name}.jpg", jpeg(patient))
    assert folder_source(tmp_path, "train", PATIENTS).count == 4
    assert folder_source(tmp_path, "validation", PATIENTS).count == 2
    with pytest.raises(UsageError) as refused:
        folder_source(tmp_path, "test", PATIENTS)
    for message in (
        f"1 groups of data.group_pattern=(p\\d+)_ have images in {tmp_path}/train and in {tmp_path}/test, so test is",
        "no test of what is learned in train: p2\nmove",
    ):
        assert message in str(refused.value)
    write(tmp_path / "val" / "ill" / "p1_x.jpg", jpeg(9))
    with pytest.raises(UsageError, match="so validation is no test of what is learned in train: p1"):
        folder_source(tmp_path, "validation", PATIENTS)
