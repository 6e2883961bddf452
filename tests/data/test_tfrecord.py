"""TFRecord files: what is found, in which order, what is refused, and the cache of the index."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_data import (
    T1,
    damage,
    everything,
    example,
    jpeg,
    make_shards,
    png,
    shard_source,
    write,
    write_shard,
)

from trainer.data.sources import cache, record_index, tfrecord
from trainer.data.sources.source import Source
from trainer.data.sources.tfrecord import index_records
from trainer.errors import NoSuchSplit, UsageError
from trainer.runtime import user_cache
from trainer.storage.checksums import masked_crc32c


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
    assert index_records(path).tolist() == [0, 16, 332, 349]
    data = path.read_bytes()
    assert masked_crc32c(data[28:328]) == struct.unpack("<I", data[328:332])[0]


def second_header(root: Path) -> int:
    return int(index_records(root / "train-00001-of-00002")[1])


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


def test_a_test_set_is_a_split_and_a_split_to_evaluate_needs_no_other(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    with pytest.raises(NoSuchSplit, match=r"matches data.test_pattern=test-\*, so there is no test split"):
        shard_source(root, "test")
    write_shard(root / "test-0", [example(png(7), 1)])
    assert everything(shard_source(root, "test")) == ([png(7)], [1])
    assert shard_source(root, "test", "data.validation_examples=2", "data.train_examples=2").count == 1
    with pytest.raises(
        NoSuchSplit, match=r"in both splits: data.validation_pattern=test-\* and data.test_pattern=test-"
    ):
        shard_source(root, "test", "data.validation_pattern='test-*'")
    for path in root.glob("train-*"):
        path.unlink()
    assert (shard_source(root, "validation").count, shard_source(root, "test").count) == (3, 1)


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
        (("data.train_pattern=/etc/*",), "data.train_pattern=/etc/* leads out of data.root"),
        (("data.labels_file=../names.txt",), "data.labels_file=../names.txt leads out of data.root"),
        (("data.train_pattern=''",), "is not a pattern of files below data.root"),
        (("data.train_examples=13",), "data.train_examples is 13, but train has 12 records"),
        (("data.labels_file=absent.txt",), "absent.txt cannot be read: No such file or directory; it is relative to"),
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


@pytest.mark.parametrize("given", ["{root}/meta/names 1.txt", "meta/../meta/names 1.txt", "{link}/meta/names 1.txt"])
def test_a_path_that_lies_in_the_data_is_refused_with_how_it_is_written(given: str, tmp_path: Path) -> None:
    root = make_shards(tmp_path / "data")
    write(root / "meta" / "names 1.txt", b"a\nb\nc\n")
    (tmp_path / "link").symlink_to(root)
    given = given.format(root=root, link=tmp_path / "link")
    with pytest.raises(
        UsageError, match=r"data.labels_file=.* (is an absolute path|leads through \.\.); write"
    ) as refused:
        named_source(root, given)
    (argument,) = shlex.split(str(refused.value).rpartition(": ")[2])
    assert named_source(root, argument.removeprefix("data.labels_file=")).class_names == ("a", "b", "c")
    with pytest.raises(
        UsageError, match=r"data.test_pattern=/.* is an absolute path; write it .*: 'data.test_pattern=x-"
    ):
        shard_source(root, "train", f"data.test_pattern={root}/x-*")


def named_source(root: Path, labels_file: str) -> Source:
    keys = ("data.num_classes=null", f"data.labels_file={labels_file}")
    return shard_source(root, "train", *keys)


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


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are walked through."""
    names: list[str] = []

    def walk(path: Path) -> Any:
        names.append(path.name)
        return tfrecord.index_records(path)

    monkeypatch.setattr(record_index, "index_records", walk)
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
    write_shard(root / "train-more", [example(png(51), 1)])
    assert shard_source(root).count == 8
    assert [path.name for path in root.iterdir() if path.name.startswith(".") and path.suffix != ".npz"] == []


def test_beside_a_read_only_directory_the_index_goes_to_the_cache_directory(
    tmp_path: Path, walked: list[str], cache_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_shards(tmp_path)
    create = user_cache.tempfile.NamedTemporaryFile

    def read_only(*arguments: Any, dir: Path, **more: Any) -> Any:
        if dir == root:  # permissions do not hold the superuser, who runs tests in containers
            raise OSError(30, "Read-only file system")
        return create(*arguments, dir=dir, **more)

    monkeypatch.setattr(user_cache.tempfile, "NamedTemporaryFile", read_only)
    expected = everything(shard_source(root))
    assert list(root.glob(".trainer-*")) == []
    assert len(list(cache_directory.glob("index-*.npz"))) == 1
    assert everything(shard_source(root)) == expected
    assert len(walked) == 2


def test_without_any_place_for_the_index_training_goes_on_and_says_so(
    tmp_path: Path, walked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_shards(tmp_path)
    monkeypatch.setattr(cache, "_store", lambda *arguments: False)
    assert shard_source(root).count == shard_source(root).count == 12
    assert len(walked) == 4
    output = capsys.readouterr().out
    assert f"the index of {root} could not be kept" in output
    assert f"  {os.environ['XDG_CACHE_HOME']}/trainer\n" in output


# Size


@pytest.mark.long
def test_the_index_of_an_imagenet_takes_8_bytes_a_record_and_25_megabytes_to_build(tmp_path: Path) -> None:
    """1.28 million records, of 16 bytes: only headers are read."""
    header = struct.pack("<Q", 16)
    shard = (header + struct.pack("<I", masked_crc32c(header)) + bytes(16 + 4)) * 10_010
    shards = [write(tmp_path / f"train-{number:05d}", shard) for number in range(128)]
    tracemalloc.start()
    try:
        indices = record_index.load_or_build(tmp_path, shards)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(index) - 1 for index in indices) == 1_281_280
    assert sum(index.nbytes for index in indices) == 8 * (1_281_280 + 128)
    assert peak < 25e6
