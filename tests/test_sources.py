"""Image folders and TFRecord files: what is found, in which order, what is refused, and exact resume from each."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import re
import shutil
import struct
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import NARROW, Trainer, assert_same_run, checkpoint_names
from PIL import Image
from test_config import compose

from trainer.commands.arguments import parse_arguments
from trainer.compatibility import judge
from trainer.config.complete import complete, with_leaves
from trainer.config.override import changes, override
from trainer.config.schema import Config
from trainer.data import image_folder, index_cache, tfrecord
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.decoding import decode, encoded_image
from trainer.data.source import Source, open_source
from trainer.data.tfrecord import index_records, masked_crc32c
from trainer.errors import RestoreRefused, UsageError
from trainer.fingerprint.behaviour import data_facts
from trainer.fingerprint.facts import differences

CLASSES = ("cat", "dog", "ox")


PINNED_VALIDATION = [
    *("cat/004.jpg", "cat/012.jpg", "cat/014.jpg", "cat/023.png"),
    *("dog/020.jpg", "dog/024.jpg", "ox/012.jpg", "ox/027.png"),
]


@functools.cache
def composed(*arguments: str) -> Config:
    return compose(*arguments)


def pixels(number: int) -> tf.Tensor:
    return tf.constant(np.random.Generator(np.random.PCG64(number)).integers(0, 256, (10, 12, 3), np.uint8))


def png(number: int) -> bytes:
    return bytes(tf.io.encode_png(pixels(number)).numpy())


def jpeg(number: int) -> bytes:
    return bytes(tf.io.encode_jpeg(pixels(number)).numpy())


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_tree(folder: Path, count: int, classes: Sequence[str] = CLASSES) -> Path:
    """``count`` images a class, PNG and JPEG by turns."""
    for label, name in enumerate(classes):
        for number in range(count):
            content, suffix = (png, "png") if number % 2 else (jpeg, "jpg")
            write(folder / name / f"{number:03d}.{suffix}", content(1000 * label + number))
    return folder


def make_splits(root: Path, train: int = 4, validation: int = 2) -> Path:
    make_tree(root / "train", train)
    make_tree(root / "val", validation)
    return root


def folder_source(root: Path, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    return open_source(override(composed("data=image_folder", "data.root=x"), values).data, split)


def everything(source: Source) -> tuple[list[bytes], list[int]]:
    images, labels = source.read(np.arange(source.count))
    return images, labels.tolist()


def test_train_and_val_folders_are_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_splits(tmp_path)
    train, validation = folder_source(root), folder_source(root, "validation")
    assert train.class_names == validation.class_names == CLASSES
    assert (train.count, validation.count) == (12, 6)
    images, labels = everything(train)
    assert labels == [0] * 4 + [1] * 4 + [2] * 4
    assert images[5] == (root / "train" / "dog" / "001.png").read_bytes()
    expected = everything(validation)
    os.rename(root / "val", root / "validation")
    assert everything(folder_source(root, "validation")) == expected
    assert capsys.readouterr().out == ""


def test_one_tree_is_split_by_a_hash_of_the_path_alone(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "all", 40)
    parts = {split: everything(folder_source(root, split))[0] for split in ("train", "validation")}
    assert len(parts["train"]) + len(parts["validation"]) == 120
    assert 3 <= len(parts["validation"]) <= 24  # a tenth of 120; five standard deviations around it
    assert not set(parts["train"]) & set(parts["validation"])
    # SHA-256 of the path: pinned, because another split would train on what validates a stored run
    validation = [path for path in sorted(root.rglob("*.*")) if path.read_bytes() in parts["validation"]]
    assert [str(path.relative_to(root)) for path in validation] == PINNED_VALIDATION
    # an added image moves no other
    write(root / "cat" / "new.png", png(7))
    again = {split: everything(folder_source(root, split))[0] for split in parts}
    assert all(set(parts[split]) <= set(again[split]) for split in parts)
    half = folder_source(root, "validation", "data.validation_share=0.5")
    assert 33 <= half.count <= 88
    assert set(parts["validation"]) <= set(everything(half)[0])


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_splits(tmp_path / "one")
    files = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    for number in np.random.Generator(np.random.PCG64(5)).permutation(len(files)):
        write(tmp_path / "two" / files[number], (one / files[number]).read_bytes())
    expected = folder_source(one)
    assert everything(folder_source(tmp_path / "two")) == everything(expected)
    assert folder_source(tmp_path / "two").listing == expected.listing
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder: Any) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[Any]:
            return self.entries

        def __exit__(self, *details: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert everything(folder_source(one)) == everything(expected)


def test_names_with_unicode_spaces_and_folders_within_a_class(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split / "élan vital" / "Ü ber.PNG", png(1))
        write(tmp_path / split / "猫" / "deep" / "er" / "a b.JPeG", jpeg(2))
    source = folder_source(tmp_path)
    assert source.class_names == ("élan vital", "猫")
    assert everything(source) == ([png(1), jpeg(2)], [0, 1])
    other = tmp_path / "decomposed"
    for path in sorted(tmp_path.glob("*/*/**/*.*")):
        name = unicodedata.normalize("NFD", str(path.relative_to(tmp_path)))
        write(other / name, path.read_bytes())
    copied = folder_source(other)
    assert (copied.class_names, copied.listing) == (source.class_names, source.listing)


def test_every_extension_that_is_read_is_one_that_decodes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make_tree(tmp_path / split, 1, ["zebra"])
        for suffix, kind in (("bmp", "BMP"), ("gif", "GIF"), ("jpg", "JPEG"), ("PNG", "PNG"), ("webp", "WEBP")):
            buffer = io.BytesIO()
            Image.fromarray(pixels(3).numpy()).save(buffer, kind)
            write(tmp_path / split / "ant" / f"image.{suffix}", buffer.getvalue())
    images, _ = everything(folder_source(tmp_path))
    assert len(images) == 6
    for image in images:
        assert decode(encoded_image(image)).shape == (10, 12, 3)


def test_what_is_not_an_image_is_counted_and_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tree(tmp_path / "all", 30)
    write(root / "cat" / "notes.txt", b"x")
    write(root / "dog" / ".ipynb_checkpoints" / "a.png", png(1))
    write(root / "README", b"x")
    assert folder_source(root).count + folder_source(root, "validation").count == 90
    output = capsys.readouterr().out
    assert output == f"ignored in {root}: 3 entries that are hidden or not images, the first {root}/README\n"
    splits = make_splits(tmp_path / "splits")
    make_tree(splits / "test", 2)
    folder_source(splits), folder_source(splits, "validation")
    expected = f"ignored in {splits}: {splits}/test, which is hidden or not an image\n"
    assert capsys.readouterr().out == expected


def test_a_part_of_the_images_is_spread_over_the_classes(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 60)
    part = folder_source(root, "train", "data.train_examples=30")
    labels = everything(part)[1]
    assert labels == sorted(labels)
    assert np.bincount(labels, minlength=3).min() >= 3
    assert set(everything(part)[0]) <= set(everything(folder_source(root))[0])


def test_a_folder_called_train_may_be_a_class(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 20, ["car", "train"])
    assert folder_source(root).class_names == ("car", "train")


def link(target: str, place: str) -> Callable[[Path], object]:
    return lambda root: (root / place).symlink_to(target)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    # what is wrong: (how it is made in a good folder, the message with {root})
    "missing root": (shutil.rmtree, "data.root={root} does not exist"),
    "root is a file": (
        lambda root: (shutil.rmtree(root), root.write_bytes(b"")),
        "data.root={root} is not a directory",
    ),
    "empty root": (
        lambda root: (shutil.rmtree(root), root.mkdir()),
        "{root} has no class folders; expected is a folder for each of at least two classes, {root}/CLASS/IMAGE",
    ),
    "one class": (
        lambda root: [shutil.rmtree(root / split / name) for split in ("train", "val") for name in CLASSES[1:]],
        "{root}/train has only one class folder, cat; expected is",
    ),
    "empty class folder": (
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        "{root}/train/dog is a class folder without an image",
    ),
    "class folder with other files": (
        lambda root: [path.rename(path.with_suffix(".txt")) for path in (root / "train" / "dog").iterdir()],
        "{root}/train/dog is a class folder without an image",
    ),
    "class only in train": (
        lambda root: make_tree(root / "train", 1, ["elk"]),
        "{root}/train and {root}/val must have the same class folders\n  only in train: elk\n  only in val: none",
    ),
    "class only in val": (
        lambda root: make_tree(root / "val", 1, ["elk", "yak"]),
        "only in train: none\n  only in val: elk, yak",
    ),
    "no val": (
        lambda root: shutil.rmtree(root / "val"),
        "{root} has train/ but no val/ or validation/; add it, or make its class folders data.root",
    ),
    "no train": (lambda root: shutil.rmtree(root / "train"), "{root} has val/ but no train/"),
    "val twice": (
        lambda root: make_tree(root / "validation", 1),
        "{root} has val and validation, which mean the same; keep one of them",
    ),
    "zero bytes": (
        lambda root: write(root / "train" / "ox" / "bad file.png", b""),
        "{root}/train/ox/bad file.png is empty (0 bytes)",
    ),
    "image without a class": (
        lambda root: write(root / "train" / "stray.png", png(0)),
        "{root}/train/stray.png lies beside the class folders, so it has no class",
    ),
    "class in two Unicode forms": (
        lambda root: [make_tree(root / "train", 1, [unicodedata.normalize(form, "é")]) for form in ("NFC", "NFD")],
        "are the same class name in two Unicode forms",
    ),
    "class under two names": (
        link("cat", "train/feline"),
        "{root}/train/feline and {root}/train/cat are the same folder under two class names",
    ),
    "name that is not UTF-8": (
        lambda root: os.mkdir(os.fsencode(root) + b"/train/\xff"),
        "cannot name a class, because it is not UTF-8",
    ),
    "link to its own folder": (link(".", "train/cat/loop"), "{root}/train/cat/loop leads back to {root}/train/cat"),
    "link to the class folders": (link("..", "train/cat/loop"), "{root}/train/cat/loop leads back to {root}/train"),
    "link to the file system": (link("/", "train/cat/loop"), "{root}/train/cat/loop leads back to /, which contains"),
    "class that links to an ancestor": (
        lambda root: [link("..", f"{split}/loop")(root) for split in ("train", "val")],
        "{root}/train/loop leads back to {root}, which contains it",
    ),
    "link to itself": (link("loop.png", "train/cat/loop.png"), "{root}/train/cat/loop.png, a symbolic link to loop"),
    "link to nothing": (
        link("/nowhere.png", "train/cat/gone.png"),
        "{root}/train/cat/gone.png, a symbolic link to /nowhere.png, cannot be read: No such file or directory",
    ),
    "folder that links to nothing": (link("gone", "train/elk"), "{root}/train/elk, a symbolic link to gone, cannot"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_that_is_not_right_is_refused(what: str, tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images")
    make, message = FOLDERS[what]
    make(root)
    with pytest.raises(UsageError) as refused:
        folder_source(root)
    assert message.format(root=root) in str(refused.value)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    make_tree(tmp_path / "store", 3, ["elk"])
    root = make_splits(tmp_path / "images")
    for split in ("train", "val"):
        link(str(tmp_path / "store" / "elk"), f"{split}/elk")(root)
    assert folder_source(root).class_names == ("cat", "dog", "elk", "ox")


def test_a_split_without_an_image_or_with_too_few_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 2)
    with pytest.raises(UsageError, match=r"data.validation_share=0.0001 leaves no image of .* for validation"):
        folder_source(root, "validation", "data.validation_share=0.0001")
    write(root / "elk" / "004.jpg", jpeg(4))
    share = image_folder.Image("elk/004.jpg", 0, 1).rank + 0.01
    with pytest.raises(UsageError, match=r"leaves no image of .*/elk for training"):
        folder_source(root, "train", f"data.validation_share={share}")
    shutil.rmtree(root / "elk")
    with pytest.raises(UsageError, match=r"data.train_examples is 99, but the images in .* have 6 in train"):
        folder_source(root, "train", "data.train_examples=99", "data.validation_share=0.0001")


# TFRecord files


def feature(value: Any) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value] if isinstance(value, int) else value))


def example(image: Any, label: Any, names: tuple[str, str] = ("image/encoded", "image/class/label")) -> bytes:
    features = {name: feature(value) for name, value in zip(names, (image, label), strict=True) if value is not None}
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write_shard(path: Path, records: Sequence[bytes], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def make_shards(root: Path, train: int = 6, validation: int = 3) -> Path:
    """Two shards for training and one for validation; every third record has the same of three labels."""
    for name, count, start in (
        ("train-00000-of-00002", train, 0),
        ("train-00001-of-00002", train, train),
        ("validation-00000-of-00001", validation, 900),
    ):
        write_shard(root / name, [example(jpeg(n) if n % 2 else png(n), n % 3) for n in range(start, start + count)])
    return root


def shard_source(root: Path, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    if "data.labels_file" in values:
        values["data.num_classes"] = None
    return open_source(override(composed("data=tfrecord", "data.root=x", "data.num_classes=3"), values).data, split)


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place / "trainer"


def test_shards_are_one_sequence_in_the_order_of_their_names(tmp_path: Path) -> None:
    source = shard_source(make_shards(tmp_path))
    assert source.class_names == ("class_000", "class_001", "class_002")
    assert everything(source) == ([jpeg(n) if n % 2 else png(n) for n in range(12)], [n % 3 for n in range(12)])
    assert source.read(np.array([11, 0, 6, 0]))[1].tolist() == [2, 0, 0, 0]
    assert shard_source(tmp_path, "validation").count == 3
    first = shard_source(tmp_path, "train", "data.train_examples=7")
    assert everything(first)[1] == [0, 1, 2, 0, 1, 2, 0]


def test_names_of_features_offset_patterns_and_classes_are_configurable(tmp_path: Path) -> None:
    names = ("jpeg", "class")
    write_shard(tmp_path / "sub" / "a.rec", [example(png(1), 1, names), example(png(2), 2, names)])
    write_shard(tmp_path / "b.rec", [example(png(3), 2, names)])
    write(tmp_path / "names.txt", "sea lion\nélan\n".encode())
    overrides = (
        "data.train_pattern='sub/*.rec'",
        "data.validation_pattern='*.rec'",
        "data.image_key=jpeg",
        "data.label_key=class",
        "data.label_offset=1",
        "data.labels_file=names.txt",
    )
    train = shard_source(tmp_path, "train", *overrides)
    assert train.class_names == ("sea lion", "élan")
    assert everything(train) == ([png(1), png(2)], [0, 1])
    assert everything(shard_source(tmp_path, "validation", *overrides)) == ([png(3)], [1])


def test_crc_is_the_one_of_the_file_format(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard", [b"", b"x" * 300, b"y"])
    assert index_records(path).tolist() == [[12, 0], [28, 300], [344, 1]]
    data = path.read_bytes()
    assert masked_crc32c(data[28:328]) == struct.unpack("<I", data[328:332])[0]


def damage(name: str, offset: int, value: int) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[offset] ^= value
        (root / name).write_bytes(bytes(data))

    return apply


def second_header(root: Path) -> int:
    return int(index_records(root / "train-00001-of-00002")[1][0]) - 12


T1 = "train-00001-of-00002"
SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    # what is wrong: (how it is made in a good folder, the message with {root})
    "missing root": (shutil.rmtree, "data.root={root} does not exist"),
    "no shard": (
        lambda root: [path.unlink() for path in root.glob("train-*")],
        "no file in data.root={root} matches data.train_pattern=train-*",
    ),
    "no validation shard": (
        lambda root: (root / "validation-00000-of-00001").unlink(),
        "no file in data.root={root} matches data.validation_pattern=validation-*",
    ),
    "GZIP": (
        lambda root: write_shard(root / T1, [example(png(1), 1)], "GZIP"),
        "{root}/" + T1 + " is compressed with GZIP: a record inside cannot be read without all before it",
    ),
    "GZIP by the command": (
        lambda root: write(root / T1, gzip.compress((root / T1).read_bytes())),
        "is compressed with GZIP",
    ),
    "ZLIB": (lambda root: write_shard(root / T1, [example(png(1), 1)], "ZLIB"), "is compressed with ZLIB"),
    "zero bytes": (lambda root: write(root / T1, b""), "{root}/" + T1 + " is empty (0 bytes)"),
    "cut in a record": (
        lambda root: os.truncate(root / T1, (root / T1).stat().st_size - 1),
        "{root}/" + T1 + " ends inside record 5, which begins at byte ",
    ),
    "cut in a header": (
        lambda root: os.truncate(root / T1, second_header(root) + 7),
        " ends inside record 1, which begins at byte ",
    ),
    "damaged length": (
        lambda root: damage(T1, second_header(root), 1)(root),
        "{root}/" + T1 + " is damaged: the length of record 1 at byte ",
    ),
    "damaged high byte of a length": (
        lambda root: damage(T1, second_header(root) + 7, 0x80)(root),
        " is damaged: the length of record 1 at byte ",
    ),
    "damaged CRC": (
        lambda root: damage(T1, second_header(root) + 8, 1)(root),
        " is damaged: the length of record 1 at byte ",
    ),
    "not TFRecord": (
        lambda root: write(root / "train-facts.json", json.dumps({"a": 1, "b": "c"}).encode()),
        "{root}/train-facts.json is not a TFRecord file, or the length of record 0 at byte 0 is wrong",
    ),
    "megabytes of zeros": (lambda root: write(root / T1, bytes(2**24)), "the length of record 0 at byte 0 is wrong"),
}


@pytest.mark.parametrize("what", SHARDS)
def test_shards_that_cannot_be_indexed_are_refused(what: str, tmp_path: Path) -> None:
    root = make_shards(tmp_path / "shards")
    make, message = SHARDS[what]
    make(root)
    with pytest.raises(UsageError) as refused:
        shard_source(root)
    assert message.format(root=root) in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.validation_pattern='*'",), "train-00000-of-00002 is in both splits"),
        (("data.train_pattern=/etc/*",), "is not a pattern of files below data.root"),
        (("data.train_pattern=''",), "is not a pattern of files below data.root"),
        (("data.train_examples=13",), "data.train_examples is 13, but the files in "),
        (("data.labels_file=absent.txt",), "absent.txt cannot be read: No such file or directory"),
        (("data.labels_file=gap.txt",), "gap.txt has no name in line 2"),
        (("data.labels_file=twice.txt",), "twice.txt has a in lines 1 and 3"),
        (("data.labels_file=one.txt",), "one.txt has 1 lines, but at least two classes are needed"),
        (("data.labels_file=latin.txt",), "latin.txt is not UTF-8"),
    ],
)
def test_keys_that_do_not_fit_the_files_are_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    for name, text in (("gap", b"a\n\nb\n"), ("twice", b"a\nb\na\n"), ("one", b"a\n"), ("latin", b"\xe9\nb\n")):
        write(root / f"{name}.txt", text)
    with pytest.raises(UsageError) as refused:
        shard_source(root, "train", *overrides)
    assert message in str(refused.value)


RECORDS: dict[str, tuple[bytes, str]] = {
    "label too large": (example(png(1), 3), "has label 3, but 3 classes with data.label_offset=0 are labels 0 to 2"),
    "negative label": (example(png(1), -1), "has label -1, but 3 classes"),
    "no label": (example(png(1), None), "has no feature image/class/label (data.label_key); it has image/encoded"),
    "no image": (example(None, 1), "has no feature image/encoded (data.image_key); it has image/class/label"),
    "no features": (b"", "has no feature image/encoded (data.image_key); it has none"),
    "label of another type": (
        example(png(1), b"1"),
        "must have one value (an integer) in feature image/class/label (data.label_key), "
        "but has 0 (it holds bytes_list)",
    ),
    "two labels": (
        example(png(1), [1, 2]),
        "must have one value (an integer) in feature image/class/label (data.label_key), "
        "but has 2 (it holds int64_list)",
    ),
    "empty image": (example(b"", 1), "has an empty image in image/encoded"),
    "not an example": (b"\xff\xff", "is not a tf.train.Example"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_cannot_be_used_is_named(what: str, tmp_path: Path) -> None:
    record, message = RECORDS[what]
    make_shards(tmp_path)
    path = write_shard(tmp_path / T1, [example(png(0), 0), record])
    source = shard_source(tmp_path)
    with pytest.raises(UsageError) as refused:
        source.read(np.array([0, 7]))
    assert f"{path} record 1 {message}" in str(refused.value)


def test_a_shard_that_shrinks_and_an_image_that_goes_are_named(tmp_path: Path) -> None:
    shards = shard_source(make_shards(tmp_path / "shards"))
    os.truncate(tmp_path / "shards" / T1, 50)
    with pytest.raises(UsageError, match=f"{T1} record 5 has 0 bytes, but had [0-9]+ when the file was indexed"):
        shards.read(np.array([11]))
    images = folder_source(make_splits(tmp_path / "images"))
    write(tmp_path / "images" / "train" / "cat" / "001.png", b"short")
    (tmp_path / "images" / "train" / "cat" / "002.jpg").unlink()
    with pytest.raises(UsageError, match=r"cat/001.png \(record 1\) has 5 bytes, but had"):
        images.read(np.array([1]))
    with pytest.raises(UsageError, match=r"cat/002.jpg \(record 2\) cannot be read: No such file or directory"):
        images.read(np.array([2]))


# The cache of the index


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are walked through."""
    names: list[str] = []

    def walk(path: Path) -> Any:
        names.append(path.name)
        return tfrecord.index_records(path)

    monkeypatch.setattr(index_cache, "index_records", walk)
    return names


