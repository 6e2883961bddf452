"""Tables of images in a bucket: read as on this machine, with the images beside them or elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_data import composed, everything, jpeg, png, write
from range_server import serving
from s3_server import Bucket

from trainer.config.arguments import parse_arguments
from trainer.config.override import override
from trainer.config.schema.sources import DataConfig
from trainer.data.evaluated import Trained, open_evaluated
from trainer.data.remote import tree
from trainer.data.sources.source import Source, open_source
from trainer.errors import BadRecord, UsageError
from trainer.fingerprint.behaviour import data_facts

pytestmark = pytest.mark.usefixtures("impatient")


def data(file: object, *overrides: str) -> DataConfig:
    values = {"data.file": str(file), **parse_arguments(overrides)}
    return override(composed("data=table", "data.file=x.csv"), values).data


def source(file: object, split: Any = "train", *overrides: str) -> Source:
    return open_source(data(file, *overrides), split)


def patients(folder: Path) -> Path:
    """Sixty images of twenty patients in three folders, the test set among them."""
    rows = ["path,label,patient,split"]
    for number in range(60):
        name = f"images/{number % 3}/scan {number:03d}.{'png' if number % 2 else 'jpg'}"
        write(folder / name, png(number) if number % 2 else jpeg(number))
        patient = number // 3
        split = "train" if patient < 12 else "validation" if patient < 16 else "test"
        rows.append(f"{name},{('cat', 'dog', 'ox')[patient % 3]},{patient},{split}")
    write(folder / "names.txt", b"cat\ndog\nox\n")
    write(folder / "labels.tsv", "\n".join(rows).replace(",", "\t").encode("utf-16"))
    return write(folder / "labels.csv", "\n".join(rows).encode())


KEYS: dict[str, tuple[str, ...]] = {
    "divided by hashes": (),
    "marked rows": ("data.split_column=split",),
    "groups": ("data.group_column=patient", "data.validation_share=0.3"),
    "folds": ("data.folds=4", "data.fold=1", "data.group_column=patient"),
    "a list of names": ("data.labels_file=names.txt", "data.split_column=split"),
    "classes": ("data.classes=[ox,cat]", "data.train_examples=9", "data.validation_examples=3"),
}


@pytest.mark.parametrize(("where", "asked"), [("HTTP", 1000), ("S3", 0)])
@pytest.mark.parametrize("keys", KEYS)
def test_a_table_of_another_machine_is_the_table_here(
    keys: str, where: str, asked: int, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are asked for one by one, or found in the lists of their folders."""
    monkeypatch.setattr(tree, "ASKED", asked)
    here = tmp_path / "data"
    file = patients(here)
    with serving(here) as server:
        url = server.url if where == "HTTP" else bucket.copy(here)
        for split in ("train", "validation"):
            local, remote = source(file, split, *KEYS[keys]), source(f"{url}/labels.csv", split, *KEYS[keys])
            assert remote.class_names == local.class_names
            assert remote.listing == local.listing
            assert everything(remote) == everything(local)
            assert data_facts(remote, split) == data_facts(local, split)
            assert remote.place(2).replace(url, str(here)) == local.place(2)
            assert remote.ahead > 0
            remote.expect(np.arange(remote.count))
        assert everything(source(f"{url}/labels.tsv", "train", *KEYS[keys])) == everything(
            source(file, "train", *KEYS[keys])
        )


def test_a_table_here_names_images_there_also_by_their_urls(tmp_path: Path, bucket: Bucket) -> None:
    file = patients(tmp_path / "data")
    url = bucket.copy(tmp_path / "data")
    assert everything(source(file, "train", f"data.root={url}")) == everything(source(file))
    urls = write(tmp_path / "urls.csv", file.read_text().replace("images/", f"{url}/images/").encode())
    assert everything(source(urls, "train", f"data.root={url}")) == everything(source(file))
    copied = f"{bucket.copy(tmp_path / 'data')}/labels.csv"
    assert everything(source(copied, "train", f"data.root={tmp_path / 'data'}")) == everything(source(file))


@pytest.mark.parametrize("path", ["/mnt/images/a.jpg", "../other/a.jpg", "s3://other/a.jpg"])
def test_a_row_that_leads_out_of_the_bucket_is_named(path: str, tmp_path: Path, bucket: Bucket) -> None:
    file = patients(tmp_path / "data")
    file.write_text(file.read_text() + f"\n{path},cat,77,train\n")
    url = bucket.copy(tmp_path / "data")
    with pytest.raises(UsageError) as refused:
        source(f"{url}/labels.csv")
    assert f"the first, line 62, names {path}, which is not below {url}/" in str(refused.value)
    skipping = source(f"{url}/labels.csv", "train", "data.on_bad_record=skip")
    assert skipping.count == source(file.parent / "labels.tsv").count + 1, "it is named where it would be read"


