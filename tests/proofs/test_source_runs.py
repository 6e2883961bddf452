"""Training from every kind of data, end to end: a run that was stopped and resumed is the run that never stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest
import pythons
from image_data import example, jpeg, make_shards, make_splits, narrow, png, write, write_shard
from parquet_files import write_by_datasets
from prepared_data import prepare
from processes import SECONDS_ALLOWED, assert_same_run, metrics
from range_server import serving
from small_plugin import SMALL, install
from tar_shards import make_tars, numbered, write_samples

from trainer.config.override import changes, override
from trainer.data.sources.source import open_source
from trainer.errors import RestoreRefused
from trainer.fingerprint.behaviour import data_facts
from trainer.fingerprint.facts import differences
from trainer.fingerprint.verdict import judge


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


STEPS = ("train.steps=6", "schedule.warmup_steps=2", "evaluation.every_steps=4", "checkpoint.every_steps=3")
# a process that trains, leaves what it would have left when killed after its checkpoint of step 3, and resumes
STRAIGHT_AND_RESUMED = """
import json, os, shutil, sys
from trainer.__main__ import main, run
train, resume, moved, then = json.loads(sys.argv[1])
status = run(["train", "run_dir=straight", *train])
assert status == 0, status
shutil.copytree("straight", "stopped")
for name in os.listdir("stopped/checkpoints"):
    if name > "step-00000003":
        shutil.rmtree(f"stopped/checkpoints/{name}")
for old, new in moved:
    os.rename(old, new)
*before, last = [["resume", "run_dir=stopped", *resume], *then]
for command in before:
    assert run(command) == 0, command
