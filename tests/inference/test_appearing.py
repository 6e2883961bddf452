"""A result is there whole or not at all, and takes nobody's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.inference.appearing import appearing


def test_a_result_appears_when_its_block_has_ended(tmp_path: Path) -> None:
    with appearing(tmp_path / "a.csv") as unfinished:
        unfinished.write_text("whole")
        assert not (tmp_path / "a.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "whole"


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with appearing(tmp_path / "a.csv") as unfinished:
            unfinished.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def make_both() -> None:
        with appearing(tmp_path / "a.csv") as unfinished:
            unfinished.write_text("mine")
            (tmp_path / "a.csv").write_text("another's")

    with pytest.raises(UsageError, match="exists, and is not overwritten"):
        make_both()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "another's"
