"""Parquet files: what is read by itself, what with its row group, at what cost, and what is refused or named."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_data import CLASSES, everything, write
from parquet_files import encoded, make_parquet, parquet_source, write_by_datasets, write_table

from trainer.data.sources import parquet_file
from trainer.data.sources.parquet import REWRITE
from trainer.data.sources.parquet_pages import may_be_plain
from trainer.data.sources.parquet_rows import Cost
from trainer.data.sources.row_groups import RowGroupCache
from trainer.errors import BadRecord, NoSuchSplit, UsageError

T0, T1 = "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"
IMAGES = [encoded(number) for number in range(12)]
LABELS = [number % 3 for number in range(12)]


def test_files_of_datasets_are_one_sequence_with_the_names_of_its_features(tmp_path: Path) -> None:
    root = make_parquet(tmp_path)
    source = parquet_source(root)
    assert source.class_names == CLASSES
    assert everything(source) == (IMAGES, LABELS)
    assert source.labels().tolist() == LABELS
    images, labels = source.read(np.array([11, 0, 6, 0]))
    assert images == [IMAGES[11], IMAGES[0], IMAGES[6], IMAGES[0]]
    assert labels.tolist() == [2, 0, 0, 0]
    assert source.place(7) == f"{root / T1} row 1"
    assert parquet_source(root, "validation").count == 3
    with pytest.raises(NoSuchSplit):
        parquet_source(root, "test")


WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    # how pyarrow writes: whether an image is read by itself
    "as datasets does": ({"compression": "none", "use_dictionary": False}, True),
    "pages of another version": ({"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}, True),
    "small pages": (
        {"compression": "none", "use_dictionary": False, "data_page_size": 600, "write_batch_size": 1},
        True,
    ),
    "by itself, with checksums": ({"compression": "none", "use_dictionary": False, "write_page_checksum": True}, True),
    "small row groups": ({"compression": "none", "use_dictionary": False, "row_group_size": 2}, True),
    "pyarrow's own way": ({}, False),
    "compressed": ({"compression": "zstd", "use_dictionary": False, "row_group_size": 4}, False),
    "a dictionary": ({"compression": "none"}, False),
    "lengths apart": (
        {"compression": "none", "use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
        False,
    ),
    "without statistics": ({"compression": "none", "use_dictionary": False, "write_statistics": False}, False),
}
KINDS: dict[str, Callable[[list[bytes | None]], Any]] = {
    "struct": lambda images: pa.array([{"bytes": each, "path": "x"} for each in images]),
    "binary": lambda images: pa.array(images, pa.binary()),
    "large binary": lambda images: pa.array(images, pa.large_binary()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_images_are_the_same_however_they_are_written(
    way: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, by_itself = WAYS[way]
    if "column_encoding" in how:
        how = {**how, "column_encoding": {"image.bytes" if kind == "struct" else "image": how["column_encoding"]}}
    for name, numbers in (
        ("train-0.parquet", range(6)),
        ("train-1.parquet", range(6, 12)),
        ("validation-0.parquet", [0]),
    ):
        images = KINDS[kind]([IMAGES[number] for number in numbers])
        write_table(tmp_path / name, images, pa.array([LABELS[number] for number in numbers]), **how)
    source = parquet_source(tmp_path, "train", "data.num_classes=3")
    groups: list[str] = []
    opened = parquet_file.open_parquet
    monkeypatch.setattr(parquet_file, "open_parquet", lambda path: groups.append(path.name) or opened(path))
    assert everything(source) == (IMAGES, LABELS)
    assert source.read(np.array([11, 3, 3]))[0] == [IMAGES[11], IMAGES[3], IMAGES[3]]
    assert groups == ([] if by_itself else ["train-0.parquet", "train-1.parquet"])


def test_what_pyarrow_says_of_a_column_decides_whether_its_values_are_read_by_themselves(tmp_path: Path) -> None:
    for nulls, plain in ((False, True), (True, False)):
        images = pa.array([IMAGES[0], None if nulls else IMAGES[1]], pa.binary())
        path = write_table(tmp_path / "a.parquet", images, pa.array([0, 1]), compression="none", use_dictionary=False)
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert may_be_plain(chunk) is plain


def test_names_of_classes_are_found_given_or_counted(tmp_path: Path) -> None:
    root = make_parquet(tmp_path / "hf")
    write(root / "names.txt", b"a\nb\nc\n")
    assert parquet_source(root, "train", "data.labels_file=names.txt").class_names == ("a", "b", "c")
    assert parquet_source(root, "train", "data.num_classes=3").class_names == CLASSES
    texts = tmp_path / "texts"
    for name in ("train-0.parquet", "validation-0.parquet"):
        write_table(texts / name, pa.array(IMAGES), pa.array([CLASSES[label] for label in LABELS]))
        write(texts / "names.txt", "\n".join(CLASSES).encode())
    assert everything(parquet_source(texts, "train", "data.labels_file=names.txt"))[1] == LABELS
    for name in ("train-0.parquet", "validation-0.parquet"):
        write_table(texts / name, pa.array(IMAGES), pa.array([CLASSES[label] for label in LABELS]).dictionary_encode())
    assert everything(parquet_source(texts, "train", "data.labels_file=names.txt"))[1] == LABELS
    for name in ("train-0.parquet", "validation-0.parquet"):
        write_table(texts / name, pa.array(IMAGES), pa.array([label + 1 for label in LABELS], pa.uint8()))
    assert everything(parquet_source(texts, "train", "data.num_classes=3", "data.label_offset=1"))[1] == LABELS


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.uint16(), pa.uint32(), pa.int64(), pa.uint64()])
@pytest.mark.parametrize("packed", [False, True])
def test_labels_are_whole_numbers_of_any_type(kind: Any, packed: bool, tmp_path: Path) -> None:
    stored: list[int | None] = [*LABELS]
    stored[4], stored[5] = None, 2**64 - 1 if kind == pa.uint64() else 99
    column = pa.array(stored, kind)
    for name in ("train-0.parquet", "validation-0.parquet"):
        write_table(tmp_path / name, pa.array(IMAGES), column.dictionary_encode() if packed else column)
    source = parquet_source(tmp_path, "train", "data.num_classes=3", "data.on_bad_record=skip")
    good = [*range(4), *range(6, 12)]
    assert source.read(np.array(good))[1].tolist() == [LABELS[number] for number in good]
    for record, message in ((4, "has no label in"), (5, f"has label {stored[5]}, but 3 classes")):
        with pytest.raises(BadRecord, match=message):
            source.read(np.array([record]))


REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    # how the second file is changed, keys, what is said
    "no such image column": (
        lambda path: None,
        ("data.image_column=img",),
        "has no column img (data.image_column), only im",
    ),
    "no such label column": (
        lambda path: None,
        ("data.label_column=lable",),
        "does not name the classes of data.label_column=lable",
    ),
    "no such label column, classes counted": (
        lambda path: None,
        ("data.label_column=lable", "data.num_classes=3"),
        "has no column lable (data.label_column), only image, label; did you mean label?",
    ),
    "images that are texts": (
        lambda path: write_table(path, pa.array(["a.jpg"]), pa.array([1])),
        ("data.labels_file=names.txt",),
        "has string in data.image_column=image, but it must be binary, or a struct with the binary field bytes",
    ),
    "labels that are fractions": (
        lambda path: write_table(path, pa.array([b"x"]), pa.array([1.5])),
        ("data.labels_file=names.txt",),
        "has double in data.label_column=label, but it must be whole numbers, or names of classes",
    ),
    "other names": (
        lambda path: write_by_datasets(path, range(3), ("dog", "cat", "ox")),
        (),
        "name other classes in data.label_column=label:\n  cat, dog, ox\n  dog, cat, ox\n",
    ),
    "other names for validation": (
        lambda path: write_by_datasets(path.with_name("validation-00000-of-00001.parquet"), range(3), ("a", "b", "c")),
        (),
        "name other classes in data.label_column=label:\n  cat, dog, ox\n  a, b, c\n",
    ),
    "another number of classes": (lambda path: None, ("data.num_classes=4",), "names 3 classes; leave it null"),
    "an offset": (lambda path: None, ("data.label_offset=1",), "names its classes from label 0 on; leave it 0"),
    "cut off": (
        lambda path: os.truncate(path, path.stat().st_size - 1),
        (),
        "is not a Parquet file, was cut off or is damaged: ",
    ),
    "another file": (lambda path: path.write_bytes(b"x" * 999), (), "is not a Parquet file, was cut off or is damaged"),
    "empty": (lambda path: path.write_bytes(b""), (), "is empty (0 bytes)"),
    "missing": (lambda path: path.unlink(), (), "1 of 2 shards are missing in "),
    "a damaged length": (
        lambda path: change(path, length_of_second(path)),
        (),
        " of row group 0: the lengths of the val",
    ),
}


def length_of_second(path: Path) -> int:
    content = path.read_bytes()
    place = content.find(IMAGES[7])
    assert place > 0
    return place - 4


def change(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", REFUSED)
def test_files_that_do_not_fit_are_refused_by_name(what: str, tmp_path: Path) -> None:
    make, keys, message = REFUSED[what]
    root = make_parquet(tmp_path)
    write(root / "names.txt", b"a\nb\nc\n")
    make(root / T1)
    with pytest.raises(UsageError) as refused:
        parquet_source(root, "train", *keys)
    assert message in str(refused.value)
    assert str(root) in str(refused.value)


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_row_that_cannot_be_used_is_named_and_may_be_left_out(compression: str, tmp_path: Path) -> None:
    how = {"compression": compression, "use_dictionary": False}
    for name in ("train-0.parquet", "validation-0.parquet"):
        images = pa.array([*IMAGES[:2], None, b"", *IMAGES[4:8]], pa.binary())
        labels = pa.array([0, 1, 2, 0, 3, None, -1, 1], pa.int64())
        write_table(tmp_path / name, images, labels, **how)
    source = parquet_source(tmp_path, "train", "data.num_classes=3")
    assert source.read(np.array([0, 7]))[0] == [IMAGES[0], IMAGES[7]]
    for row, message in (
        (2, "has no bytes in data.image_column=image; datasets stores"),
        (3, "has an empty image in data.image_column=image"),
        (4, "has label 3, but 3 classes are labels 0 to 2"),
        (5, "has no label in data.label_column=label"),
        (6, "has label -1, but 3 classes are labels 0 to 2"),
    ):
        with pytest.raises(BadRecord) as refused:
            source.read(np.array([0, row]))
        assert f"{tmp_path}/train-0.parquet row {row} {message}" in str(refused.value)
    with pytest.raises(BadRecord, match=r"train-0.parquet row 4 has label 3"):
        source.labels()
    skipped = parquet_source(
        tmp_path, "train", "data.num_classes=3", "data.on_bad_record=skip", "data.class_weights=[1,1,1]"
    )
    assert skipped.count == 5


def test_a_row_group_that_is_damaged_is_named_with_its_rows(tmp_path: Path) -> None:
    root = make_parquet(tmp_path)
    how = {"row_group_size": 3, "compression": "snappy", "use_dictionary": False, "write_page_checksum": True}
    path = write_table(root / T1, pa.array(IMAGES[6:]), pa.array(LABELS[6:]), **how)
    write(root / "names.txt", b"a\nb\nc\n")
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    change(path, chunk.data_page_offset + chunk.total_compressed_size - 9)
    source = parquet_source(root, "train", "data.labels_file=names.txt")
    assert source.read(np.arange(9))[0] == IMAGES[:9]
    with pytest.raises(
        BadRecord, match=r"00001-of-00002.parquet row 4 cannot be read, nor its row group 1: .*[Cc]hecksum"
    ):
        source.read(np.array([10]))


def test_a_file_that_changes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    root = make_parquet(tmp_path)
    source = parquet_source(root)
    other = write_by_datasets(tmp_path / "other.parquet", [40, *range(6, 11)]).read_bytes()
    (root / T1).write_bytes(other)
    with pytest.raises(
        BadRecord, match=r"row 1 is not at byte \d+ with \d+ bytes, where it was when its file was index"
    ):
        source.read(np.array([7]))
    os.truncate(root / T1, 100)
    with pytest.raises(BadRecord, match=r"row 1 is not at byte"):
        source.read(np.array([7]))


def test_a_file_that_was_replaced_is_other_data(tmp_path: Path) -> None:
    root = make_parquet(tmp_path)
    listing = parquet_source(root).listing
    write_by_datasets(root / T1, range(6, 12))
    assert parquet_source(root).listing == listing
    write_by_datasets(root / T1, [*range(6, 11), 14])
    assert parquet_source(root).listing != listing


def compressed(root: Path, rows: int) -> Path:
    """Random bytes, 40 of 100 kB, in row groups of ``rows``."""
    images = pa.array([np.random.default_rng(number).bytes(100_000) for number in range(40)])
    for name in ("train-0.parquet", "validation-0.parquet"):
        write_table(root / name, images, pa.array([number % 2 for number in range(40)]), row_group_size=rows)
    return root


KEYS = ("data.num_classes=2", "data.cache_megabytes=1")


def test_what_a_shuffled_order_costs_is_said_with_a_command_that_makes_it_cheap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = compressed(tmp_path / "it's here", 20)
    before = everything(parquet_source(root, "train", *KEYS))
    said = capsys.readouterr().out
    assert "they are read in row groups of up to 20 images and 2.0 MB; up to 2.0 MB of 4.0 MB are kept" in said
    assert "about 1.0 MB are read and unpacked for each image of 100 kB; this writes a file again" in said
    words = shlex.split(said.splitlines()[-1])
    assert words[0] == "python"
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, *words[1:]], check=True)
    (tmp_path / "train-0-plain.parquet").rename(root / "train-0.parquet")
    assert everything(parquet_source(root, "train", *KEYS)) == before
    assert capsys.readouterr().out == ""
    compressed(tmp_path / "small", 1)
    parquet_source(tmp_path / "small", "train", *KEYS)
    assert capsys.readouterr().out == "", "a row group of one image costs no more than the image"


def test_a_row_group_costs_what_of_it_is_not_kept() -> None:
    """A thousand images of 100 kB in row groups of 100; of the bytes of one, the share is read that is not kept."""
    cost = Cost(100_000_000, 1000, 10_000_000, 100, 10_000_000.0, kept=80_000_000)
    assert cost.warning() == "in a shuffled order about 2.0 MB are read and unpacked for each image of 100 kB"
    assert dataclasses.replace(cost, kept=100_000_000).warning() is None, "all of them are kept"
    assert dataclasses.replace(cost, kept=97_000_000).warning() is None, (
        "three times the bytes of an image are no matter"
    )
    assert "of up to 100 images and 10.0 MB; up to 10.0 MB of 100.0 MB are kept" in dataclasses.replace(
        cost, kept=1
    ).described("images")


def test_the_command_keeps_the_names_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_parquet(tmp_path)
    plain = root / "plain.parquet"
    subprocess.run([sys.executable, "-c", REWRITE, str(root / T1), str(plain)], check=True)
    assert parquet_file.class_names(plain, "label") == CLASSES


def test_row_groups_take_no_more_memory_than_allowed(tmp_path: Path) -> None:
    root = compressed(tmp_path, 4)
    source: Any = parquet_source(root, "train", *KEYS)
    groups = source._stored._images.kept
    for record in np.random.default_rng(0).integers(0, 40, 60):
        source.read(np.array([record]))
        assert groups.bytes <= 1_000_000


def test_a_batch_reads_a_row_group_once_however_little_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = parquet_source(compressed(tmp_path, 20), "train", *KEYS)
    stored, loaded = source._stored, []
    load = stored._images.kept._load
    monkeypatch.setattr(stored._images.kept, "_load", lambda key: loaded.append(key) or load(key))
    images, _ = source.read(np.array([0, 39, 1, 38, 2, 37]))
    assert images[5] == np.random.default_rng(37).bytes(100_000)
    assert loaded == [(0, 0), (0, 1)]


def test_several_threads_that_want_a_row_group_read_it_once() -> None:
    loaded: list[tuple[int, int]] = []
    inside = threading.Event()
    go_on = threading.Event()

    def load(key: tuple[int, int]) -> tuple[str, int]:
        loaded.append(key)
        inside.set()
        assert go_on.wait(30)
        return f"{key}", 10

    cache = RowGroupCache(25, load)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get((0, 1)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    go_on.set()
    for thread in threads:
        thread.join()
    assert (found, loaded) == (["(0, 1)"] * 3, [(0, 1)])
    for group in (2, 3, 1):
        cache.get((0, group))
    assert (loaded, cache.bytes) == ([(0, 1), (0, 2), (0, 3), (0, 1)], 20)


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"data=parquet needs pyarrow: pip install 'resumable-trainer\[parquet\]'"):
        parquet_source(root)