def test_the_index_is_kept_beside_the_shards_and_made_again_after_a_change(tmp_path: Path, walked: list[str]) -> None:
    root = make_shards(tmp_path)
    expected = everything(shard_source(root))
    assert sorted(walked) == ["train-00000-of-00002", T1]
    (kept,) = root.glob(".trainer-index-*")
    assert everything(shard_source(root)) == expected
    assert len(walked) == 2
    moved = tmp_path / "moved"
    shutil.copytree(root, moved, copy_function=shutil.copy2, ignore=shutil.ignore_patterns("moved"))
    assert everything(shard_source(moved)) == expected
    assert len(walked) == 2
    write_shard(root / T1, [example(png(50), 1)])
    assert everything(shard_source(root))[0][6:] == [png(50)]
    assert len(walked) == 4
    os.utime(root / T1, ns=(0, 0))
    shard_source(root)
    assert len(walked) == 6
    for garbage in (b"", b"garbage", kept.read_bytes()[:-20]):
        kept.write_bytes(garbage)
        assert shard_source(root).count == 7
    assert len(walked) == 12
    write_shard(root / "train-00002-of-00002", [example(png(51), 1)])
    assert shard_source(root).count == 8
    assert [path.name for path in root.iterdir() if path.name.startswith(".") and path.suffix != ".npz"] == []


