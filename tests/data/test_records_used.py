"""Classes, subset and weights: which records are used and how often, the same for every source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_data import (
    T1,
    composed,
    everything,
    example,
    folder_source,
    jpeg,
    make_shards,
    make_splits,
    png,
    shard_source,
    write_shard,
)

from trainer.config.arguments import parse_arguments
from trainer.config.override import override
from trainer.config.schema import Config
from trainer.data.order.sampling import Sampling
from trainer.data.sources import labels
from trainer.data.sources.source import open_source
from trainer.errors import BadRecord, UsageError

CLASSES = ("class_000", "class_001", "class_002", "class_003", "class_004")


def test_chosen_classes_are_the_labels_in_the_order_given(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    everyone = dict(zip(("cat", "dog", "ox"), np.split(np.arange(12), 3), strict=True))
    images = everything(folder_source(root))[0]
    for split in ("train", "validation"):
        assert folder_source(root, split, "data.classes=[ox,cat]").class_names == ("ox", "cat")
    chosen = folder_source(root, "train", "data.classes=[ox,cat]")
    assert everything(chosen) == (
        [images[record] for record in [*everyone["cat"], *everyone["ox"]]],
        [1, 1, 1, 1, 0, 0, 0, 0],
    )
    assert chosen.labels().tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert "ox" in chosen.place(4)
    assert everything(folder_source(root, "validation", "data.classes=[ox,cat]"))[1] == [1, 1, 0, 0]
    assert folder_source(root, "train", "data.classes=[ox,cat]", "data.train_examples=3").count == 3
    all_of_them = folder_source(root, "train", "data.classes=[cat,dog,ox]")
    assert all_of_them.listing == folder_source(root).listing


def test_classes_of_tfrecord_files_are_read_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_shards(tmp_path)
    read: list[int] = []
    original = labels.read_labels

    def counted(one: Any, count: int, skip_bad: bool, title: str) -> Any:
        return original(lambda record: (read.append(record), one(record))[1], count, skip_bad, title)

    monkeypatch.setattr("trainer.data.sources.shards.read_labels", counted)
    expected = [jpeg(5), jpeg(11)]
    overrides = ("data.classes=[class_002,class_001]", "data.train_examples=8")
    for _ in range(2):
        source = shard_source(root, "train", *overrides)
        assert source.read(source.labels().argsort(kind="stable")[[1, 3]])[0] == expected
        assert source.labels().tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert sorted(read) == list(range(12))
    write_shard(root / T1, [example(png(50), 1)])
    assert shard_source(root, "train", "data.classes=[class_002,class_001]").count == 5
    assert len(read) == 12 + 7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.classes=[cat,dgo]",), "data.classes has dgo, which is not a class of the data; did you mean dog?"),
        (("data.classes=[cat]",), "data.classes is ['cat'], but at least two classes are needed"),
        (("data.classes=[cat,ox,cat]",), "data.classes has cat twice"),
        (("data.classes=[cat,ox]", "data.class_weights=[1]"), "has 1 numbers, but data.classes has 2 classes"),
        (("data.class_weights=[1,0,1]",), "data.class_weights[1] is 0.0, but must be above 0"),
        (("data.classes=[cat,ox]", "data.train_examples=9"), "but train has 8 records of data.classes"),
    ],
)
def test_classes_that_do_not_fit_are_refused(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        folder_source(make_splits(tmp_path), "train", *overrides)
    assert message in str(refused.value)


def test_a_chosen_class_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.classes has class_003, which has no record for train"):
        shard_source(make_shards(tmp_path), "train", "data.classes=[class_001,class_003]", "data.num_classes=4")


def test_a_record_without_a_class_is_refused_or_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_shards(tmp_path)
    path = write_shard(root / T1, [example(png(7), 7), example(png(8), 1)])
    overrides = ("data.classes=[class_000,class_001]",)
    with pytest.raises(BadRecord, match=f"{path} record 0 has label 7"):
        shard_source(root, "train", *overrides)
    source = shard_source(root, "train", *overrides, "data.on_bad_record=skip")
    assert source.labels().tolist() == [0, 1, 0, 1, 1]
    warning = f"warning: 1 records for train have no class that can be read and are left out, the first {path} record 0"
    assert warning in capsys.readouterr().out


def sampling(examples: int, *overrides: str, seed: int = 3) -> Sampling:
    config = synthetic(examples, *overrides, seed=seed)
    return Sampling(open_source(config.data, "train"), config)


def synthetic(examples: int, *overrides: str, seed: int = 3) -> Config:
    """Record r has label r mod 5."""
    values = {"data.train_examples": examples, "data.num_classes": 5, "seed": seed, **parse_arguments(overrides)}
    return override(composed("data=synthetic", "data.train_examples=1", "data.validation_examples=1"), values)


WEIGHTS = (1.0, 2.5, 0.5, 0.3, 3.0)
WEIGHTED = f"data.class_weights={list(WEIGHTS)}".replace(" ", "")


@pytest.mark.parametrize("examples", [23, 500])
def test_weighted_classes_have_their_places_and_records_come_equally_often(examples: int) -> None:
    weighted = sampling(examples, WEIGHTED)
    labels = np.arange(examples) % 5
    counts = np.bincount(labels)
    places = [round(weight * int(count)) for weight, count in zip(WEIGHTS, counts, strict=True)]
    assert weighted.examples_per_epoch == sum(places)
    shown_more: list[tuple[int, ...]] = []
    for epoch in range(4):
        begin = epoch * weighted.examples_per_epoch
        records = weighted.records_at(np.arange(begin, begin + weighted.examples_per_epoch))
        times = np.bincount(records, minlength=examples)
        for label, weight in enumerate(WEIGHTS):
            of_class = times[labels == label]
            assert of_class.sum() == places[label]
            assert set(of_class) <= {int(np.floor(weight)), int(np.ceil(weight))}
        shown_more.append(tuple(np.flatnonzero((labels == 1) & (times == 3))))
    assert len(set(shown_more)) == 4, "other records have their turn in another epoch"


def test_weighted_order_is_a_function_of_position_seed_and_epoch() -> None:
    weighted = sampling(23, WEIGHTED)
    whole = weighted.records_at(np.arange(200))
    pieces = [sampling(23, WEIGHTED).records_at(np.arange(start, start + 7)) for start in range(0, 196, 7)]
    assert np.concatenate(pieces).tolist() == whole[:196].tolist()
    assert (sampling(23, WEIGHTED, seed=4).records_at(np.arange(200)) != whole).mean() > 0.5
    mixed = weighted.records_at(np.array([10**12 + 5, 3, 10**12 + 5]))
    assert mixed.tolist() == [mixed[0], whole[3], mixed[0]]


GOLDEN = [4, 9, 3, 14, 9, 4, 12, 16, 16, 16, 1]


def test_weighted_order_values_are_pinned() -> None:
    """A change here breaks every stored run with weights: raise the manifest's format version instead."""
    assert sampling(23, WEIGHTED).records_at(np.array([*range(10), 10**12])).tolist() == GOLDEN


def test_weights_of_one_show_every_record_once() -> None:
    records = sampling(23, "data.class_weights=[1,1,1,1,1]").records_at(np.arange(23))
    assert sorted(records) == list(range(23))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("[1,1]", "data.class_weights has 2 numbers, but there are 5 classes, in this order: class_000, class_001"),
        ("[1,1,1,1,0.01]", "has 0.01 for class_004, which leaves no place for its 4 records; raise it, or leave"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        sampling(23, f"data.class_weights={weights}")
    assert message in str(refused.value)


def test_validation_has_the_chosen_classes_and_no_weights(tmp_path: Path) -> None:
    overrides = ("data.classes=[class_002,class_001]", "data.class_weights=[2,3]")
    assert shard_source(make_shards(tmp_path), "validation", *overrides).labels().tolist() == [1, 0]
