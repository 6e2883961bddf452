"""Images that are single objects of a bucket: the same data as on this machine, listed once; and troubles by name."""

from __future__ import annotations

import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_data import everything, folder_source, jpeg, make_splits, make_tree, png, write
from range_server import Server, serving
from s3_server import Bucket

from trainer.data.remote import remote_path
from trainer.data.remote.block_cache import taken
from trainer.data.sources.source import Source
from trainer.errors import BadRecord, NoSuchSplit, UsageError
from trainer.fingerprint.behaviour import data_facts

pytestmark = pytest.mark.usefixtures("impatient")


def as_splits(root: Path) -> None:
    make_splits(root)
    make_tree(root / "test", 2)
    write(root / "raw" / "a.jpg", jpeg(1))
    write(root / "notes.txt", b"of the splits")


def as_tree(root: Path) -> None:
    make_tree(root, 12)
    write(root / "cat" / "deep" / "er" / "ä b.JPG", jpeg(77))
    write(root / "dog" / "notes.txt", b"not an image")
    write(root / "dog" / "photo.jpeg2", jpeg(78))
    write(root / "ox" / ".hidden.jpg", jpeg(79))
    write(root / "@eaDir" / "cat.jpg", jpeg(80))
    write(root / "README", b"not an image")


def as_unnamed(root: Path) -> None:
    make_tree(root, 6)
    for number in range(5):
        write(root / "cat" / f"image{number}", png(300 + number))
    write(root / "cat" / "LICENSE", b"not an image")


def as_patients(root: Path) -> None:
    for label, name in enumerate(("healthy", "ill")):
        for number in range(24):
            write(root / name / f"p{number % 8}_{number}.png", png(100 * label + number))


LAYOUTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "splits": (as_splits, ()),
    "a tree": (as_tree, ()),
    "a tree, divided by paths": (as_tree, ("data.split_by=path", "data.validation_share=0.3")),
    "names left out": (as_tree, ("data.ignore=['00*.png',deep]",)),
    "classes chosen": (as_tree, ("data.classes=[ox,cat]",)),
    "a part of the images": (as_tree, ("data.train_examples=7", "data.validation_examples=2")),
    "folds": (as_tree, ("data.folds=3", "data.fold=1")),
    "endings": (as_tree, ("data.extensions=[jpg,jpeg2]",)),
    "no endings": (as_unnamed, ()),
    "no endings, ignored": (as_unnamed, ("data.without_extension=ignore",)),
    "groups": (as_patients, ("data.group_pattern='(p\\d)_'", "data.validation_share=0.25")),
    "groups in folds": (as_patients, ("data.group_pattern='(p\\d)_'", "data.folds=4", "data.fold=2")),
    "splits as classes": (as_splits, ("data.layout=classes", "data.ignore=[raw,notes.txt]")),
}


def opened(root: object, split: str, overrides: tuple[str, ...]) -> Source | str:
    """A split, or why there is none."""
    try:
        return folder_source(root, split, *overrides)
    except NoSuchSplit as error:
        return str(error)


