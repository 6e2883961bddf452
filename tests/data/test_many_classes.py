"""Data of very many classes: they are opened, checked and refused at a cost that follows the number of classes, and no
message lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from every_source import table
from image_data import example, folder_source, jpeg, shard_source, write, write_shard
from parquet_files import parquet_source, write_table
from prepared_data import prepare_images, shapes_source
from tar_shards import tar_source, write_samples

from trainer import errors
from trainer.commands import check_data
from trainer.data import evaluated
from trainer.data.prepared import _Labelled
from trainer.data.sources.source import Source, _new_labels
from trainer.errors import MOST_COMPARED, MOST_TEXTS, Nearest, UsageError, nearest

MILLION = 10**6
IMAGE = jpeg(0)
LONGEST = 600  # characters of a message
PRINTED = 10_000  # by check-data


def names(count: int) -> list[str]:
    return [f"species {number:07d}" for number in range(count)]


class Large(NamedTuple):
    """Data of ``count`` classes, written and opened, with the ``arguments`` for check-data. ``spoil`` gives a record a
    label that no class has, and says what names it.
    """

    write: Callable[[Path, int], object]
    source: Callable[..., Source]
    arguments: Callable[[Path], Sequence[str]]
    spoil: Callable[[Path, int], str]


def labels_of(count: int) -> list[int]:
    return [0, count - 1, 1]


def as_folders(root: Path, count: int) -> None:
    for name in names(count):
        (root / name).mkdir(parents=True)
        (root / name / "a.jpg").write_bytes(IMAGE)
    write(root / names(1)[0] / "b.jpg", jpeg(1))


def stray_folder(root: Path, count: int) -> str:
    (root / "species ?").mkdir()
    return "species ?"


def as_rows(root: Path, count: int) -> None:
    """Each row has a path of its own: the same thousand images in folders that are links to one."""
    for number in range(1000):
        write(root / "images" / f"{number:03d}.jpg", jpeg(number % 5))
    rows = ["path,label,split\n"]
    for number, name in enumerate(names(count)):
        if number % 1000 == 0:
            (root / f"{number // 1000:04d}").symlink_to("images")
        rows.append(f"{number // 1000:04d}/{number % 1000:03d}.jpg,{name},train\n")
    rows.append(f"images/000.jpg,{names(1)[0]},validation\n")
    write(root / "labels.csv", "".join(rows).encode())


def row_without_class(root: Path, count: int) -> str:
    with (root / "labels.csv").open("a") as file:
        file.write("images/001.jpg,species of none,validation\n")
    return f"line {count + 3}, has the label species of none"


def with_names(root: Path, count: int) -> None:
    write(root / "names.txt", "".join(f"{name}\n" for name in names(count)).encode())


def as_few_rows(root: Path, count: int) -> None:
    with_names(root, count)
    rows = ["path,label,split\n"]
    for place, label in enumerate(labels_of(count)):
        write(root / f"{place}.jpg", jpeg(place))
        rows.append(f"{place}.jpg,{names(count)[label]},{'train' if place < 2 else 'validation'}\n")
    write(root / "labels.csv", "".join(rows).encode())


def row_not_listed(root: Path, count: int) -> str:
    with (root / "labels.csv").open("a") as file:
        file.write("3.jpg,species of none,train\n")
    return "line 5, has the label species of none"


def as_examples(root: Path, count: int) -> None:
    with_names(root, count)
    for split in ("train", "validation"):
        write_shard(root / f"{split}-0", [example(jpeg(label % 7), label) for label in labels_of(count)])


def example_out_of_range(root: Path, count: int) -> str:
    write_shard(root / "train-0", [*([example(jpeg(0), 0)] * 2), example(jpeg(0), b"species of none")])
    return "train-0 record 2 has label species of none, which is not a name in data.labels_file"


def named(opener: Callable[..., Source]) -> Callable[..., Source]:
    return lambda root, split="train", *keys: opener(root, split, "data.labels_file=names.txt", *keys)


def as_samples(root: Path, count: int) -> None:
    with_names(root, count)
    for split in ("train", "val"):
        samples = [
            {"__key__": str(place), "jpg": jpeg(place), "txt": names(count)[label]}
            for place, label in enumerate(labels_of(count))
        ]
        write_samples(root / f"{split}-0.tar", samples)


def sample_without_class(root: Path, count: int) -> str:
    texts = (*names(2), "species of none")
    samples = [{"__key__": str(place), "jpg": jpeg(0), "txt": text} for place, text in enumerate(texts)]
    write_samples(root / "train-0.tar", samples)
    return "train-0.tar record 2 (2) has label species of none, which is not a name in data.labels_file"


def columns(root: Path, count: int, labels: Sequence[int]) -> None:
    feature = {"names": names(count), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    for split in ("train", "validation"):
        write_table(root / f"{split}-0.parquet", [jpeg(number) for number in range(3)], labels, metadata)


def as_columns(root: Path, count: int) -> None:
    columns(root, count, labels_of(count))


def row_out_of_range(root: Path, count: int) -> str:
    columns(root, count, [0, 1, count])
    return f"train-0.parquet row 2 has label {count}, but {count} classes are labels 0 to {count - 1}"


def as_prepared(root: Path, count: int) -> None:
    prepare_images(root, [jpeg(number) for number in range(3)], labels_of(count), names(count))


def fewer_names(root: Path, count: int) -> str:
    """The classes that the description names are the first two."""
    (listed,) = root.rglob("label.labels.txt")
    listed.write_text("".join(f"{name}\n" for name in names(2)))
    for described in root.rglob("features.json"):
        described.write_text(described.read_text().replace(f'"numClasses": "{count}"', '"numClasses": "2"'))
    return f"record 1 has label {count - 1}, but 2 classes are labels 0 to 1"


LARGE = {
    "image_folder": Large(
        as_folders, folder_source, lambda root: ["data=image_folder", f"data.root={root}"], stray_folder
    ),
    "table": Large(
        as_rows,
        table,
        lambda root: ["data=table", f"data.file={root}/labels.csv", "data.split_column=split"],
        row_without_class,
    ),
    "table with names": Large(
        as_few_rows,
        named(table),
        lambda root: [
            "data=table",
            f"data.file={root}/labels.csv",
            "data.split_column=split",
            "data.labels_file=names.txt",
        ],
        row_not_listed,
    ),
    "tfrecord": Large(
        as_examples,
        named(shard_source),
        lambda root: ["data=tfrecord", f"data.root={root}", "data.labels_file=names.txt"],
        example_out_of_range,
    ),
    "webdataset": Large(
        as_samples,
        lambda root, split="train", *keys: named(tar_source)(root, split, "data.label_key=txt", *keys),
        lambda root: [
            "data=webdataset",
            f"data.root={root}",
            "data.labels_file=names.txt",
            "data.label_key=txt",
        ],
        sample_without_class,
    ),
    "parquet": Large(as_columns, parquet_source, lambda root: ["data=parquet", f"data.root={root}"], row_out_of_range),
    "tfds": Large(
        as_prepared,
        shapes_source,
        lambda root: ["data=tfds", f"data.root={root}", "data.dataset=tiny_shapes", "data.validation_split=test"],
        fewer_names,
    ),
}


def open_and_read(kind: Large, root: Path) -> None:
    source = kind.source(root)
    source.read(np.arange(min(source.count, 3)))


def opened_checked_and_refused(kind: Large, root: Path, count: int, said: Callable[[], str]) -> None:
    kind.write(root, count)
    source = kind.source(root)
    assert len(source.class_names) == count
    labels = source.labels()
    assert {0, count - 1} <= set(labels.tolist())
    assert len(source.read(np.array([0, 1]))[0]) == 2
    said()
    assert check_data.main(kind.arguments(root)) == 0
    printed = said()
    assert f"{count} classes" in printed
    assert len(printed) < PRINTED
    fault = kind.spoil(root, count)
    with pytest.raises(UsageError) as refused:
        open_and_read(kind, root)
    assert fault in str(refused.value)
    assert len(str(refused.value)) < LONGEST


@pytest.mark.parametrize("name", LARGE)
def test_many_classes_are_opened_checked_and_refused_without_a_list_of_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened_checked_and_refused(LARGE[name], tmp_path / "data", 2_000, lambda: "".join(capsys.readouterr()))


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE)
def test_a_million_classes_are_opened_checked_and_refused_without_a_list_of_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of folders, and of rows that are a class each, 10,000: check-data decodes an image of each."""
    count = 10_000 if name in ("image_folder", "table") else MILLION
    opened_checked_and_refused(LARGE[name], tmp_path / "data", count, lambda: "".join(capsys.readouterr()))


