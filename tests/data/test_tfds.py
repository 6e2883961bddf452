"""Data sets that tensorflow-datasets has prepared."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_data import everything
from prepared_data import CLASSES, encoded, prepare, tfds_source

from trainer.errors import BadRecord, NoSuchSplit, UsageError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tfds")
    prepare(place)
    return place


def test_prepared_images_come_as_they_are_encoded_and_classes_from_the_label_feature(data_dir: Path) -> None:
    train, test = tfds_source(data_dir), tfds_source(data_dir, "validation")
    assert train.class_names == test.class_names == CLASSES
    images, labels = everything(train)
    # tensorflow-datasets shuffles by a hash of the key when it prepares
    number = {encoded(number): number for number in range(30)}
    assert sorted(number[image] for image in images) == list(range(30))
    assert labels == [number[image] % 3 for image in images]
    assert sorted(everything(test)[0]) == sorted(encoded(number) for number in range(100, 112))
    again = train.read(np.array([29, 3, 3]))
    assert again[0] == [images[29], images[3], images[3]]
    assert train.labels().tolist() == labels
    assert "tiny_pets-train.array_record-00000-of-00001 record 4" in train.place(4)


def test_a_part_of_a_split_in_the_notation_of_tensorflow_datasets(data_dir: Path) -> None:
    whole = everything(tfds_source(data_dir))[0]
    first = tfds_source(data_dir, "train", "data.train_split='train[:80%]'")
    rest = tfds_source(data_dir, "validation", "data.validation_split='train[80%:]'")
    assert everything(first)[0] + everything(rest)[0] == whole
    assert rest.place(0).endswith("record 24")
    assert first.listing != tfds_source(data_dir).listing
    versioned = tfds_source(data_dir, "train", "data.dataset='tiny_pets:1.0.0'")
    assert everything(versioned)[0] == whole


def test_a_test_set_is_a_split_that_no_other_reads(data_dir: Path) -> None:
    held_out = tfds_source(data_dir, "test", "data.validation_split='train[80%:]'", "data.train_split='train[:80%]'")
    assert sorted(everything(held_out)[0]) == sorted(encoded(number) for number in range(100, 112))
    with pytest.raises(NoSuchSplit, match=r"data.test_split=test has records of data.validation_split=test, so they"):
        tfds_source(data_dir, "test")
    with pytest.raises(NoSuchSplit, match=r"data.test_split=train\[50%:\] has records of data.train_split=train, so"):
        tfds_source(data_dir, "test", "data.test_split='train[50%:]'")
    with pytest.raises(
        NoSuchSplit, match=r"data.test_split=held_out is not a split of tiny_pets/1.0.0, which has test"
    ):
        tfds_source(data_dir, "test", "data.test_split=held_out")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.root=/nowhere",), "data.root=/nowhere does not exist, so data.dataset=tiny_pets is not prepared there"),
        (
            ("data.dataset=tiny_pet",),
            "tiny_pets; did you mean tiny_pets?\nto prepare it: python",
        ),
        (("data.dataset='tiny_pets:2.0.0'",), "data.dataset=tiny_pets:2.0.0 is not prepared in data.root="),
        (
            ("data.train_split=trian",),
            "data.train_split=trian is not a split of tiny_pets/1.0.0, which has test, train",
        ),
        (("data.train_split='train[0:0]'",), "data.train_split=train[0:0] of tiny_pets/1.0.0 has no record"),
        (
            ("data.image_key=img",),
            "data.image_key=img is not a feature of tiny_pets/1.0.0, which has image, label, name",
        ),
        (("data.label_key=name",), "data.label_key=name of tiny_pets/1.0.0 is Text, not ClassLabel"),
        (("data.image_key=label",), "data.image_key=label of tiny_pets/1.0.0 is ClassLabel, not Image"),
    ],
)
def test_what_is_not_prepared_as_expected_is_refused(data_dir: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        tfds_source(data_dir, "train", *overrides)
    assert message in str(refused.value)


def test_files_without_random_access_are_refused_with_the_command_that_makes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is run where the data set of this test is known, as one of tensorflow-datasets' own is anywhere."""
    data_dir = tmp_path / "it's here"
    described = prepare(data_dir, "tfrecord") / "dataset_info.json"
    described.write_text(described.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(UsageError) as refused:
        tfds_source(data_dir)
    assert "tiny_pets/1.0.0 is prepared as riegeli, which has no random access" in str(refused.value)
    command = str(refused.value).splitlines()[-1].removeprefix("to prepare it: ")
    python, option, code, *arguments = shlex.split(command)
    assert (python, option, arguments) == ("python", "-c", ["tiny_pets", str(data_dir)])
    monkeypatch.setattr(sys, "argv", ["-c", arguments[0], str(tmp_path / "other")])
    exec(code, {})
    assert tfds_source(tmp_path / "other").count == 30


def test_files_in_tfrecord_are_read_at_random(data_dir: Path, tmp_path: Path) -> None:
    prepare(tmp_path, "tfrecord")
    whole, arrayed = tfds_source(tmp_path), tfds_source(data_dir)
    assert everything(whole) == everything(arrayed)
    last = tfds_source(tmp_path, "train", "data.train_split='train[80%:]'")
    assert everything(last) == tuple(each[24:] for each in everything(whole))
    assert last.place(0).endswith("tiny_pets-train.tfrecord-00000-of-00001 record 24")
    assert whole.read(np.array([29, 3, 3]))[1].tolist() == [everything(whole)[1][record] for record in (29, 3, 3)]


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_files_in_parquet_are_read_at_random(
    compression: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare(tmp_path, "parquet")
    if compression == "none":
        for path in prepared.glob("*.parquet-*"):
            pq.write_table(pq.read_table(path), path, compression="none", use_dictionary=False)
    whole, arrayed = tfds_source(tmp_path), tfds_source(data_dir)
    assert everything(whole) == everything(arrayed)
    assert whole.labels().tolist() == arrayed.labels().tolist()
    last = tfds_source(tmp_path, "train", "data.train_split='train[80%:]'")
    assert everything(last) == tuple(each[24:] for each in everything(whole))
    assert last.place(0).endswith("tiny_pets-train.parquet-00000-of-00001 record 24")
    assert whole.read(np.array([29, 3, 3]))[1].tolist() == [everything(whole)[1][record] for record in (29, 3, 3)]
    said = capsys.readouterr().out
    assert ("are compressed or in dictionaries, so they are read in row groups of up to 30 images" in said) == (
        compression == "snappy"
    )


def test_a_parquet_file_of_tensorflow_datasets_that_lacks_rows_is_refused(tmp_path: Path) -> None:
    (path,) = prepare(tmp_path, "parquet").glob("*train.parquet-*")
    pq.write_table(pq.read_table(path).slice(0, 29), path)
    with pytest.raises(
        UsageError, match=r"train.parquet-00000-of-00001 has 29 rows, but tiny_pets should have 30 there"
    ):
        tfds_source(tmp_path)


def test_missing_and_damaged_files_are_named(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*train.array_record*")
    source = tfds_source(tmp_path / "data")
    content = bytearray(file.read_bytes())
    content[20_000] ^= 255  # in the last images; the rest of the file is padding
    file.write_bytes(content)
    with pytest.raises(BadRecord, match=r"train.array_record-00000-of-00001 record 2\d cannot be read: Corrupted "):
        everything(source)
    file.unlink()
    with pytest.raises(UsageError, match=r"is missing, so tiny_pets is not complete in data.root="):
        tfds_source(tmp_path / "data")


def test_without_the_extra_the_command_that_installs_it_is_named(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.core", None)
    with pytest.raises(UsageError, match=r"pip install 'resumable-trainer\[tfds\]'"):
        tfds_source(data_dir)