@pytest.mark.parametrize("where", ["HTTP", "S3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_machine_is_the_folder_here(
    where: str, layout: str, tmp_path: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    make, overrides = LAYOUTS[layout]
    here = tmp_path / "data"
    make(here)
    with serving(here) as server:
        url = server.url if where == "HTTP" else bucket.copy(here)
        for split in ("train", "validation", "test"):
            local = opened(here, split, overrides)
            said = capsys.readouterr()
            remote = opened(url, split, overrides)
            if isinstance(local, str) or isinstance(remote, str):
                assert isinstance(remote, str)
                assert isinstance(local, str)
                assert remote.replace(url, str(here)) == local
                continue
            lines = capsys.readouterr()
            notes = [each for each in lines.out.splitlines() if " are kept in " not in each]
            assert [each.replace(url, str(here)) for each in notes] == said.out.splitlines()
            assert lines.err.replace(url, str(here)) == said.err
            assert remote.class_names == local.class_names
            assert remote.listing == local.listing
            assert everything(remote) == everything(local)
            assert data_facts(remote, split) == data_facts(local, split)  # type: ignore[arg-type]
            places = [remote.place(record).replace(url, str(here)) for record in range(remote.count)]
            assert places == [local.place(record) for record in range(local.count)]


def an_image_beside_the_classes(root: Path) -> None:
    write(make_tree(root, 3) / "stray.jpg", jpeg(1))


def an_empty_image(root: Path) -> None:
    write(make_tree(root, 3) / "dog" / "empty.jpg", b"")


def one_class(root: Path) -> None:
    make_tree(root, 3, ("cat",))


def a_class_without_images(root: Path) -> None:
    write(make_tree(root, 3) / "fox" / "fox.txt", b"none yet")


def a_folder_between(root: Path) -> None:
    make_tree(root / "archive" / "archive", 3)


def splits_within_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        make_tree(root / name, 2, ("train", "test"))


def other_classes_for_validation(root: Path) -> None:
    make_tree(root / "train", 3)
    make_tree(root / "val", 3, ("cat", "dog", "fox"))


def no_validation(root: Path) -> None:
    make_tree(root / "train", 3)


def two_folders_for_validation(root: Path) -> None:
    make_splits(root)
    make_tree(root / "valid", 2)


FAULTS = (
    an_image_beside_the_classes,
    an_empty_image,
    one_class,
    a_class_without_images,
    a_folder_between,
    splits_within_classes,
    other_classes_for_validation,
    no_validation,
    two_folders_for_validation,
)


@pytest.mark.parametrize("make", FAULTS)
def test_a_folder_of_another_machine_is_refused_for_what_it_is_refused_here(
    make: Any, tmp_path: Path, bucket: Bucket
) -> None:
    here = tmp_path / "data"
    make(here)
    url = bucket.copy(here)
    with pytest.raises(UsageError) as local:
        folder_source(here)
    with pytest.raises(UsageError) as remote:
        folder_source(url)
    assert str(remote.value).replace(url, str(here)) == str(local.value)


def test_a_folder_that_a_console_has_made_is_a_class_without_an_image(tmp_path: Path, bucket: Bucket) -> None:
    url = bucket.copy(make_tree(tmp_path / "data", 3))
    bucket.files.call_s3("put_object", Bucket="mine", Key=f"{tmp_path.name}/cat/", Body=b"")
    assert folder_source(url).class_names == ("cat", "dog", "ox")
    bucket.files.call_s3("put_object", Bucket="mine", Key=f"{tmp_path.name}/fox/", Body=b"")
    with pytest.raises(UsageError, match=f"^{url}/fox is a class folder without an image"):
        folder_source(url)


@pytest.mark.parametrize("key", ["cat//1.jpg", "cat/../1.jpg", "cat/./1.jpg"])
def test_an_object_that_no_disk_could_hold_is_refused_by_name(key: str, tmp_path: Path, bucket: Bucket) -> None:
    url = bucket.copy(make_tree(tmp_path / "data", 3))
    bucket.files.call_s3("put_object", Bucket="mine", Key=f"{tmp_path.name}/{key}", Body=jpeg(1))
    with pytest.raises(UsageError, match=f"^{url}/cat has an object '.?.?' in a folder that no disk can have"):
        folder_source(url)


def test_a_root_that_does_not_exist_is_named(bucket: Bucket) -> None:
    for url in ("s3://mine/nowhere", "s3://nobodys/data"):
        with pytest.raises(UsageError, match=f"^{url} does not exist"):
            folder_source(url)


def test_a_folder_of_several_pages_is_listed_once_for_both_splits(tmp_path: Path, bucket: Bucket) -> None:
    """S3 gives a thousand names a page."""
    here = tmp_path / "data"
    content = jpeg(1)
    for number in range(1100):
        write(here / ("cat" if number < 1060 else "dog") / f"{number:05d}.jpg", content)
    url = bucket.copy(here)
    before = len(bucket.lists())
    training, validation = folder_source(url), folder_source(url, "validation")
    assert (training.count, validation.count) == (990, 110)
    assert (training.listing, validation.listing) == (
        folder_source(here).listing,
        folder_source(here, "validation").listing,
    )
    place = f"{tmp_path.name}/"
    assert sorted(bucket.lists()[before:]) == [place, f"{place}cat/", f"{place}cat/", f"{place}dog/"]
    last = np.array([training.count - 1])
    assert training.read(last)[0] == [content]
    again = folder_source(url)
    assert len(bucket.lists()) == before + 8, "whoever opens the data anew sees what is there now"
    assert again.count == 990


def test_each_image_is_one_request_and_then_lies_on_this_disk(tmp_path: Path) -> None:
    with serving(make_splits(tmp_path / "data", train=10)) as server:
        source = folder_source(server.url)
        server.ranges.clear()
        order = np.random.default_rng(0).permutation(source.count)
        first = source.read(order)
        assert sorted(name for name, _, _ in server.ranges) == sorted(
            str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data" / "train").rglob("*.*")
        )
        assert source.read(order)[0] == first[0]
        assert folder_source(server.url).read(order)[0] == first[0]
        assert len(server.ranges) == source.count, "none twice"


def test_an_image_of_s3_is_one_question_that_the_server_answers_for_this_object_alone(
    tmp_path: Path, bucket: Bucket
) -> None:
    source = folder_source(bucket.copy(make_splits(tmp_path / "data")))
    before = len(bucket.requests())
    everything(source)
    assert [line.split()[0] for line in bucket.requests()[before:]] == ["GET"] * source.count


def test_images_larger_than_the_cache_are_read_right_and_the_bound_holds(
    tmp_path: Path, cache_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [random.Random(number).randbytes(100_000) for number in range(90)]
    for number, image in enumerate(images):
        write(tmp_path / "data" / "train" / "abc"[number // 30] / f"{number:02d}.jpg", image)
    make_tree(tmp_path / "data" / "val", 1, ("a", "b", "c"))
    with serving(tmp_path / "data") as server:
        source = folder_source(server.url, "train", "data.disk_cache_gigabytes=0.007")
        said = capsys.readouterr()
        assert "9.2 MB for training in " in said.out, "as many pages of a disk as the images take"
        assert "24% of the images are fetched again in each epoch" in said.err
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(source.count)
            assert source.read(order)[0] == [images[record] for record in order]
            blocks = list((cache_directory / "blocks").glob("*/*"))
            assert sum(taken(path.stat().st_size) for path in blocks) <= 7_000_000
        assert len(blocks) > 20
        server.ranges.clear()
        everything(source)
        assert asked(server) == 90 - len(blocks), "what is not kept is read alone"


def test_what_is_announced_is_fetched_before_it_is_read(tmp_path: Path) -> None:
    with serving(make_splits(tmp_path / "data", train=10)) as server:
        source = folder_source(server.url)
        assert source.ahead > 0
        server.ranges.clear()
        source.expect(np.arange(source.count))
        for _ in range(1000):
            if len(server.ranges) == source.count:
                break
            time.sleep(0.01)
        assert len(server.ranges) == source.count
        assert source.read(np.arange(source.count))[0] == everything(folder_source(server.root))[0]
        assert len(server.ranges) == source.count


@pytest.mark.parametrize("how", ["fail", "skip"])
def test_an_object_that_changed_or_is_gone_ends_the_run_by_name(how: str, tmp_path: Path, bucket: Bucket) -> None:
    """A record that is left out would hide it, so ``data.on_bad_record=skip`` does not matter."""
    url = bucket.copy(make_splits(tmp_path / "data"))
    source = folder_source(url, "train", f"data.on_bad_record={how}")
    place = f"mine/{tmp_path.name}/train/cat"
    old = bucket.files.cat(f"{place}/000.jpg")
    bucket.files.pipe_file(f"{place}/000.jpg", old[:-1] + b"x")
    with pytest.raises(UsageError) as refused:
        source.read(np.array([0]))
    assert not isinstance(refused.value, BadRecord)
    size = f"{len(old):,} bytes, ETag"
    wanted = rf'{url}/train/cat/000.jpg \(record 0\) cannot be read: it was changed: it had {size} "\w+", and has now '
    assert re.match(rf'{wanted}{size} "\w+"; data must not change while it is in use', str(refused.value))
    bucket.files.rm(f"{place}/001.png")
    with pytest.raises(UsageError) as refused:
        source.read(np.array([1]))
    assert not isinstance(refused.value, BadRecord)
    assert f"{url}/train/cat/001.png (record 1) cannot be read: it does not exist (any more)" in str(refused.value)
    bucket.files.pipe_file(f"{place}/000.jpg", old)
    assert source.read(np.array([0]))[0] == [old], "the very bytes are the same object"


def test_an_image_that_is_on_this_disk_is_that_of_the_object_now_there(tmp_path: Path, bucket: Bucket) -> None:
    url = bucket.copy(make_splits(tmp_path / "data"))
    before = folder_source(url)
    images = everything(before)[0]
    new = images[0][::-1]
    bucket.files.pipe_file(f"mine/{tmp_path.name}/train/cat/000.jpg", new)
    assert folder_source(url).read(np.array([0]))[0] == [new]
    assert before.read(np.array([0]))[0] == [images[0]]


def test_a_bucket_that_goes_away_ends_the_run_with_the_record_and_what_to_do(tmp_path: Path) -> None:
    with serving(make_splits(tmp_path / "data")) as server:
        source = folder_source(server.url, "train", "data.on_bad_record=skip")
        server.close()
        with pytest.raises(UsageError) as refused:
            source.read(np.array([1]))
        assert not isinstance(refused.value, BadRecord)
        assert f"{server.url}/train/cat/001.png (record 1) cannot be read: 3 attempts in " in str(refused.value)
        assert "check network, address and credentials" in str(refused.value)


def test_a_bucket_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    with serving(make_splits(tmp_path / "data")) as server:
        server.statuses = [503]
        source = folder_source(server.url)
        server.statuses = [503, 500]
        assert source.read(np.array([1]))[0] == folder_source(server.root).read(np.array([1]))[0]


def test_bad_images_are_named_and_left_out_as_here(tmp_path: Path, bucket: Bucket) -> None:
    here = make_splits(tmp_path / "data")
    write(here / "train" / "cat" / "000.jpg", b"")
    source = folder_source(bucket.copy(here), "train", "data.on_bad_record=skip")
    with pytest.raises(BadRecord) as remote:
        source.read(np.array([0]))
    with pytest.raises(BadRecord) as local:
        folder_source(here, "train", "data.on_bad_record=skip").read(np.array([0]))
    assert str(remote.value).replace(f"s3://mine/{tmp_path.name}", str(here)) == str(local.value)
    assert source.listing == folder_source(here, "train", "data.on_bad_record=skip").listing


def emptied() -> None:
    """The cache of this test, as after an eviction."""
    blocks = remote_path.cache_directory()
    assert blocks is not None
    shutil.rmtree(blocks)


def test_images_that_were_evicted_are_fetched_again(tmp_path: Path) -> None:
    with serving(make_splits(tmp_path / "data")) as server:
        source = folder_source(server.url)
        first = everything(source)
        emptied()
        assert everything(source) == first
        assert asked(server) == 2 * source.count


def asked(server: Server) -> int:
    return sum("train/" in name for name, _, _ in server.ranges)