# nothing is compared with every class for each class --------------------------------------------------------------


class Counted(str):
    """A name that counts how often names are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def counted(count: int) -> tuple[Counted, ...]:
    return tuple(Counted(name) for name in names(count))


def labels(stored: Any, others: Any) -> None:
    assert _new_labels(stored, others, others, every=True).tolist() == list(range(len(stored)))


def split_lines(stored: Any, others: Any) -> None:
    sources: Any = {"train": SimpleNamespace(class_names=stored), "test": SimpleNamespace(class_names=others)}
    config: Any = None
    assert check_data._splits_found(config, sources, None) == []


def shards(stored: Any, others: Any) -> None:
    source: Any = SimpleNamespace(class_names=stored, skip_bad=True)
    assert _Labelled(source, "train", others)._label == list(range(len(stored)))


def known_classes(stored: Any, others: Any) -> None:
    trained: Any = SimpleNamespace(class_names=stored, place="checkpoint")
    evaluated._refuse_unknown(trained, None, others)


@pytest.mark.parametrize("match", [labels, split_lines, shards, known_classes])
def test_classes_are_matched_by_name_without_comparing_each_with_all(match: Callable[[Any, Any], None]) -> None:
    one, other = counted(2_000), counted(2_000)
    Counted.compared = 0
    match(one, other)
    assert Counted.compared <= 5 * len(one)


def test_of_too_many_names_none_is_looked_for_and_of_many_only_for_a_few_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert nearest("specie 0000007", names(100)) == "; did you mean species 0000007?"
    assert nearest("specie 0000007", names(MOST_COMPARED + 1)) == ""
    asked: list[str] = []
    monkeypatch.setattr(errors, "nearest", lambda text, known: asked.append(text) or f"; like {text}")
    hints = Nearest(("cat", "dog"))
    found = [hints.to(f"text {number % 100}") for number in range(1000)]
    assert len(asked) == MOST_TEXTS
    assert found[:2] == ["; like text 0", "; like text 1"]
    assert found[100] == "; like text 0"
    assert found[99] == ""


def test_an_index_looks_for_no_name_like_those_of_labels_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would compare a million labels with all names: an hour, with a thousand."""
    as_samples(tmp_path, 9)
    as_rows_of_text(tmp_path)
    sample_without_class(tmp_path, 9)
    monkeypatch.setattr(errors, "nearest", lambda text, known: pytest.fail("it was looked for"))
    assert LARGE["webdataset"].source(tmp_path).count == 3
    assert named(parquet_source)(tmp_path).count == 3


def as_rows_of_text(root: Path) -> None:
    for split in ("train", "validation"):
        write_table(root / f"{split}-0.parquet", [IMAGE] * 3, ["species of none"] * 3)


def test_a_label_of_any_length_is_shown_by_its_begin(tmp_path: Path) -> None:
    long = "x" * 100_000
    as_examples(tmp_path, 3)
    write_shard(tmp_path / "train-0", [example(IMAGE, long.encode())] * 2)
    rows = f"path,label\na.jpg,cat\nb.jpg,{long}\n"
    write(tmp_path / "labels.csv", rows.encode())
    write(tmp_path / "names.txt", b"cat\ndog\n")
    for source in (
        lambda: named(shard_source)(tmp_path).read(np.array([0])),
        lambda: table(tmp_path, "train", "data.split_column=null", "data.labels_file=names.txt"),
    ):
        with pytest.raises(UsageError) as refused:
            source()
        assert f"label {'x' * 60}…" in str(refused.value)
        assert len(str(refused.value)) < LONGEST