main(last)
"""


def straight_and_resumed(
    place: Path,
    train: Sequence[str],
    resume: Sequence[str] = (),
    moved: Sequence[tuple[str, str]] = (),
    then: Sequence[Sequence[str]] = (),
) -> str:
    """Make both runs below ``place``, require that they are the same, return what was printed. The commands of ``then``
    follow in the same process.
    """
    install(place)
    arguments = json.dumps([[*SMALL, *STEPS, *train], list(resume), list(moved), list(then)])
    process = pythons.run(["-c", STRAIGHT_AND_RESUMED, arguments], cwd=place, timeout=2 * SECONDS_ALLOWED)
    assert "Traceback" not in process.stderr, process.stderr
    assert "resuming stopped at step 3 of 6" in process.stdout
    assert_same_run(place / "straight", place / "stopped")
    return process.stdout


@pytest.mark.long
def test_a_run_on_an_image_folder_resumes_exactly_where_the_data_was_moved_to(tmp_path: Path) -> None:
    make_splits(tmp_path / "images", 14, 7)
    data = ("data=image_folder", "data.root=images")
    output = straight_and_resumed(tmp_path, data, ["data.root=elsewhere"], [("images", "elsewhere")])
    assert f"changed on resume: data.root: {tmp_path}/images -> {tmp_path}/elsewhere" in output


def test_a_run_on_tfrecord_files_with_weighted_classes_and_bad_records_resumes_exactly(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", 30, 30)
    records = [example(jpeg(n) if n % 2 else png(n), n % 3) for n in range(30)]
    records[2] = example(b"not an image", 2)
    records[5] = example(b"", 2)
    write_shard(tmp_path / "shards" / "train-00000-of-00002", records)
    data = ("data=tfrecord", "data.root=shards", "data.num_classes=3", "data.classes=[class_002,class_001]")
    weights = ("data.train_examples=34", "data.class_weights=[1.5,0.5]", "data.on_bad_record=skip")
    output = straight_and_resumed(tmp_path, (*data, *weights))
    assert "1 records for train have no class that can be read and are left out" in output
    history = metrics(tmp_path / "stopped")
    counted = {record["step"]: record["substituted"] for record in history if record["split"] == "train"}
    assert counted[6] > 0
    manifest = json.loads((tmp_path / "stopped" / "checkpoints" / "step-00000006" / "manifest.json").read_text())
    # of class_002 there are 16 records and of class_001 18, with round(1.5 x 16) and round(0.5 x 18) places an epoch
    assert manifest["epoch"] == 48 / (24 + 9)
    assert manifest["class_names"] == ["class_002", "class_001"]
    log = (tmp_path / "straight" / "train.log").read_text()
    assert log.count("record 2 cannot be decoded: ") == 1


@pytest.mark.long
def test_a_run_on_a_prepared_data_set_resumes_exactly(tmp_path: Path) -> None:
    prepare(tmp_path / "data")
    data = ("data=tfds", "data.root=data", "data.dataset=tiny_pets", "data.validation_split=test")
    straight_and_resumed(tmp_path, (*data, "data.train_examples=null", "data.validation_examples=null"))


def test_a_run_on_tar_shards_of_webdataset_resumes_exactly_and_is_evaluated(tmp_path: Path) -> None:
    """One image in the middle of a shard is none, and one sample has no label."""
    root = tmp_path / "shards"
    make_tars(root, 30, 30)
    samples = numbered(30, 30)
    samples[4] = {"__key__": "000034", "cls": 1, "png": b"not an image"}
    del samples[7]["cls"]
    write_samples(root / "train-000001.tar", samples)
    write_samples(root / "test-000000.tar", numbered(600, 9))
    data = (
        "data=webdataset",
        "data.root=shards",
        "data.num_classes=3",
        "'data.train_pattern=\"train-{000000..000001}.tar\"'",
    )
    keys = ("data.train_examples=null", "data.validation_examples=null", "data.on_bad_record=skip")
    then = (["evaluate", "run_dir=stopped"], ["evaluate", "run_dir=stopped", "split=test"])
    output = straight_and_resumed(
        tmp_path, (*data[:3], data[3].strip("'"), *keys), ["data.root=moved"], [("shards", "moved")], then
    )
    assert re.findall(r"(validation|test): (\d+) examples, all", output) == [("validation", "30"), ("test", "9")]
    log = (tmp_path / "straight" / "train.log").read_text()
    assert log.count("train-000001.tar record 4 (000034.png) cannot be decoded: ") == 1
    assert log.count("train-000001.tar record 7 (000037) has no label cls (data.label_key), only png") == 1


def test_a_run_on_parquet_files_of_datasets_resumes_exactly_and_is_evaluated(tmp_path: Path) -> None:
    """One file has its images in compressed row groups, as earlier versions of datasets wrote them."""
    root = tmp_path / "files"
    for name, numbers in (
        ("train-00000-of-00002", range(30)),
        ("train-00001-of-00002", range(30, 60)),
        ("validation-00000-of-00001", range(900, 930)),
        ("test-00000-of-00001", range(600, 609)),
    ):
        write_by_datasets(root / f"{name}.parquet", numbers)
    table = pyarrow.parquet.read_table(root / "train-00001-of-00002.parquet")
    pyarrow.parquet.write_table(table, root / "train-00001-of-00002.parquet", row_group_size=5)
    data = ("data=parquet", "data.root=files", "data.train_examples=null", "data.validation_examples=null")
    then = (["evaluate", "run_dir=stopped"], ["evaluate", "run_dir=stopped", "split=test"])
    output = straight_and_resumed(tmp_path, data, ["data.root=moved"], [("files", "moved")], then)
    assert re.findall(r"(validation|test): (\d+) examples, all", output) == [("validation", "30"), ("test", "9")]
    manifest = json.loads((tmp_path / "stopped" / "checkpoints" / "step-00000006" / "manifest.json").read_text())
    assert manifest["class_names"] == ["cat", "dog", "ox"]
    assert "they are read in row groups of up to 5 images" in output


def test_a_run_on_shards_of_another_machine_resumes_exactly_there_and_here(tmp_path: Path) -> None:
    """It begins on a server, goes on with a copy on this disk, and is evaluated on the server again."""
    make_tars(tmp_path / "shards", 30, 30)
    write_samples(tmp_path / "shards" / "test-000000.tar", numbered(600, 9))
    data = ("data=webdataset", "data.num_classes=3", "data.train_examples=null", "data.validation_examples=null")
    with serving(tmp_path / "shards") as server:
        then = (
            ["evaluate", "run_dir=stopped", f"data.root={server.url}"],
            ["evaluate", "run_dir=stopped", "split=test", f"data.root={server.url}"],
        )
        output = straight_and_resumed(
            tmp_path, (*data, f"data.root={server.url}"), [f"data.root={tmp_path}/shards"], (), then
        )
        assert server.gets("train-000000.tar") == 1, "one block, which all of them share"
    assert re.findall(r"(validation|test): (\d+) examples, all", output) == [("validation", "30"), ("test", "9")]
    assert f"changed on resume: data.root: {server.url} -> {tmp_path}/shards" in output


@pytest.mark.long
@pytest.mark.parametrize("decode", ["data.decode=true", "data.decode=false data.height=75 data.width=75"])
def test_a_run_on_synthetic_data_resumes_exactly(decode: str, tmp_path: Path) -> None:
    straight_and_resumed(tmp_path, ("data=synthetic", "data.num_classes=10", *decode.split()))
