"""Two runs that begin in one second, and were given no directory, have two."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.config.compose import compose_run
from trainer.config.spelling import is_given
from trainer.errors import UsageError
from trainer.run_directory.occupancy import is_stamp, own_place


def test_of_many_that_ask_for_one_name_each_has_a_directory_of_its_own(tmp_path: Path) -> None:
    wanted = tmp_path / "digits" / "2026-11-29T09-46-12"

    def take(number: int) -> Path:
        with own_place(wanted) as place:
            (place / "config.yaml").write_text(str(number))
        return place

    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(take, range(16)))
    assert len(set(places)) == 16
    assert wanted in places
    assert wanted.with_name(f"{wanted.name}-2") in places
    assert [(place / "config.yaml").read_text() for place in places] == [str(number) for number in range(16)]


def test_a_directory_in_which_nothing_began_is_removed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data"), own_place(tmp_path / "2026-11-29T09-46-12"):
        raise UsageError("no data")
    assert list(tmp_path.iterdir()) == []


def test_only_the_moment_of_the_default_is_nobody_s_choice() -> None:
    invocation, _ = compose_run([])
    assert is_stamp(Path(invocation.run_dir))
    assert not is_stamp(Path("outputs/mine"))
    datetime.datetime.strptime(Path(invocation.run_dir).name, "%Y-%m-%dT%H-%M-%S")
    assert is_given("run_dir", ["seed=1", "run_dir=x"])
    assert is_given("run_dir", ["++run_dir=x"])
    assert not is_given("run_dir", ["seed=1"])
