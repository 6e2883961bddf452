"""Training from images and prepared data sets in a bucket: killed, resumed there and here, bitwise the local run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from image_data import make_splits, write
from killed_runs import KILLED, NO_SUBSET, STEPS
from prepared_data import prepare
from processes import Trainer, assert_same_run, checkpoint_names
from s3_server import KEYS, s3_server
from small_plugin import SMALL, install

SECRET = "a-key-that-nobody-may-read"


def as_folder(root: Path) -> tuple[str, ...]:
    make_splits(root, 14, 7)
    return "data=image_folder", "data.root={}"


def as_table(root: Path) -> tuple[str, ...]:
    """The images of the folders, in the rows of a table."""
    make_splits(root, 14, 7)
    paths = sorted(path.relative_to(root) for path in root.rglob("*.*"))
    rows = "".join(f"{path},{path.parts[1]},{path.parts[0]}\n" for path in paths)
    write(root / "labels.csv", f"path,label,split\n{rows}".encode())
    return "data=table", "data.file={}/labels.csv", "data.split_column=split"


def as_prepared(root: Path) -> tuple[str, ...]:
    prepare(root, "tfrecord")
    return "data=tfds", "data.root={}", "data.dataset=tiny_pets", "data.validation_split=test"


KINDS = {"image_folder": as_folder, "table": as_table, "tfds": as_prepared}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    monkeypatch.setitem(KEYS, "AWS_SECRET_ACCESS_KEY", SECRET)
    with s3_server(tmp_path / "server.log"):
        files = s3fs.S3FileSystem()
        files.mkdir("mine")
        yield files


@pytest.mark.parametrize(
    "kind", ["image_folder", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("table", "tfds"))]
)
def test_a_run_on_a_bucket_is_killed_and_resumed_and_is_the_run_on_a_disk(
    kind: str, trainer: Trainer, bucket: s3fs.S3FileSystem, cache_directory: Path
) -> None:
    install(trainer.cwd)
    keys = KINDS[kind](trainer.cwd / "data")
    bucket.put(f"{trainer.cwd}/data/", "mine/data/", recursive=True)
    train = ("train", *SMALL, *NO_SUBSET, *STEPS)
    here = [each.format(trainer.cwd / "data") for each in keys]
    there = [each.format("s3://mine/data") for each in keys]
    trainer.run(*train, *here, "run_dir=straight")
    killed = trainer.start_python("-c", KILLED, *train, *there, "run_dir=killed", "checkpoint.async_save=false")
    assert killed.wait() == -signal.SIGKILL, killed.output
    assert checkpoint_names(trainer.cwd / "killed") == ["step-00000003"]
    shutil.copytree(trainer.cwd / "killed", trainer.cwd / "moved")
    shutil.rmtree(cache_directory / "blocks")
    assert "resuming killed at step 3 of 7" in trainer.run("resume", "run_dir=killed")
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "killed")
    assert "resuming moved at step 3 of 7" in trainer.run("resume", "run_dir=moved", here[1])
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "moved")
    shutil.copytree(trainer.cwd / "straight", trainer.cwd / "begun")
    for name in checkpoint_names(trainer.cwd / "begun")[1:]:
        shutil.rmtree(trainer.cwd / "begun" / "checkpoints" / name)
    assert "resuming begun at step 3 of 7" in trainer.run("resume", "run_dir=begun", there[1])
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "begun")
    places = [trainer.cwd, cache_directory]
    for path in (path for place in places for path in place.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