def test_beside_a_read_only_directory_the_index_goes_to_the_cache_directory(
    tmp_path: Path, walked: list[str], cache_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_shards(tmp_path)
    create = index_cache.tempfile.NamedTemporaryFile

    def read_only(*arguments: Any, dir: Path, **more: Any) -> Any:
        if dir == root:  # permissions do not hold the superuser, who runs tests in containers
            raise OSError(30, "Read-only file system")
        return create(*arguments, dir=dir, **more)

    monkeypatch.setattr(index_cache.tempfile, "NamedTemporaryFile", read_only)
    expected = everything(shard_source(root))
    assert list(root.glob(".trainer-*")) == []
    assert len(list(cache_directory.glob("index-*.npz"))) == 1
    assert everything(shard_source(root)) == expected
    assert len(walked) == 2


def test_without_any_place_for_the_index_training_goes_on_and_says_so(
    tmp_path: Path, walked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_shards(tmp_path)
    monkeypatch.setattr(index_cache, "_store", lambda *arguments: False)
    assert shard_source(root).count == shard_source(root).count == 12
    assert len(walked) == 4
    output = capsys.readouterr().out
    assert f"the index of {root} could not be kept" in output
    assert f"  {os.environ['XDG_CACHE_HOME']}/trainer\n" in output


# Through the pipeline, and on resume


def narrow(*arguments: str) -> Config:
    config = compose(*arguments, "train.global_batch_size=4", "evaluation.batch_size=4")
    return with_leaves(complete(config, 12, 3), {"runtime.threads": 2})


def test_an_error_of_a_source_comes_out_of_the_pipeline_as_it_is(tmp_path: Path) -> None:
    config = narrow("data=tfrecord", f"data.root={make_shards(tmp_path)}", "data.num_classes=3")
    write_shard(tmp_path / "validation-00000-of-00001", [example(png(1), 5)])
    write_shard(tmp_path / T1, [example(png(0), 0), example(png(0), 8)])
    message = "validation-00000-of-00001 record 0 has label 5, but 3 classes"
    batches = evaluation_batches(open_source(config.data, "validation"), config)
    for _ in range(2):
        with pytest.raises(UsageError, match=message):
            list(batches)
    with pytest.raises(UsageError, match=f"{T1} record 1 has label 8"):
        for _ in training_batches(open_source(config.data, "train"), config, 0, 5):
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


def test_data_may_move_but_must_stay_the_same(tmp_path: Path) -> None:
    """``data.root`` is free, so it must not explain away that other data is found there."""
    here = make_splits(tmp_path / "here")
    shutil.copytree(here, tmp_path / "there")
    config = narrow("data=image_folder", f"data.root={here}")
    stored_facts = data_facts(open_source(config.data, "train"), "train")

    def resume_at(root: Path) -> tuple[str, ...]:
        wanted = override(config, {"data.root": str(root)})
        found = differences(stored_facts, data_facts(open_source(wanted.data, "train"), "train"))
        return judge(tmp_path, changes(config, wanted), found, ())

    assert resume_at(tmp_path / "there") == (f"data.root: {here} -> {tmp_path / 'there'}",)
    write(tmp_path / "there" / "train" / "cat" / "000.jpg", jpeg(77))
    with pytest.raises(RestoreRefused, match="data split train: content digest"):
        resume_at(tmp_path / "there")
    renamed = tmp_path / "renamed"
    shutil.copytree(here, renamed)
    os.rename(renamed / "train" / "ox" / "000.jpg", renamed / "train" / "ox" / "0000.jpg")
    with pytest.raises(RestoreRefused, match="data split train: listing digest"):
        resume_at(renamed)


def test_a_relative_root_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose("data=image_folder", "data.root=images").data.root == str(tmp_path / "images")
    assert compose("data=image_folder", "data.root='~/images'").data.root == os.path.expanduser("~/images")


SHORT = (*NARROW, "train.steps=6", "schedule.warmup_steps=2", "evaluation.every_steps=4", "checkpoint.every_steps=3")


def stopped_at_3(straight: Path) -> Path:
    """What a run would have left behind that was killed after its checkpoint of step 3."""
    stopped = straight.with_name("stopped")
    shutil.copytree(straight, stopped)
    for name in checkpoint_names(stopped):
        if name > "step-00000003":
            shutil.rmtree(stopped / "checkpoints" / name)
    return stopped


def test_a_run_on_an_image_folder_resumes_exactly_where_the_data_was_moved_to(trainer: Trainer) -> None:
    make_splits(trainer.cwd / "images", 14, 7)
    trainer.run("train", *SHORT, "data=image_folder", "data.root=images", "run_dir=straight")
    stopped = stopped_at_3(trainer.cwd / "straight")
    os.rename(trainer.cwd / "images", trainer.cwd / "elsewhere")
    output = trainer.run("resume", "run_dir=stopped", "data.root=elsewhere")
    assert "resuming stopped at step 3 of 6" in output
    assert f"changed on resume: data.root: {trainer.cwd}/images -> {trainer.cwd}/elsewhere" in output
    assert_same_run(trainer.cwd / "straight", stopped)


def test_a_run_on_tfrecord_files_resumes_exactly_and_names_a_bad_record(trainer: Trainer) -> None:
    root = make_shards(trainer.cwd / "shards", 20, 20)
    trainer.run("train", *SHORT, "data=tfrecord", "data.root=shards", "data.num_classes=3", "run_dir=straight")
    stopped = stopped_at_3(trainer.cwd / "straight")
    assert "resuming stopped at step 3 of 6" in trainer.run("resume", "run_dir=stopped")
    assert_same_run(trainer.cwd / "straight", stopped)
    # record 1 is not among those that the fingerprint reads, and its length stays
    records = [example(jpeg(n) if n % 2 else png(n), 3 if n == 1 else n % 3) for n in range(20)]
    write_shard(root / "train-00000-of-00002", records)
    output = trainer.run("resume", "run_dir=stopped", "train.steps=14", status=2)
    assert output.splitlines()[-1] == (
        f"error: {root}/train-00000-of-00002 record 1 has label 3, but 3 classes with data.label_offset=0 "
        "are labels 0 to 2"
    )
