"""Training from every kind of data, end to end: a run that was stopped and resumed is the run that never stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pythons
from image_data import example, jpeg, make_shards, make_splits, narrow, png, write, write_shard
from prepared_data import prepare
from processes import SECONDS_ALLOWED, assert_same_run, metrics
from small_plugin import SMALL, install

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
train, resume, moved = json.loads(sys.argv[1])
status = run(["train", "run_dir=straight", *train])
assert status == 0, status
shutil.copytree("straight", "stopped")
for name in os.listdir("stopped/checkpoints"):
    if name > "step-00000003":
        shutil.rmtree(f"stopped/checkpoints/{name}")
for old, new in moved:
    os.rename(old, new)
main(["resume", "run_dir=stopped", *resume])
"""


def straight_and_resumed(place: Path, train: Sequence[str], resume: Sequence[str] = (), moved: Any = ()) -> str:
    """Make both runs below ``place``, require that they are the same, return what was printed."""
    install(place)
    arguments = json.dumps([[*SMALL, *STEPS, *train], list(resume), list(moved)])
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


@pytest.mark.long
@pytest.mark.parametrize("decode", ["data.decode=true", "data.decode=false data.height=75 data.width=75"])
def test_a_run_on_synthetic_data_resumes_exactly(decode: str, tmp_path: Path) -> None:
    straight_and_resumed(tmp_path, ("data=synthetic", "data.num_classes=10", *decode.split()))
