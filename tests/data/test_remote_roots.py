"""Shards on another machine: the same data as here, fetched once, within a bound; and the troubles on the way."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import s3fs
from composing import compose
from image_data import everything, example, make_shards, shard_source, write, write_shard
from parquet_files import make_parquet, parquet_source, write_by_datasets, write_table
from range_server import Server, serving
from s3_server import s3_server
from tar_shards import make_tars, tar_source, write_samples

from trainer.data.order.sampling import Sampling
from trainer.data.pipeline import Batches, Choice, Plan
from trainer.data.remote import remote_path
from trainer.data.sources.source import Source
from trainer.errors import BadRecord, UsageError

RECORDS, LARGE = 60, 100_000  # bytes: an image is one block of the cache, or lies in two


class Kind(NamedTuple):
    make: Callable[[Path], object]
    source: Callable[..., Source]
    write_large: Callable[[Path], object]
    place: str  # of record 1


def large(number: int) -> bytes:
    return random.Random(number).randbytes(LARGE)


def large_shards(root: Path) -> None:
    for split in ("train", "validation"):
        write_shard(root / f"{split}-0", [example(large(number), number % 3) for number in range(RECORDS)])


def large_tars(root: Path) -> None:
    for split in ("train", "val"):
        samples = [{"__key__": f"{number:03d}", "jpg": large(number), "cls": number % 3} for number in range(RECORDS)]
        write_samples(root / f"{split}-0.tar", samples)


def large_parquet(root: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    images = [{"bytes": large(number), "path": None} for number in range(RECORDS)]
    content = {"image": images, "label": [number % 3 for number in range(RECORDS)]}
    root.mkdir(parents=True)
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(content, features=features).to_parquet(str(root / f"{split}-0.parquet"))


pytestmark = pytest.mark.usefixtures("impatient")
KINDS = {
    "tfrecord": Kind(make_shards, shard_source, large_shards, "train-0 record 1"),
    "webdataset": Kind(make_tars, tar_source, large_tars, "train-0.tar record 1"),
    "parquet": Kind(make_parquet, parquet_source, large_parquet, "train-0.parquet row 1"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def large_data(kind: Kind, tmp_path: Path) -> Iterator[Server]:
    kind.write_large(tmp_path / "data")
    with serving(tmp_path / "data") as server:
        yield server


def on_disk(place: Path) -> int:
    return sum(path.stat().st_size for path in (place / "blocks").glob("*/*"))


def blocks_of(server: Server, word: str) -> list[tuple[str, int, int]]:
    return sorted(each for each in server.ranges if word in each[0])


def test_the_data_of_another_machine_are_fetched_once_whoever_reads_them(kind: Kind, large_data: Server) -> None:
    first = kind.source(large_data.url)
    images, labels = everything(first)
    assert images == [large(number) for number in range(RECORDS)]
    assert labels == [number % 3 for number in range(RECORDS)]
    fetched = blocks_of(large_data, "train")
    assert len(fetched) == len(set(fetched))
    assert len(fetched) * (1 << 20) >= RECORDS * LARGE
    again = kind.source(large_data.url)
    assert again.listing == first.listing == kind.source(large_data.root).listing
    order = np.random.default_rng(0).permutation(RECORDS)
    assert again.read(order)[0] == [large(int(number)) for number in order]
    assert blocks_of(large_data, "train") == fetched


def test_data_larger_than_the_cache_are_read_right_and_the_bound_holds(
    kind: Kind, large_data: Server, cache_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = kind.source(large_data.url, "train", "data.disk_cache_gigabytes=0.0045")
    said = capsys.readouterr()
    assert re.search(r"6\.\d MB for training in http://127.0.0.1:\d+; up to 4.5 MB are kept in /", said.out)
    assert re.search(r"warning: 2\d% of the images are fetched again in each epoch, because", said.err)
    assert "data.disk_cache_gigabytes=0.0045 is less than the 6." in said.err
    most = 0
    for seed in range(2):
        for record in np.random.default_rng(seed).permutation(RECORDS):
            assert source.read(np.array([record]))[0] == [large(int(record))]
            most = max(most, on_disk(cache_directory))
    assert 3_000_000 < most <= 4_500_000
    large_data.ranges.clear()
    everything(source)
    fetched = sum(end - begin for _, begin, end in large_data.ranges)
    assert 0 < fetched < RECORDS * LARGE, "what is not kept is read alone"
    assert capsys.readouterr().err == ""


def test_a_disk_that_has_no_room_for_the_data_is_told_before_training(
    kind: Kind, large_data: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.sources.remote_files._free", lambda place: 10**6)
    kind.source(large_data.url)
    assert "has 1.0 MB free, and 6." in capsys.readouterr().err


def test_a_file_that_changes_ends_the_run_with_the_record_and_both_values(kind: Kind, large_data: Server) -> None:
    """A record that is left out would hide it, so ``data.on_bad_record=skip`` does not matter."""
    source = kind.source(large_data.url, "train", "data.on_bad_record=skip")
    (file,) = (path for path in large_data.root.iterdir() if path.name.startswith("train"))
    write(file, file.read_bytes()[:-1] + b"x")
    emptied()
    with pytest.raises(UsageError) as refused:
        source.read(np.array([1]))
    assert not isinstance(refused.value, BadRecord)
    assert f"{large_data.url}/{kind.place}" in str(refused.value)
    assert "cannot be read: it was changed: it had " in str(refused.value)
    assert "ETag" in str(refused.value).partition("and has now")[2]


def test_a_bucket_that_goes_away_ends_the_run_with_the_record_and_what_to_do(kind: Kind, large_data: Server) -> None:
    source = kind.source(large_data.url, "train", "data.on_bad_record=skip")
    emptied()
    large_data.close()
    with pytest.raises(UsageError) as refused:
        source.read(np.array([1]))
    assert not isinstance(refused.value, BadRecord)
    assert f"{large_data.url}/{kind.place}" in str(refused.value)
    assert "cannot be read: 3 attempts in " in str(refused.value)
    assert "check network, address and credentials" in str(refused.value)


def emptied() -> None:
    """The cache of this test, as after an eviction."""
    blocks = remote_path.cache_directory()
    assert blocks is not None
    shutil.rmtree(blocks)


def test_what_is_announced_is_fetched_before_it_is_read(kind: Kind, large_data: Server) -> None:
    source = kind.source(large_data.url)
    emptied()
    large_data.ranges.clear()
    source.expect(np.arange(RECORDS))
    for _ in range(1000):
        if len(blocks_of(large_data, "train")) >= 6:
            break
        time.sleep(0.01)
    assert len(blocks_of(large_data, "train")) >= 6
    assert source.read(np.arange(RECORDS))[0] == [large(number) for number in range(RECORDS)]
    fetched = blocks_of(large_data, "train")
    assert len(fetched) == len(set(fetched)), "none twice"


def test_a_file_that_was_replaced_between_runs_is_indexed_again(kind: Kind, tmp_path: Path) -> None:
    kind.make(tmp_path / "data")
    with serving(tmp_path / "data") as server:
        before = everything(kind.source(server.url))
        names = [path for path in server.root.iterdir() if "train" in path.name]
        first, second = sorted(names)
        content = first.read_bytes()
        write(first, second.read_bytes())
        write(second, content)
        images, labels = everything(kind.source(server.url))
        assert (images, labels) == (before[0][6:] + before[0][:6], before[1][6:] + before[1][:6])


def test_batches_announce_what_comes_in_the_order_in_which_it_comes(
    kind: Kind, large_data: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = kind.source(large_data.url)
    announced: list[int] = []
    monkeypatch.setattr(source, "expect", lambda records: announced.extend(records.tolist()))
    config = compose("data=digits", "train.global_batch_size=4")
    sampling = Sampling(source, config)
    batches = Batches(_plan(source, sampling), pytest.fail)
    source.ahead = 16
    for first in (0, 4, 8):
        batches._announce_from(first)
    assert announced == sampling.records_at(np.arange(28)).tolist()
    batches._open_at(1)
    announced.clear()
    batches._announce_from(4)
    assert announced == sampling.records_at(np.arange(4, 24)).tolist(), "a pipeline that is opened again"


def _plan(source: Source, sampling: Sampling) -> Plan:
    def choose(positions: Any, bad: Any) -> Choice:
        records = sampling.records_at(positions)
        return Choice(positions, records, np.zeros(len(records), bool), np.ones(len(records), bool))

    preprocess = compose().preprocess
    starts = range(0, 1000, 4)
    return Plan(source, starts, np.arange(4), choose, lambda example: example, True, preprocess, 1, None)


def test_a_bucket_of_s3_with_braces_and_a_labels_file_is_read(tmp_path: Path) -> None:
    make_tars(tmp_path / "data")
    write(tmp_path / "data" / "names.txt", b"cat\ndog\nox\n")
    write_by_datasets(tmp_path / "data" / "train-0.parquet", range(9))
    write_by_datasets(tmp_path / "data" / "validation-0.parquet", range(9))
    with s3_server(tmp_path / "log"):
        files = s3fs.S3FileSystem()
        files.mkdir("mine")
        files.put(f"{tmp_path}/data/", "mine/data/", recursive=True)
        overrides = ("data.labels_file=names.txt", "data.train_pattern='train-{000000..000001}.tar'")
        there = tar_source("s3://mine/data", "train", *overrides)
        assert there.class_names == ("cat", "dog", "ox")
        assert everything(there) == everything(tar_source(tmp_path / "data"))
        assert there.place(7) == "s3://mine/data/train-000001.tar record 1 (000007.png)"
        assert everything(parquet_source("s3://mine/data")) == everything(parquet_source(tmp_path / "data"))


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://key:secret@bucket/data", "data.root=s3://… carries a user, password or query"),
        ("https://host/data?token=secret", "data.root=https://… carries a user, password or query"),
        ("file:///secret/data", "is on this machine: data.root=/secret/data"),
        ("simplecache::s3://bucket/data", "is several filesystems in one another"),
        ("s3://", "names no bucket or server"),
    ],
)
def test_a_root_that_is_no_place_or_would_store_a_secret_is_refused(root: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        compose("data=webdataset", f"data.root='{root}'", "data.num_classes=3")
    assert message in str(refused.value)
    assert "token" not in str(refused.value)
    assert "key:" not in str(refused.value)


def test_a_url_is_stored_as_it_is_and_a_path_as_an_absolute_one() -> None:
    assert compose("data=webdataset", "data.root=s3://mine/data/", "data.num_classes=3").data.root == "s3://mine/data"  # type: ignore[attr-defined]
    assert compose("data=webdataset", "data.root=data", "data.num_classes=3").data.root == str(Path("data").absolute())  # type: ignore[attr-defined]


def test_without_a_home_the_place_for_a_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UsageError, match=r"needs a place for a cache .*\nname one: XDG_CACHE_HOME=DIR"):
        tar_source("http://127.0.0.1:1/data")


def test_files_in_folders_come_in_the_order_that_they_have_on_a_disk(tmp_path: Path) -> None:
    for number, name in enumerate(("a/train-0", "a-b/train-1", "a/b/train-2", "a/train-1", "a+/train-0")):
        write_shard(tmp_path / "data" / name, [example(large(number), number % 3)])
    write_shard(tmp_path / "data" / "validation-0", [example(large(9), 0)])
    with serving(tmp_path / "data") as server:
        there = shard_source(server.url, "train", "data.train_pattern='**/train-*'")
        here = shard_source(server.root, "train", "data.train_pattern='**/train-*'")
        assert everything(there) == everything(here)
        assert there.count == 5


def test_row_groups_of_another_machine_are_read_whole_and_their_troubles_are_no_bad_records(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        images = [large(number) for number in range(RECORDS)]
        labels = [number % 3 for number in range(RECORDS)]
        write_table(tmp_path / "data" / f"{split}-0.parquet", images, labels, row_group_size=20)
    with serving(tmp_path / "data") as server:
        keys = ("train", "data.num_classes=3", "data.cache_megabytes=1", "data.on_bad_record=skip")
        source = parquet_source(server.url, *keys)
        assert everything(source) == everything(parquet_source(server.root, *keys))
        again = parquet_source(server.url, *keys)
        assert again.read(np.array([50]))[0] == [large(50)]
        emptied()
        server.close()
        with pytest.raises(UsageError, match="cannot be read: 3 attempts in ") as refused:
            again.read(np.array([3]))
        assert not isinstance(refused.value, BadRecord)
        assert f"{server.url}/train-0.parquet row 3" in str(refused.value)


def test_a_bad_record_of_another_machine_is_named_and_left_out_as_here(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [{"__key__": f"{n:03d}", "jpg": large(n), "cls": n % 3} for n in range(6)]
    del samples[2]["cls"]
    for name in ("train-0.tar", "val-0.tar"):
        write_samples(tmp_path / "data" / name, samples)
    with serving(tmp_path / "data") as server:
        fault = "has no label cls (data.label_key), only jpg (the members of a sample must follow one another"
        for root in (server.url, server.root):
            with pytest.raises(BadRecord) as refused:
                tar_source(root).read(np.array([2]))
            assert str(refused.value).startswith(f"{root}/train-0.tar record 2 (002) {fault}")
        emptied()
        source = tar_source(server.url, "train", "data.on_bad_record=skip")
        requests = server.asked.total()
        assert source.place(2) == f"{server.url}/train-0.tar record 2"
        assert source.place(3) == f"{server.url}/train-0.tar record 3"
        assert server.asked.total() == requests, "a message waits for no other machine"
