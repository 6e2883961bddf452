"""Records that cannot be used: named, or replaced without a loss of exactness."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from image_data import (
    T1,
    damage,
    example,
    folder_source,
    jpeg,
    make_shards,
    make_splits,
    make_tree,
    narrow,
    png,
    shard_source,
    write,
    write_shard,
)
from processes import Trainer

from trainer.__main__ import run
from trainer.config.complete import with_leaves
from trainer.config.schema import Config
from trainer.data.batches import WHOLE, Part, evaluation_batches, training_batches
from trainer.data.order.ledger import entries
from trainer.data.sources.source import open_source
from trainer.data.sources.tfrecord import index_records
from trainer.errors import BadRecord, UsageError
from trainer.fingerprint.behaviour import data_facts
from trainer.training.evaluation import evaluate


def test_a_shard_that_shrinks_and_an_image_that_goes_are_named(tmp_path: Path) -> None:
    shards = shard_source(make_shards(tmp_path / "shards"))
    os.truncate(tmp_path / "shards" / T1, 50)
    with pytest.raises(UsageError, match=f"{T1} record 5 ends after 0 of [0-9]+ bytes"):
        shards.read(np.array([11]))
    images = folder_source(make_splits(tmp_path / "images"))
    write(tmp_path / "images" / "train" / "cat" / "001.png", b"short")
    (tmp_path / "images" / "train" / "cat" / "002.jpg").unlink()
    with pytest.raises(UsageError, match=r"cat/001.png \(record 1\) has 5 bytes, but had"):
        images.read(np.array([1]))
    with pytest.raises(UsageError, match=r"cat/002.jpg \(record 2\) cannot be read: No such file or directory"):
        images.read(np.array([2]))


def test_an_error_of_a_source_comes_out_of_the_pipeline_as_it_is(tmp_path: Path) -> None:
    config = narrow("data=tfrecord", f"data.root={make_shards(tmp_path)}", "data.num_classes=3")
    write_shard(tmp_path / "validation-00000-of-00001", [example(png(1), 5)])
    write_shard(tmp_path / T1, [example(png(0), 0), example(png(0), 8)])
    message = "validation-00000-of-00001 record 0 has label 5, but 3 classes"
    batches = evaluation_batches(open_source(config.data, "validation"), config)
    for _ in range(2):
        with pytest.raises(UsageError, match=message):
            list(batches)
    for device in (None, "/CPU:0"):  # a thread that copies batches ahead hands errors on as well
        with pytest.raises(UsageError, match=f"{T1} record 1 has label 8"):
            for _ in training_batches(open_source(config.data, "train"), config, 0, 5, device=device):
                pass


@pytest.mark.parametrize("content", [b"not an image", jpeg(3)[:40]])
def test_an_image_that_cannot_be_decoded_is_named(content: bytes, tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    config = narrow("data=image_folder", f"data.root={root}")
    validation = sorted(path for path in (root / "val").rglob("*.*") if path.is_file())
    validation[-1].write_bytes(content)
    with pytest.raises(UsageError, match=rf"{re.escape(str(validation[-1]))} \(record \d+\) cannot be decoded: "):
        list(evaluation_batches(open_source(config.data, "validation"), config))
    training = sorted(path for path in (root / "train").rglob("*.*") if path.is_file())
    training[0].write_bytes(content)
    with pytest.raises(UsageError, match=rf"{re.escape(str(training[0]))} \(record \d+\) cannot be decoded: "):
        for _ in training_batches(open_source(config.data, "train"), config, 16, 5):
            pass


def bad_folder(content: bytes | None, split: str = "train") -> Callable[[Path], list[Path]]:
    """Two images of a good folder are replaced, or with None removed after they were found."""

    def make(root: Path) -> list[Path]:
        make_splits(root, 6, 4)
        paths = [root / split / name for name in ("cat/001.png", "ox/002.jpg")]
        for path in paths:
            if content is None:
                path.unlink()
                path.symlink_to("nowhere.png")
            else:
                path.write_bytes(content)
        return paths

    return make


def bad_shards(record: bytes | Callable[[Path], None], split: str = "train") -> Callable[[Path], list[Path]]:
    """Records 1 and 4 of a good shard are replaced."""

    def make(root: Path) -> list[Path]:
        make_shards(root, 6, 6)
        path = root / (T1 if split == "train" else "validation-00000-of-00001")
        numbers = range(6, 12) if split == "train" else range(900, 906)
        records = [example(jpeg(number) if number % 2 else png(number), number % 3) for number in numbers]
        if isinstance(record, bytes):
            records[1] = records[4] = record
        write_shard(path, records)
        if not isinstance(record, bytes):
            record(path)
        return [path]

    return make


def flip_in_images(path: Path) -> None:
    """One bit in the middle of records 1 and 4, which still parse and decode."""
    begins = index_records(path)
    for record in (1, 4):
        damage(path.name, int(begins[record] + begins[record + 1]) // 2, 1)(path.parent)


FOLDER = ("data=image_folder",)
SHARDS = ("data=tfrecord", "data.num_classes=3")
BAD: dict[str, tuple[tuple[str, ...], Callable[[Path], list[Path]], str]] = {
    # what is wrong: (the data, how it is made, what the warnings say of it)
    "not an image": (FOLDER, bad_folder(b"not an image"), "cannot be decoded: "),
    "cut off": (FOLDER, bad_folder(jpeg(3)[:400]), "cannot be decoded: "),
    "zero bytes": (FOLDER, bad_folder(b""), "is empty (0 bytes)"),
    "broken link": (FOLDER, bad_folder(None), "cannot be read: No such file or directory"),
    "label out of range": (SHARDS, bad_shards(example(png(1), 3)), "has label 3, but 3 classes"),
    "no image": (SHARDS, bad_shards(example(None, 1)), "has no feature image/encoded"),
    "not an example": (SHARDS, bad_shards(b"\xff\xff"), "is not a tf.train.Example"),
    "damaged data": (SHARDS, bad_shards(flip_in_images), "is damaged: its CRC is "),
}


def skipping(data: tuple[str, ...], root: Path) -> Config:
    return narrow(*data, f"data.root={root}", "data.on_bad_record=skip")


def take(config: Config, position: int, count: int, part: Part = WHOLE, warn: Any = lambda text: None) -> list[Any]:
    """``count`` batches from ``position`` on, by a pipeline that knows of no bad record yet."""
    batches = training_batches(open_source(config.data, "train"), config, position, 5, part, warn)
    return [{name: value.numpy() for name, value in batch.items()} for batch in itertools.islice(batches, count)]


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


@pytest.mark.parametrize("what", BAD)
def test_a_bad_record_is_replaced_by_one_that_position_alone_decides(what: str, tmp_path: Path) -> None:
    data, make, reason = BAD[what]
    paths = make(tmp_path)
    config = skipping(data, tmp_path)
    count = open_source(config.data, "train").count
    epochs, batch = 2, config.train.global_batch_size
    warnings: list[str] = []
    whole = take(config, 0, epochs * count // batch, warn=warnings.append)
    assert sum(int(each["substituted"].sum()) for each in whole) >= 2 * epochs
    assert len(warnings) == len(set(warnings)) == 2, "each bad record is named once"
    for warning in warnings:
        assert reason in warning, warning
        assert warning.endswith("; left out (data.on_bad_record=skip)")
    assert all(any(str(path) in warning for warning in warnings) for path in paths)


def test_an_example_to_skip_is_replaced_as_a_bad_one_and_one_that_is_named_twice_by_the_next(tmp_path: Path) -> None:
    bad_folder(b"not an image")(tmp_path)
    config = skipping(FOLDER, tmp_path)
    source, size = open_source(config.data, "train"), config.train.global_batch_size

    def records(*skipped: str, start: int = 0) -> list[int]:
        """The records of the examples of two batches from ``start`` on, as far as labels and ledgers tell."""
        changed = with_leaves(config, {"train.skip_examples": skipped})
        known = {int(entry): record for record in range(source.count) for entry in entries_of_record(start, record)}
        return [known[int(entry)] for batch in take(changed, start, 2) for entry in batch["ledger"]]

    def entries_of_record(start: int, record: int) -> Any:
        return entries(np.arange(start, start + 2 * size), np.full(2 * size, record))

    usual, once, twice = records(), records("2-5"), records("2-5", "4-4")
    differing = [place for place in range(2 * size) if usual[place] != once[place]]
    assert differing == [2, 3, 4, 5], "all of them, bad ones too, and no other"
    assert [place for place in range(2 * size) if once[place] != twice[place]] == [4]
    assert twice[4] not in (usual[4], once[4])
    assert records("2-5", start=size)[:size] == once[size:], "wherever the pipeline is opened"


def test_neither_what_was_met_before_nor_who_reads_changes_what_replaces_a_bad_record(tmp_path: Path) -> None:
    bad_folder(b"not an image")(tmp_path)
    config = skipping(FOLDER, tmp_path)
    whole = take(config, 0, 9)  # two epochs
    assert any(each["substituted"].any() for each in whole)
    for number, expected in enumerate(whole):
        assert same(take(config, number * config.train.global_batch_size, 1)[0], expected)
    parts = [take(config, 0, len(whole), Part(index, 2)) for index in range(2)]
    for number, expected in enumerate(whole):
        joined = {name: np.concatenate([part[number][name] for part in parts]) for name in expected}
        assert same(joined, expected)


ZERO = tf.constant(0.0, tf.float64)


def sum_of(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reduce_sum(values), tf.float64)


@pytest.mark.parametrize(
    ("data", "make"),
    [(FOLDER, bad_folder(b"not an image", "val")), (SHARDS, bad_shards(example(png(1), 7), "validation"))],
)
def test_in_validation_a_bad_record_has_no_weight_and_is_counted(
    data: tuple[str, ...], make: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    make(tmp_path)
    config = skipping(data, tmp_path)
    source = open_source(config.data, "validation")
    warnings: list[str] = []
    batches = evaluation_batches(source, config, warn=warnings.append)
    for _ in range(2):
        found = list(batches)
        weights = np.concatenate([batch["weight"].numpy() for batch in found])
        skipped = np.concatenate([batch["skipped"].numpy() for batch in found])
        assert weights.sum() == source.count - 2
        assert skipped.sum() == 2
        assert (weights[: source.count] == 1 - skipped[: source.count]).all()
    assert len(warnings) == 2

    def step(batch: Any) -> tf.Tensor:
        weight, skipped = sum_of(batch["weight"]), sum_of(batch["skipped"])
        return tf.stack([2 * weight, weight, weight, skipped])

    assert evaluate(batches, step, lambda: False) == {"loss": 2.0, "accuracy": 1.0, "skipped": 2}


def test_validation_without_a_usable_record_is_an_error(tmp_path: Path) -> None:
    make_splits(tmp_path)
    for path in (tmp_path / "val").rglob("*.*"):
        path.write_bytes(b"x")
    config = skipping(FOLDER, tmp_path)
    batches = evaluation_batches(open_source(config.data, "validation"), config, warn=lambda text: None)
    with pytest.raises(UsageError, match="none of the 6 validation examples can be used"):
        evaluate(batches, lambda batch: tf.stack([ZERO, ZERO, sum_of(batch["weight"]), sum_of(batch["skipped"])]), bool)


def test_when_nothing_is_usable_it_ends_with_the_last_reason(tmp_path: Path) -> None:
    make_splits(tmp_path)
    for path in (tmp_path / "train").rglob("*.*"):
        path.write_bytes(b"not an image")
    with pytest.raises(UsageError) as refused:
        take(skipping(FOLDER, tmp_path), 0, 1)
    message = str(refused.value)
    assert message.startswith("100 records in a row cannot be used in the place of ")
    assert "cannot be decoded: " in message
    assert "check-data" in message


def test_an_error_that_is_not_a_record_s_comes_out_although_bad_records_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = skipping(FOLDER, make_splits(tmp_path))

    def broken(self: Any, records: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr("trainer.data.sources.image_folder.ImageFolderSplit.read", broken)
    with pytest.raises(KeyError, match="a bug"):
        take(config, 0, 1)


def test_crcs_are_compared_when_asked_for(tmp_path: Path) -> None:
    (path,) = bad_shards(flip_in_images)(tmp_path)
    with pytest.raises(BadRecord, match=f"{path} record 1 is damaged: its CRC is [0-9a-f]{{8}}, but the data"):
        shard_source(tmp_path).read(np.array([7]))
    assert len(shard_source(tmp_path, "train", "data.verify_crc=false").read(np.array([7]))[0]) == 1


def test_the_fingerprint_of_data_with_a_bad_record_is_made_only_when_it_is_skipped(tmp_path: Path) -> None:
    bad_folder(b"")(tmp_path)
    (tmp_path / "train" / "cat" / "001.png").write_bytes(b"x")
    (tmp_path / "train" / "ox" / "002.jpg").write_bytes(b"x")
    good = data_facts(folder_source(tmp_path), "train")
    (tmp_path / "train" / "ox" / "002.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="is empty"):
        folder_source(tmp_path)
    found = data_facts(folder_source(tmp_path, "train", "data.on_bad_record=skip"), "train")
    assert [fact.attribute for fact in found] == [fact.attribute for fact in good]


# check-data


def test_check_data_finds_what_is_bad_double_and_in_both_splits(tmp_path: Path, trainer: Trainer) -> None:
    root = make_splits(tmp_path / "my images", 5, 2)
    write(root / "train" / "cat" / "copy.png", png(1))
    write(root / "val" / "ox" / "leak.jpg", jpeg(2000))
    write(root / "train" / "dog" / "005.png", b"")
    write(root / "train" / "ox" / "006.jpg", jpeg(7)[:300])
    (root / "val" / "cat" / "gone.png").symlink_to("/nowhere.png")
    overrides = ("data=image_folder", f"data.root={root}", "data.classes=[cat,dog]", "data.train_examples=2")
    output = trainer.run("check-data", *overrides, "report=report.txt", status=2)
    for expected in (
        f"data.root: {root}\n",
        "train: 18 records, 16 usable: 9 JPEG, 7 PNG\n  smallest 12x10: train/",
        "  cat 6, dog 5, ox 5\n",
        "2 of 18 records for train cannot be used\n",
        "  train/dog/005.png (record 11) is empty (0 bytes)",
        "  train/ox/006.jpg (record 17) cannot be decoded: ",
        "1 of 8 records for validation cannot be used\n",
        "  val/cat/gone.png (record 2) cannot be read: No such file or directory\n",
        "identical images in both splits, so that validation is no test of them: 6\n",
        "  train/ox/000.jpg (record 12) = val/ox/000.jpg (record 5)\n",
        "images more than once in train: 1\n",
        "  train/cat/001.png (record 1) = train/cat/copy.png (record 5)\n",
    ):
        assert expected in output, output
    assert "different labels" not in output
    assert (trainer.cwd / "report.txt").read_text() in output


def test_check_data_begins_with_labels_that_contradict_each_other_and_then_with_leaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my images"
    for split, first in (("train", 0), ("val", 100)):
        for label, name in enumerate(("cat", "dog", "ox")):
            for number in range(2):
                write(root / split / name / f"{number}.png", png(first + 10 * label + number))
    write(root / "train" / "dog" / "same.png", png(0))  # as train/cat/0.png
    write(root / "train" / "ox" / "same.png", png(0))
    write(root / "val" / "ox" / "same.png", png(1))  # as train/cat/1.png
    write(root / "val" / "dog" / "leak.png", png(11))  # as train/dog/1.png
    assert run(["check-data", "data=image_folder", f"data.root={root}"]) == 0
    assert capsys.readouterr().out.startswith(
        "identical images with different labels: 2\n"
        "  train/cat/0.png (record 0): cat = train/dog/same.png (record 4): dog and 1 more\n"
        "  train/cat/1.png (record 1): cat = val/ox/same.png (record 7): ox\n"
        "identical images in both splits, so that validation is no test of them: 2\n"
        "  train/cat/1.png (record 1) = val/ox/same.png (record 7)\n"
        "  train/dog/1.png (record 3) = val/dog/leak.png (record 4)\n"
        f"data.root: {root}\n"
        f"splits in {root}: train/ for train, val/ for validation\n"
        "train: 8 records, 8 usable: 8 PNG\n"
    )


LATIN = b"caf\xe9\n.jpg"


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bad_record_of_any_name_is_named_in_one_line_that_can_be_written(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_splits(tmp_path)
    (tmp_path / split / "cat" / os.fsdecode(LATIN)).write_bytes(b"not an image")
    spelled = f"{tmp_path}/{split}/cat/caf\\xe9\\n.jpg (record "
    kind = "train" if split == "train" else "validation"
    failing = narrow("data=image_folder", f"data.root={tmp_path}")
    warnings: list[str] = []
    with pytest.raises(UsageError) as refused:
        for _ in (
            training_batches(open_source(failing.data, "train"), failing, 0, 5)
            if kind == "train"
            else evaluation_batches(open_source(failing.data, "validation"), failing)
        ):
            pass
    assert str(refused.value).startswith(spelled)
    config = skipping(FOLDER, tmp_path)
    if kind == "train":
        take(config, 0, 9, warn=warnings.append)
    else:
        list(evaluation_batches(open_source(config.data, "validation"), config, warn=warnings.append))
    (warning,) = warnings
    assert warning.startswith(spelled)
    assert warning.encode().endswith(b"left out (data.on_bad_record=skip)")
    assert run(["check-data", "data=image_folder", f"data.root={tmp_path}"]) == 2
    assert f"  {split}/cat/caf\\xe9\\n.jpg (record " in capsys.readouterr().out


def test_check_data_shows_the_splits_that_were_found_and_the_classes_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path / "Training", 20, ["cat", "dog"])
    make_tree(tmp_path / "Testing", 3, ["dog", "elk"])
    write(tmp_path / "Testing" / "elk" / "leak.jpg", jpeg(2))
    make_tree(tmp_path / "more", 1)
    assert run(["check-data", "data=image_folder", f"data.root={tmp_path}"]) == 0
    output = capsys.readouterr().out
    for expected in (
        f"splits in {tmp_path}: Training/ for train, Testing/ for test; a part of the training set validates\n",
        f"not read in {tmp_path}: more, beside the splits\n",
        "test has classes that train lacks, so evaluate refuses them: elk\ntest lacks 1 of 2 classes: cat\n",
        "train: 36 records, 36 usable",
        "  cat 18, dog 18\nvalidation: 4 records, 4 usable",
        "  cat 2, dog 2\ntest: 7 records, 7 usable",
        "  dog 3, elk 4\n",
        "images in train and test, so that test is no test of them: ",
    ):
        assert expected in output, output
    assert run(["check-data"]) == 0
    make_shards(tmp_path / "shards")
    assert run(["check-data", "data=tfrecord", f"data.root={tmp_path / 'shards'}", "data.num_classes=5"]) == 0
    output = capsys.readouterr().out
    assert output.count("  2 of 5 classes have no usable record: class_003, class_004\n") == 2
    assert "no test split: data=digits has no test split, only train and validation: " in output
    assert "every record can be used" in output


def test_a_report_of_check_data_is_opened_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["check-data", "data=image_folder", "data.root=gone", "report=/nowhere/r"]) == 2
    assert capsys.readouterr().err == "error: report=/nowhere/r cannot be written: No such file or directory\n"
    assert run(["check-data", "data=synthetic", "data.train_examples=1", "data.validation_examples=1"]) == 2
    assert "nothing to check" in capsys.readouterr().err
