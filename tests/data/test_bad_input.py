"""What becomes of bad input, tried on every source that reads what people bring: the table in docs/data.md.

Each cell breaks good data in one way, and uses it as training does. What is said must name the file and the record,
be short, and say what to do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from every_source import COUNT, IMAGES, KINDS, Kind, table
from image_data import CLASSES, example, jpeg, narrow, png, shard_source, write, write_shard
from parquet_files import parquet_source, write_table
from prepared_data import prepare_images, shapes_source
from range_server import serving
from tar_shards import plain_tar, tar_source

from trainer.config.schema import Config
from trainer.data.batches import evaluation_batches
from trainer.data.remote import remote_path
from trainer.data.sources.source import Source
from trainer.errors import BadRecord, UsageError
from trainer.fingerprint.behaviour import data_facts

pytestmark = pytest.mark.usefixtures("impatient")

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
AT_START, AT_READ, ENDS, USED = "at the start", "when it is read", "ends the run", "used"
OTHER, OF_FEW = "refused by a resume", "refused, if one of 16"
ADVICE = re.compile(
    r"\b(write|copy|replace|remove|correct|bring|add|rename|set|check|left out|list|save|must not change|prepare"
    r"|must name|see data)\b"
)
LONGEST = 800  # characters of a message
BAD = 8  # the record that is spoiled
FIRST = (("000.jpg", jpeg(0)), ("000.cls", b"0"))  # members of a sample


def as_tfds(root: Path, images: Sequence[bytes]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    prepare_images(root, images)


SOURCES = {**KINDS, "tfds": Kind(as_tfds, shapes_source, lambda number: number)}


class Said(NamedTuple):
    """When an error came, and what it said."""

    when: str
    message: str


def used(open_source: Callable[[], Source], meanwhile: Callable[[], object] = lambda: None) -> Said:
    """Open data and decode every record of it, as training and evaluation do; ``meanwhile`` comes in between."""
    try:
        source = open_source()
    except UsageError as error:
        return Said(AT_START, str(error))
    meanwhile()
    try:
        for _ in evaluation_batches(source, settings()):
            pass
    except BadRecord as error:
        return Said(AT_READ, str(error))
    except UsageError as error:
        return Said(ENDS, str(error))
    return Said(USED, "")


def settings() -> Config:
    return narrow("data=tfrecord", "data.root=x", "data.num_classes=3")


def cell(said: Said, *names: str) -> str:
    """What the table has to say, if the message is a good one."""
    for name in names:
        assert name in said.message, said
    assert ADVICE.search(said.message), said
    assert len(said.message) < LONGEST, said
    return said.when


def training_file(root: Path, number: int) -> Path:
    """The file that holds the image of that number for training, or the image alone."""
    found = [path for path in root.rglob("*") if path.is_file() and "train" in str(path.relative_to(root))]
    shards = [path for path in found if path.suffix not in (".json", ".npz")]
    (file,) = shards if len(shards) == 1 else [path for path in shards if path.stem == f"{number:03d}"]
    return file


# kinds of bad input ------------------------------------------------------------------------------------------------


def truncated(name: str, root: Path) -> str:
    SOURCES[name].write(root, IMAGES)
    file = training_file(root, BAD)
    os.truncate(file, file.stat().st_size // 2)
    return cell(used(lambda: SOURCES[name].source(root)), file.name)


def missing(name: str, root: Path) -> str:
    """Of a folder a file that was there when the run began: nothing else says that there was one."""
    SOURCES[name].write(root, IMAGES)
    file = training_file(root, BAD)
    if name == "image_folder":
        return cell(
            used(lambda: SOURCES[name].source(root), file.unlink), file.name, f"record {SOURCES[name].record(BAD)}"
        )
    file.unlink()
    return cell(used(lambda: SOURCES[name].source(root)), file.name if name in ("table", "tfds") else str(root))


def changed_in_use(name: str, root: Path) -> str:
    """By other images of other sizes, in the same file."""
    SOURCES[name].write(root, IMAGES)
    file = training_file(root, BAD)
    SOURCES[name].write(root / "other", [png(number) * 2 for number in range(500, 500 + COUNT)])
    other = training_file(root / "other", BAD).read_bytes()

    def overwrite() -> None:
        with file.open("r+b") as opened:
            opened.write(other[: file.stat().st_size])
            opened.truncate(file.stat().st_size - 1)

    return cell(used(lambda: SOURCES[name].source(root), overwrite), file.name)


def changed_between_runs(name: str, root: Path) -> str:
    SOURCES[name].write(root, IMAGES)
    before = data_facts(SOURCES[name].source(root), "train")
    for changed, found in ((20, OTHER), (0, OF_FEW)):  # the first image is always looked at
        SOURCES[name].write(root, [*IMAGES[:changed], jpeg(999), *IMAGES[changed + 1 :]])
        if data_facts(SOURCES[name].source(root), "train") != before:
            return found
    return "not noticed"


def folder_of_bytes(root: Path) -> str:
    os.mkdir(os.fsencode(root) + b"/train/\xff")
    return cell(used(lambda: SOURCES["image_folder"].source(root)), r"train/\xff")


def list_in_json(root: Path) -> str:
    rows = [{"path": f"train/{number:03d}.jpg", "label": CLASSES[number % 3]} for number in range(9)]
    rows[BAD]["label"] = [1, 2]  # type: ignore[assignment]
    write(root / "labels.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    keys = (f"data.file={root}/labels.jsonl", "data.split_column=null")
    return cell(used(lambda: table(root, "train", *keys)), "labels.jsonl", f"line {BAD + 1}")


def float_in_example(root: Path) -> str:
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg(1)])),
        "image/class/label": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0])),
    }
    record = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    write_shard(root / "train-0", [example(jpeg(0), 0), record])
    return cell(used(lambda: shard_source(root)), "train-0 record 1")


def word_in_cls(root: Path) -> str:
    plain_tar(
        root / "train-0.tar", [("000.jpg", jpeg(0)), ("000.cls", b"0"), ("001.jpg", jpeg(1)), ("001.cls", b"cat")]
    )
    return cell(used(lambda: tar_source(root)), "train-0.tar record 1 (001)", "label cat")


def column_of_floats(root: Path) -> str:
    write_table(root / "train-0.parquet", IMAGES[:3], pa.array([0.0, 1.5, 2.0]))
    return cell(used(lambda: SOURCES["parquet"].source(root)), "train-0.parquet", "double")


def feature_of_text(root: Path) -> str:
    return cell(used(lambda: shapes_source(root, "train", "data.label_key=name")), "data.label_key=name", "Text")


WRONG_TYPES: dict[str, Callable[[Path], str]] = {
    "image_folder": folder_of_bytes,
    "table": list_in_json,
    "tfrecord": float_in_example,
    "webdataset": word_in_cls,
    "parquet": column_of_floats,
    "tfds": feature_of_text,
}


def folder_of_validation(root: Path) -> str:
    write(root / "val" / "elk" / "000.jpg", jpeg(0))
    return cell(used(lambda: SOURCES["image_folder"].source(root)), "elk")


def row_of_validation(root: Path) -> str:
    file = root / "labels.csv"
    file.write_text(file.read_text().replace("validation/008.jpg,ox", "validation/008.jpg,elk"))
    return cell(used(lambda: table(root, "validation")), "labels.csv", "line 70", "elk")


def fourth_in_example(root: Path) -> str:
    write_shard(root / "train-0", [example(jpeg(0), 0), example(jpeg(1), 3)])
    return cell(used(lambda: shard_source(root)), "train-0 record 1", "label 3")


def fourth_in_cls(root: Path) -> str:
    plain_tar(root / "train-0.tar", [*FIRST, ("001.jpg", jpeg(1)), ("001.cls", b"3")])
    return cell(used(lambda: tar_source(root)), "train-0.tar record 1 (001)", "label 3")


def fourth_in_column(root: Path) -> str:
    write_table(root / "train-0.parquet", IMAGES[:3], [0, 1, 3])
    return cell(used(lambda: SOURCES["parquet"].source(root)), "train-0.parquet row 2", "label 3")


def name_that_was_removed(root: Path) -> str:
    (names,) = root.rglob("label.labels.txt")
    names.write_text("cat\ndog\n")
    (features,) = root.rglob("features.json")
    features.write_text(features.read_text().replace('"numClasses": "3"', '"numClasses": "2"'))
    return cell(used(lambda: shapes_source(root)), "tiny_shapes-train", "record 2", "label 2")


UNKNOWN_LABELS: dict[str, Callable[[Path], str]] = {
    "image_folder": folder_of_validation,
    "table": row_of_validation,
    "tfrecord": fourth_in_example,
    "webdataset": fourth_in_cls,
    "parquet": fourth_in_column,
    "tfds": name_that_was_removed,
}


def spoiled(ways: dict[str, Callable[[Path], str]]) -> Callable[[str, Path], str]:
    """Good data, of which something is replaced in the way of its source."""

    def tried(name: str, root: Path) -> str:
        SOURCES[name].write(root, IMAGES)
        return ways[name](root)

    return tried


def empty_file(name: str, root: Path) -> str:
    SOURCES[name].write(root, IMAGES)
    file = training_file(root, BAD)
    os.truncate(file, 0)
    return cell(used(lambda: SOURCES[name].source(root)), file.name)


def bucket_goes_away(name: str, root: Path) -> str:
    """A record that is left out would hide it, so ``data.on_bad_record=skip`` does not matter."""
    if name == "tfds":
        prepare_images(root, IMAGES, file_format="tfrecord")
    else:
        SOURCES[name].write(root, IMAGES)
    with serving(root) as server:
        source = SOURCES[name].source(server.url, "train", "data.on_bad_record=skip")
        blocks = remote_path.cache_directory()
        assert blocks is not None
        shutil.rmtree(blocks, ignore_errors=True)
        server.close()
        with pytest.raises(UsageError) as refused:
            source.read(np.array([BAD]))
        assert not isinstance(refused.value, BadRecord)
        place = source.place(BAD).partition(" (")[0]
        return cell(Said(ENDS, str(refused.value)), place, "check network, address and credentials")


INPUT: dict[str, Callable[[str, Path], str]] = {
    "cut off": truncated,
    "missing": missing,
    "changed in use": changed_in_use,
    "changed between runs": changed_between_runs,
    "a label of another type": spoiled(WRONG_TYPES),
    "an unknown label": spoiled(UNKNOWN_LABELS),
    "an empty file": empty_file,
    "a bucket that goes away": bucket_goes_away,
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_table_of_bad_input_has_what_is_found(name: str, tmp_path: Path) -> None:
    found = {what: tried(name, tmp_path / what.replace(" ", "-")) for what, tried in INPUT.items()}
    print(found)
    _, _, table = DOCUMENT.read_text().partition("<!-- bad input -->")
    head, _, *rows = table.partition("\n\n")[0].strip().splitlines()
    assert [each.strip() for each in head.strip("|").split("|")[1:-1]] == list(INPUT)
    (row,) = [each for each in rows if each.startswith(f"| `{name}` |")]
    *cells, many = [each.strip() for each in row.strip("|").split("|")[1:]]
    assert cells == list(found.values())
    assert many == (f"{USED}, 10⁴" if name == "image_folder" else USED)  # tests/data/test_many_classes.py tries them


# files that are empty in other ways ---------------------------------------------------------------------------------


def no_row(root: Path) -> None:
    write_table(root / "train-0.parquet", pa.array([], pa.binary()), pa.array([], pa.int64()))


def no_member(root: Path) -> None:
    plain_tar(root / "train-0.tar", [])


EMPTY: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # what is empty: the source, how it is made so, what is said
    "a table": ("table", lambda root: write(root / "labels.csv", b""), "labels.csv is empty (0 bytes)"),
    "a table without a row": (
        "table",
        lambda root: write(root / "labels.csv", b"path,label,split\n"),
        "has no row below",
    ),
    "a table of blank lines": (
        "table",
        lambda root: write(root / "labels.csv", b"\n\n\n"),
        "begins with an empty line",
    ),
    "an archive": ("webdataset", no_member, "have no sample with an image"),
    "a Parquet file without a row": ("parquet", no_row, "have no row: "),
    "a shard for validation": (
        "tfrecord",
        lambda root: write(root / "validation-0", b""),
        "validation-0 is empty",
    ),
    "a class folder": (
        "image_folder",
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        "train/dog is a class folder without an image",
    ),
    "the description of a data set": (
        "tfds",
        lambda root: [path.write_bytes(b"") for path in root.rglob("dataset_info.json")],
        "dataset_info.json",
    ),
    "the features of a data set": (
        "tfds",
        lambda root: [path.write_bytes(b"") for path in root.rglob("features.json")],
        "features.json",
    ),
    "the names of its classes": (
        "tfds",
        lambda root: [path.write_bytes(b"") for path in root.rglob("label.labels.txt")],
        "label.labels.txt names no class; copy it again, or to prepare it",
    ),
}


@pytest.mark.parametrize("what", EMPTY)
def test_what_is_empty_is_refused_by_name(what: str, tmp_path: Path) -> None:
    name, make, message = EMPTY[what]
    SOURCES[name].write(tmp_path, IMAGES)
    make(tmp_path)
    said = used(lambda: SOURCES[name].source(tmp_path))
    assert cell(said, message, str(tmp_path)) == AT_START


@pytest.mark.parametrize("name", ["tfrecord", "webdataset", "parquet", "table"])
@pytest.mark.parametrize("text", [b"", b"\n\n", b"[]", b"{}"])
def test_a_labels_file_without_a_name_is_refused(name: str, text: bytes, tmp_path: Path) -> None:
    SOURCES[name].write(tmp_path, IMAGES)
    write(tmp_path / "names.txt", text)
    opener = {"tfrecord": shard_source, "webdataset": tar_source, "parquet": parquet_source, "table": table}[name]
    with pytest.raises(UsageError, match=r"names.txt has 0 (lines|entries), but at least two classes are needed"):
        opener(tmp_path, "train", "data.labels_file=names.txt")
