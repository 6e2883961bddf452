"""Folders that are splits: known by their names in any spelling, and what only looks like classes is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_data import everything, folder_source, jpeg, make_tree, png, write

from trainer.data.sources.split_folders import same_inside, split_named
from trainer.errors import NoSuchSplit, UsageError

SPELLINGS = {
    "train": ["train", "Train", "TRAIN", "training", "Training", "training_set", "train-images", "TrainSet"],
    "validation": ["val", "Val", "valid", "validation", "Validation Set", "dev", "eval", "evaluation"],
    "test": ["test", "Testing", "test_set", "TEST DATA", "testset"],
    None: ["car", "trains", "vale", "devil", "fold1", "tester", "trained", "set", "untrain", "validity"],
}


@pytest.mark.parametrize("split", SPELLINGS, ids=str)
def test_names_of_splits_are_known_in_any_spelling_and_other_names_are_not(split: str | None) -> None:
    assert {name: split_named(name) for name in SPELLINGS[split]} == dict.fromkeys(SPELLINGS[split], split)


@pytest.mark.parametrize(
    "names",
    [("Train", "Val", "Test"), ("training", "valid", "testing"), ("TRAIN", "dev", "test_set"), ("train", "eval", None)],
)
def test_folders_of_splits_are_read_as_these(
    names: tuple[str, str, str | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in zip(names, (5, 3, 2), strict=True):
        if name is not None:
            make_tree(tmp_path / name, count, ["cat", "dog"])
    for split, count in (("train", 10), ("validation", 6)):
        source = folder_source(tmp_path, split)
        assert (source.class_names, source.count, source.whole) == (("cat", "dog"), count, count)
    if names[2] is None:
        with pytest.raises(NoSuchSplit, match=r"has train/ and eval/ but no test/ with class folders"):
            folder_source(tmp_path, "test")
    else:
        assert folder_source(tmp_path, "test").count == 4
    assert capsys.readouterr().out == ""


def test_a_training_set_with_a_test_set_is_split_and_the_test_set_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path / "Training", 20, ["a", "b"])
    make_tree(tmp_path / "Testing", 4, ["a", "b"])
    sources = {split: folder_source(tmp_path, split) for split in ("train", "validation", "test")}
    counts = {split: (source.count, source.whole) for split, source in sources.items()}
    assert counts == {"train": (36, 40), "validation": (4, 40), "test": (8, 8)}
    assert [source.class_names for source in sources.values()] == [("a", "b")] * 3
    assert capsys.readouterr().out == (
        f"{tmp_path}/Training is split, data.validation_share=0.1 of it validates: {tmp_path} has no folder for "
        "validation\n"
    )
    assert all("/Training/" in sources[split].place(0) for split in ("train", "validation"))
    trained, validated = (everything(sources[split])[0] for split in ("train", "validation"))
    assert sorted(trained + validated) == sorted(path.read_bytes() for path in (tmp_path / "Training").rglob("*.*"))


def test_folders_beside_the_splits_are_named_and_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "val", "extra"):
        make_tree(tmp_path / name, 2)
    write(tmp_path / "test" / "001.jpg", jpeg(1))
    write(tmp_path / "README", b"x")
    folder_source(tmp_path), folder_source(tmp_path, "validation")
    assert capsys.readouterr().out.splitlines() == [
        f"not read in {tmp_path}: extra, test, beside the splits; test/ has no class folders, so its images have no "
        "labels",
        f"not read in {tmp_path}: 1 without an ending (README)",
    ]


def trees(*places: str) -> Callable[[Path], object]:
    return lambda root: [make_tree(root / place, 2, ["a", "b"]) for place in places]


def images(*places: str) -> Callable[[Path], object]:
    return lambda root: [write(root / place / f"{number}.png", png(number)) for place in places for number in range(3)]


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    # what is wrong: (how it is made, the message with {root})
    "folds": (trees("fold1", "fold2", "fold3"), "{root}/fold1 and {root}/fold2 hold folders of the same names: a, b"),
    "unpacked archives": (
        trees("part one", "part two"),
        "learn to tell part one from part two; arrange them as {root}/train/a/",
    ),
    "one of them has more": (
        lambda root: (make_tree(root / "x", 2, ["a", "b", "c"]), make_tree(root / "y", 2, ["A", "C", "d"])),
        "{root}/x and {root}/y hold folders of the same names: a, c",
    ),
    "splits inside classes": (
        lambda root: [make_tree(root / name, 2, ["train", "Test"]) for name in ("cat", "dog")],
        "hold folders of the same names: test, train\nif these are splits, a network would learn to tell cat from dog; "
        "arrange them as {root}/test/cat/",
    ),
    "a test set inside classes": (
        images("cat", "cat/test", "dog", "dog/test"),
        "of the same names: test\nif these are splits",
    ),
    "folds inside a split": (
        trees("train/fold1", "train/fold2", "val/fold1", "val/fold2"),
        "{root}/train/fold1 and {root}/train/fold2 hold",
    ),
    "two that mean the same": (trees("train", "val", "dev"), "{root} has dev and val, which mean the same; keep one"),
    "two spellings": (trees("Train", "train", "val"), "{root} has Train and train, which mean the same; keep one"),
    "splits without classes": (
        images("train", "test"),
        "{root} has test and train, which are names of splits, but there are no class folders in them; expected "
        "{root}/test/CLASS/IMAGE\nif they are the classes: data.layout=classes",
    ),
    "validation without classes": (
        lambda root: (trees("train")(root), images("val")(root)),
        "{root}/val has no class folders, so its images have no class; expected {root}/val/CLASS/IMAGE",
    ),
    "only a test set": (trees("Test"), "{root} has Test/ but no train/; add it"),
    "a folder between": (
        trees("archive"),
        "{root} has only one folder, and what seems to be the class folders is in {root}/archive: a, b\n"
        "name the folder that has them: data.root={root}/archive",
    ),
    "splits in a folder between": (
        trees("seg_train/seg_train", "seg_test/seg_test"),
        "{root}/seg_test and {root}/seg_train hold folders of the same names: a, b",
    ),
    "a split inside each class": (images("cat/train", "dog/train"), "of the same names: train\nif these are splits"),
    "folders between": (trees("archive/archive/train", "archive/archive/val"), "data.root={root}/archive/archive"),
    "a folder between in a split": (
        trees("train/images", "val/images"),
        "is in {root}/train/images: a, b\nmove them into {root}/train",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_learned_wrongly_is_refused_with_what_to_do(what: str, tmp_path: Path) -> None:
    make, message = REFUSED[what]
    make(tmp_path)
    with pytest.raises(UsageError) as refused:
        folder_source(tmp_path)
    assert message.format(root=tmp_path) in str(refused.value)


@pytest.mark.parametrize("what", ["folds", "two spellings", "splits without classes", "splits inside classes"])
def test_a_user_can_say_that_every_folder_is_a_class(what: str, tmp_path: Path) -> None:
    REFUSED[what][0](tmp_path)
    names = tuple(sorted(path.name for path in tmp_path.iterdir()))
    assert folder_source(tmp_path, "train", "data.layout=classes").class_names == names


def test_stored_runs_read_the_folders_that_they_were_trained_on(tmp_path: Path) -> None:
    """Names that were added later change nothing: ``data.layout=exact`` is what runs without the key have."""
    stored = ("data.layout=exact", "data.split_by=path")
    trees("Training", "Testing")(tmp_path / "classes")
    assert folder_source(tmp_path / "classes", "train", *stored, "data.validation_share=0.2").class_names == (
        "Testing",
        "Training",
    )
    splits = tmp_path / "splits"
    trees("train", "val", "dev", "Train", "test")(splits)
    assert folder_source(splits, "train", *stored).count == folder_source(splits, "validation", *stored).count == 4
    assert folder_source(splits, "test", *stored).count == 4, "a test set beside them can be evaluated"
    shutil.rmtree(splits / "val")
    shutil.rmtree(splits / "test")
    with pytest.raises(UsageError, match=r"has train/ but no val/ or validation/"):
        folder_source(splits, "train", *stored)


def test_a_folder_between_a_class_and_its_images_is_no_obstacle(tmp_path: Path) -> None:
    """As in Tiny ImageNet: one folder of the same name in each class says nothing."""
    images("cat/images", "dog/images", "ox/images/jpg")(tmp_path)
    assert folder_source(tmp_path).class_names == ("cat", "dog", "ox")


def test_only_two_folders_that_share_enough_names_are_found() -> None:
    assert same_inside({"cat": ["left"], "dog": ["left"], "ox": ["right"], "elk": ["right"]}) is None
    assert same_inside({"cat": ["l", "r"], "dog": [], "ox": ["R", "L"]}) == (("cat", "ox"), ["l", "r"])
    thousand = {f"n{number:04d}": ["images"] for number in range(1000)}
    assert same_inside(thousand) is None
    assert same_inside({**thousand, "n0000": ["images", "x"], "n0001": ["images", "x"]}) is not None
