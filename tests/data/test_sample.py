"""A few records that stand for a split."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_data import folder_source, make_splits

from trainer.data.sources.sample import spread


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [0]), (2, [0, 11]), (5, [0, 2, 5, 8, 11]), (12, [*range(12)]), (99, [*range(12)])]
)
def test_records_are_spread_from_the_first_to_the_last_each_once(
    tmp_path: Path, number: int, expected: list[int]
) -> None:
    source = folder_source(make_splits(tmp_path), "train")
    assert [record for record, _ in spread(source, number)] == expected


def test_a_record_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    source = folder_source(make_splits(tmp_path), "train")
    empty = tmp_path / "train" / "cat" / "002.jpg"
    image = (tmp_path / "train" / "cat" / "000.jpg").read_bytes()
    empty.write_bytes(b"")
    sampled = dict(spread(source, 12))
    assert sorted(sampled) == [0, 1, *range(3, 12)]
    assert sampled[0] == image