def test_files_that_are_missing_or_empty_are_named_and_left_out_as_here(tmp_path: Path, bucket: Bucket) -> None:
    here = tmp_path / "data"
    file = patients(here)
    (here / "images" / "0" / "scan 000.jpg").unlink()
    write(here / "images" / "1" / "scan 001.png", b"")
    url = bucket.copy(here)
    keys = ("train", "data.split_column=split")
    with pytest.raises(UsageError) as remote:
        source(f"{url}/labels.csv", *keys)
    with pytest.raises(UsageError) as local:
        source(file, *keys)
    assert str(remote.value).replace(url, str(here)) == str(local.value)
    assert "2 of 36 files" in str(local.value)
    skipping = source(f"{url}/labels.csv", *keys, "data.on_bad_record=skip")
    assert skipping.listing == source(file, *keys, "data.on_bad_record=skip").listing
    with pytest.raises(UsageError) as bad:
        skipping.read(np.array([1]))
    assert isinstance(bad.value, BadRecord)


def test_an_ending_that_the_table_lacks_is_told(tmp_path: Path, bucket: Bucket) -> None:
    for number in range(6):
        write(tmp_path / "data" / f"{number}.jpg", jpeg(number))
    rows = "".join(f"{number},{'ab'[number % 2]}\n" for number in range(6))
    write(tmp_path / "data" / "labels.csv", f"path,label\n{rows}".encode())
    url = bucket.copy(tmp_path / "data")
    with pytest.raises(UsageError, match=rf"there is {url}/0.jpg: set data.path_suffix=.jpg"):
        source(f"{url}/labels.csv")


@pytest.mark.parametrize("how", ["fail", "skip"])
def test_an_object_that_changed_or_is_gone_ends_the_run_by_name(how: str, tmp_path: Path, bucket: Bucket) -> None:
    patients(tmp_path / "data")
    url = bucket.copy(tmp_path / "data")
    opened = source(f"{url}/labels.csv", "train", f"data.on_bad_record={how}", "data.split_column=split")
    bucket.files.pipe_file(f"{url}/images/0/scan 000.jpg", jpeg(99))
    with pytest.raises(UsageError) as refused:
        opened.read(np.array([0]))
    assert not isinstance(refused.value, BadRecord)
    place = re.escape(f"{url}/images/0/scan 000.jpg (record 0, line 2 of labels.csv) cannot be read: it was changed: ")
    assert re.match(place + r"it had \d+ bytes, ETag \S+, and has now \d+ bytes, ETag ", str(refused.value))
    bucket.files.rm(f"{url}/images/1/scan 001.png")
    with pytest.raises(UsageError) as refused:
        opened.read(np.array([1]))
    assert f"{url}/images/1/scan 001.png (record 1, line 3 of labels.csv) cannot be read: it does not exist" in str(
        refused.value
    )


def test_more_than_a_page_of_files_is_found_in_lists_and_few_files_by_name(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "ASKED", 500)
    content = jpeg(1)
    for number in range(1100):
        write(tmp_path / "data" / "images" / f"{number:04d}.jpg", content)
    for name, count in (("all", 1100), ("few", 10)):
        rows = "".join(f"images/{number:04d}.jpg,{'ab'[number % 2]}\n" for number in range(count))
        write(tmp_path / "data" / f"{name}.csv", f"path,label\n{rows}".encode())
    url = bucket.copy(tmp_path / "data")
    before = len(bucket.lists())
    opened = source(f"{url}/all.csv")
    assert opened.listing == source(tmp_path / "data" / "all.csv").listing
    assert source(f"{url}/all.csv", "validation").count == 110
    assert bucket.lists()[before:] == [f"{tmp_path.name}/images/"] * 2, "two pages, once for both splits"
    assert source(f"{url}/few.csv").count == 8
    assert len(bucket.lists()) == before + 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "labels.csv does not exist"),
        (b"", "labels.csv is empty (0 bytes)"),
        (b"\x1f\x8b\x08", "labels.csv is compressed with gzip; unpack it"),
        (b"file,label\na,b\n", "labels.csv has no column path (data.path_column); its columns are file, label"),
        (b"path,label\n\xff,b\n", "labels.csv is not UTF-8"),
        (b"path,label\n", "labels.csv has no row below its header"),
    ],
)
def test_a_table_that_is_none_is_refused_by_its_url(
    content: bytes | None, message: str, tmp_path: Path, bucket: Bucket
) -> None:
    write(tmp_path / "data" / "other.txt", b"x")
    if content is not None:
        write(tmp_path / "data" / "labels.csv", content)
    url = bucket.copy(tmp_path / "data")
    with pytest.raises(UsageError) as refused:
        source(f"{url}/labels.csv")
    assert f"{url}/{message}" in str(refused.value)


def test_a_table_there_that_was_trained_on_here_is_known_again(tmp_path: Path, bucket: Bucket) -> None:
    file = patients(tmp_path / "data")
    url = bucket.copy(tmp_path / "data")
    trained = source(file)
    here, there = data(file), data(f"{url}/labels.csv")
    found = open_evaluated(Trained(tmp_path, here, trained.class_names, trained.listing), there, None)
    assert (found.split, found.divided) == ("validation", True)
    elsewhere = Trained(tmp_path, there, trained.class_names, "another")
    write(tmp_path / "data" / "again.csv", file.read_bytes())
    noted = open_evaluated(elsewhere, data(tmp_path / "data" / "again.csv"), None)
    assert "images have path and size of images that the network was trained on" in noted.notes[0]
