"""What an evaluation reads: a test set whole, the own tree as in training, and classes by their names."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from image_data import CLASSES, composed, everything, folder_source, make_shards, make_splits, make_tree, png, write

from trainer.config.arguments import parse_arguments
from trainer.config.contracts import Split, StoredSplit
from trainer.config.keys import key
from trainer.config.override import override
from trainer.config.schema.sources import DataConfig, SourcePlugin
from trainer.data.evaluated import Trained, open_evaluated, refuse_without_effect
from trainer.data.sources.digits import DigitsSplit
from trainer.data.sources.source import open_source
from trainer.errors import NoSuchSplit, RestoreRefused, UsageError

PLACE = Path("run/checkpoints/step-00000003")


def data(root: Path, *overrides: str) -> DataConfig:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    return override(composed("data=image_folder", "data.root=x"), values).data


def trained_on(root: Path, *overrides: str) -> Trained:
    source = folder_source(root, "train", *overrides)
    return Trained(PLACE, data(root, *overrides), source.class_names, source.listing)


def held_out(folder: Path, count: int, classes: Sequence[str] = CLASSES) -> Path:
    """Images that no other folder here has, under the names that ``make_tree`` uses."""
    for label, name in enumerate(classes):
        for number in range(count):
            write(folder / name / f"{number:03d}.{'png' if number % 2 else 'jpg'}", png(50_000 + 1000 * label + number))
    return folder


def digits() -> Trained:
    return Trained(PLACE, composed("data=digits").data, CLASSES, None)


def test_class_folders_that_the_run_was_not_trained_on_are_evaluated_whole(tmp_path: Path) -> None:
    test = held_out(tmp_path / "test", 40)
    for trained in (
        digits(),
        trained_on(make_splits(tmp_path / "splits")),
        trained_on(make_tree(tmp_path / "tree", 20)),
        trained_on(make_tree(tmp_path / "stored", 20), "data.layout=exact", "data.split_by=path"),
    ):
        wanted = data(test) if trained.listing is None else dataclasses.replace(trained.data, root=str(test))  # type: ignore[call-arg]
        found = open_evaluated(trained, wanted, None)
        assert (found.split, found.source.count, found.source.whole, found.notes) == ("test", 120, 120, ())
        assert open_evaluated(trained, wanted, "test").source.count == 120
        part = open_evaluated(trained, wanted, "validation").source
        assert part.count < part.whole == 120, "a part is read when it is asked for by name"


def test_the_tree_of_the_run_gives_what_validated_also_where_it_was_copied_to(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", 20)
    expected = everything(folder_source(root, "validation"))
    trained = trained_on(root)
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "link").symlink_to(root)
    for place in (root, tmp_path / "copy", tmp_path / "link"):
        found = open_evaluated(trained, data(place), None)
        assert (found.split, found.source.count, found.source.whole) == ("validation", 6, 60)
        assert everything(found.source) == expected
        with pytest.raises(
            NoSuchSplit, match="is one tree of class folders, whose images train and validate, so it has"
        ):
            open_evaluated(trained, data(place), "test")
    write(tmp_path / "copy" / "cat" / "one more.png", png(999))
    grown = open_evaluated(trained, data(tmp_path / "copy"), None)
    assert grown.source.count == 61, "these are other images"
    (note,) = grown.notes
    assert note.startswith("54 of 61 images have path and size of images that the network was trained on, the first ")
    renamed = make_tree(tmp_path / "renamed", 20)
    for path in renamed.rglob("*.*"):
        path.write_bytes(path.read_bytes()[::-1])  # the same names and sizes, and other images
    assert open_evaluated(trained, data(renamed), None).notes == ()


def test_another_split_of_the_tree_of_the_run_is_said_to_have_images_of_training(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 20)
    found = open_evaluated(trained_on(root), data(root, "data.validation_share=0.5"), None)
    assert found.source.count == 30
    assert found.notes == (
        "data.validation_share was 0.1 in training, so the split has images that the network was trained on",
    )


def test_the_split_that_is_there_is_evaluated(tmp_path: Path) -> None:
    trained = trained_on(make_splits(tmp_path / "own"))
    make_tree(tmp_path / "val only" / "Val", 3)
    make_tree(tmp_path / "test only" / "Testing", 5)
    make_tree(tmp_path / "both" / "train", 7)
    make_tree(tmp_path / "both" / "val", 2)
    make_tree(tmp_path / "both" / "test", 4)
    for place, asked, split, count in (
        ("val only", None, "validation", 9),
        ("test only", None, "test", 15),
        ("both", None, "validation", 6),
        ("both", "test", "test", 12),
        ("both", "train", "train", 21),
    ):
        found = open_evaluated(trained, data(tmp_path / place), asked)
        assert (found.split, found.source.count) == (split, count), place
    for place, asked, message in (
        ("val only", "test", "has Val/ but no test/ with class folders"),
        ("test only", "validation", "has Testing/ but no val/ or validation/"),
        ("val only", "train", "has Val/ but no train/"),
    ):
        with pytest.raises(UsageError, match=message):
            open_evaluated(trained, data(tmp_path / place), asked)


@pytest.mark.parametrize(
    ("asked", "place", "overrides", "reason"),
    [
        (None, "test", ["data.validation_examples=5"],
         "about validation, and this is test, which is evaluated whole; evaluate split=validation or leave it out"),
        (None, "test", ["data.train_examples=5"], "about train, and this is test, which is evaluated whole; leave"),
        (None, "splits", ["data.train_examples=5"], "about train, and this is validation; set data.valid"),
        ("train", "splits", ["data.validation_examples=5"], r"about validation, and this is train; set data.train_ex"),
        (None, "test", ["data.validation_share=0.5"], "it parts validation from training, and every image of test is"),
        (None, "splits", ["data.split_by=path"], "it parts validation from training, and every image of validation is"),
        (None, "test", ["data.class_weights=[1,2,1]"], "every example is evaluated once; leave it out"),
        (None, "splits", ["data.validation_examples=5"], None),
        (None, "splits", ["data.validation_examples=5", "data.train_examples=9"], None),
        ("train", "splits", ["data.train_examples=5"], None),
        (None, "test", ["data.validation_examples=null"], None),
        ("validation", "test", ["data.validation_share=0.5"], None),
        (None, "test", ["data.group_pattern=[0-9]+"], None),
    ],
)  # fmt: skip
def test_a_key_that_chooses_none_of_the_images_that_are_evaluated_is_refused(
    asked: Split | None, place: str, overrides: list[str], reason: str | None, tmp_path: Path
) -> None:
    make_splits(tmp_path / "splits")
    held_out(tmp_path / "test", 4)
    found = open_evaluated(digits(), data(tmp_path / place, *overrides), asked)
    given = {"data": "image_folder", "data.root": str(tmp_path / place), **parse_arguments(overrides)}
    if reason is None:
        refuse_without_effect(found, given)
        return
    with pytest.raises(UsageError, match=rf"{re.escape(overrides[0])} has no effect on this evaluation: .*{reason}"):
        refuse_without_effect(found, given)


def test_the_files_of_a_test_set_are_read_only_when_it_is_asked_for(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    wanted = composed("data=tfrecord", f"data.root={root}", "data.num_classes=3").data
    trained = dataclasses.replace(digits(), class_names=("class_000", "class_001", "class_002"))
    found = open_evaluated(trained, wanted, "train")
    with pytest.raises(
        UsageError, match=r"about test, and this is train; set data.train_pattern or evaluate split=test"
    ):
        refuse_without_effect(found, {"data.test_pattern": "other-*"})
    described = {f"data.{split}_pattern": "x-*" for split in ("train", "validation", "test")}
    refuse_without_effect(found, described)


def test_classes_are_matched_by_name_and_may_be_missing(tmp_path: Path) -> None:
    trained = dataclasses.replace(trained_on(make_splits(tmp_path / "own")), class_names=("ox", "cat", "dog"))
    test = held_out(tmp_path / "test", 3, ["ox", "dog"])
    found = open_evaluated(trained, data(test), None)
    assert found.source.class_names == ("ox", "cat", "dog")
    names = [found.source.class_names[label] for label in everything(found.source)[1]]
    assert [Path(found.source.place(record)).parent.name for record in range(6)] == names == ["dog"] * 3 + ["ox"] * 3
    assert found.source.labels().tolist() == everything(found.source)[1] == [2, 2, 2, 0, 0, 0]
    assert found.notes == ("the data has its classes in another order than the checkpoint; they were matched by name",)
    shutil.rmtree(test / "ox")
    only = open_evaluated(trained, data(test), None)
    assert (everything(only.source)[1], only.notes) == ([2, 2, 2], ())


def test_classes_that_the_checkpoint_does_not_know_are_refused_with_what_leaves_them_out(tmp_path: Path) -> None:
    trained = trained_on(make_splits(tmp_path / "own"))
    test = make_tree(tmp_path / "test", 3, ["cat", "elk 1", "ox"])
    with pytest.raises(RestoreRefused) as refused:
        open_evaluated(trained, data(test), None)
    assert str(refused.value) == (
        f"1 of the 3 classes of the data are none that {PLACE} was trained on: elk 1\n"
        "  it was trained on 3: cat, dog, ox\nto evaluate the others: 'data.classes=[cat,ox]'"
    )
    found = open_evaluated(trained, data(test, "data.classes=[cat,ox]"), None)
    assert (everything(found.source)[1], found.source.whole) == ([0, 0, 0, 2, 2, 2], 9)
    with pytest.raises(UsageError, match=r"data.classes has elk 1, which run/.* was not trained on"):
        open_evaluated(trained, data(test, "data.classes=[cat,'elk 1']"), None)
    with pytest.raises(RestoreRefused, match=r"it was trained on 3: cat, dog, ox$"):
        open_evaluated(trained, data(make_tree(tmp_path / "strange", 1, ["a", "b"])), None)


def test_a_run_of_chosen_classes_is_evaluated_on_these(tmp_path: Path) -> None:
    chosen = ("data.classes=[ox,cat]",)
    trained = trained_on(make_splits(tmp_path / "own"), *chosen)
    found = open_evaluated(trained, data(held_out(tmp_path / "test", 2), *chosen), None)
    assert everything(found.source)[1] == [1, 1, 0, 0]
    assert (found.source.count, found.source.whole, found.notes) == (4, 6, ())


def test_the_classes_of_records_are_matched_by_name_too(tmp_path: Path) -> None:
    (make_shards(tmp_path) / "names.txt").write_text("dog\nox\ncat\n")
    values = {"data.root": str(tmp_path), "data.labels_file": "names.txt", "data.num_classes": None}
    wanted = override(composed("data=tfrecord", "data.root=x", "data.num_classes=3"), values).data
    found = open_evaluated(digits(), wanted, "train")
    stored = np.arange(12) % 3
    assert everything(found.source)[1] == np.array([1, 2, 0])[stored].tolist()


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_data_without_a_test_set_says_so(name: str) -> None:
    sizes = ("data.train_examples=9", "data.validation_examples=9") if name == "synthetic" else ()
    with pytest.raises(NoSuchSplit, match=re.escape(f"data={name} has no test split, only train and validation: ")):
        open_evaluated(digits(), composed(f"data={name}", *sizes).data, "test")


@dataclasses.dataclass(frozen=True)
class Embedded(SourcePlugin):
    """A plug-in that takes every split but the first for validation, as one may that was written for two."""

    name: str = key("which data", "fixed")

    def open(self, split: Split) -> StoredSplit:
        return DigitsSplit(composed("data=digits").data, "train" if split == "train" else "validation")  # type: ignore[arg-type]


class WithTest(Embedded):
    splits = ("train", "validation", "test")


def test_a_plug_in_is_asked_for_a_test_set_only_when_it_says_that_it_has_one() -> None:
    trained = dataclasses.replace(digits(), class_names=open_source(composed("data=digits").data, "train").class_names)
    keys = (None, None, None, None, "fail")
    assert open_evaluated(trained, Embedded("embedded", *keys), "validation").source.count == 359
    assert open_evaluated(trained, WithTest("embedded", *keys), "test").source.count == 359
    with pytest.raises(NoSuchSplit, match=r"embedded of trainer has no test split, only train and validation"):
        open_evaluated(trained, Embedded("embedded", *keys), "test")
