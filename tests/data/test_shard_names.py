"""The names of shards promise how many there are: missing, double, extra and mixed ones are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_data import example, make_shards, png, shard_source, write_shard

from trainer.data.sources.shard_names import refuse_incomplete
from trainer.errors import UsageError

REFUSED: dict[str, tuple[list[str], str, str]] = {
    # what is wrong: (names, pattern, message)
    "one missing": (
        ["train-00000-of-00004", "train-00001-of-00004", "train-00003-of-00004"],
        "train-*",
        "1 of 4 shards are missing in data: train-00002-of-00004\n",
    ),
    "the first and the last missing": (
        ["train-00001-of-00004", "train-00002-of-00004"],
        "train-*",
        "2 of 4 shards are missing in data: train-00000-of-00004, train-00003-of-00004\n",
    ),
    "one missing, counted from 1": (
        ["t-1-of-3.tfrecord", "t-3-of-3.tfrecord"],
        "*",
        "1 of 3 shards are missing in data: t-2-of-3.tfrecord\n",
    ),
    "most missing": (
        ["t-0-of-9"],
        "*",
        "8 of 9 shards are missing in data: t-1-of-9, t-2-of-9, t-3-of-9, t-4-of-9, t-5-of-9 and 3 more\n",
    ),
    "one too many": (
        ["train-00000-of-00002", "train-00001-of-00002", "train-00002-of-00002"],
        "train-*",
        "data/train-00002-of-00002 is one shard more than its name promises: train-00000-of-00002 to train-00001",
    ),
    "two sets": (
        ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
        "train-*",
        "data/train-00000-of-00001 and train-00000-of-00002 are shards of two sets, of 1 and of 2",
    ),
    "a copy": (
        ["train-00000-of-00002", "train-00001-of-00002", "train-00001-of-00002 (1)"],
        "train-*",
        "data/train-00001-of-00002 and train-00001-of-00002 (1) are the same shard of a set",
    ),
    "a copy under another spelling": (
        ["train-00000-of-00002", "train-00001-of-00002", "train-1-of-2"],
        "train-*",
        "data/train-00001-of-00002 and train-1-of-2 are the same shard of a set",
    ),
    "one missing of two data sets": (
        ["cats-0-of-1", "dogs-1-of-2"],
        "*",
        "1 of 2 shards are missing in data: dogs-0-of-2\n",
    ),
}
TAKEN: dict[str, tuple[list[str], str]] = {
    "whole": (["train-00000-of-00002", "train-00001-of-00002"], "train-*"),
    "counted from 1": (["t-1-of-2.tfrecord", "t-2-of-2.tfrecord"], "*"),
    "a part that the pattern chooses": (["train-00000-of-00100", "train-00001-of-00100"], "train-0000[01]-of-00100"),
    "the last, for validation": (["train-00099-of-00100"], "train-00099-*"),
    "two data sets": (["cats-0-of-1", "dogs-0-of-2", "dogs-1-of-2"], "*"),
    "no numbers": (["a.tfrecord", "b.tfrecord"], "*"),
    "no count of files": (["log-3-of-20261129000000"], "*"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_one_whole_set_is_refused_by_name(what: str) -> None:
    names, pattern, message = REFUSED[what]
    with pytest.raises(UsageError) as refused:
        refuse_incomplete([Path("data", name) for name in names], "data.train_pattern", pattern)
    assert str(refused.value).startswith(message)
    assert f"with data.train_pattern (now {pattern})" in str(refused.value)


@pytest.mark.parametrize("what", TAKEN)
def test_a_whole_set_and_a_chosen_part_are_taken(what: str) -> None:
    names, pattern = TAKEN[what]
    refuse_incomplete([Path("data", name) for name in names], "data.train_pattern", pattern)


def test_both_splits_are_looked_at_whichever_is_opened(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    (root / "train-00000-of-00002").unlink()
    with pytest.raises(UsageError, match=r"1 of 2 shards are missing in .*: train-00000-of-00002"):
        shard_source(root, "validation")
    assert shard_source(root, "train", "data.train_pattern=train-00001-of-*").count == 6
    write_shard(root / "validation-00001-of-00001", [example(png(1), 1)])
    with pytest.raises(UsageError, match="validation-00001-of-00001 is one shard more than its name promises"):
        shard_source(root, "train", "data.train_pattern=train-00001-of-*")
