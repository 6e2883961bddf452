"""What the lock of a run directory leaves behind."""

from __future__ import annotations

from pathlib import Path

from trainer.__main__ import run
from trainer.errors import NoValidCheckpoint
from trainer.run_directory.layout import LOCK
from trainer.run_directory.lock import writing


def locked(place: Path) -> None:
    """Lock a directory for a block that writes nothing."""
    with writing(place):
        assert (place / LOCK).exists()


def test_a_directory_in_which_nothing_was_written_is_left_as_it_was(tmp_path: Path) -> None:
    locked(tmp_path / "made" / "here")
    assert list(tmp_path.iterdir()) == [tmp_path / "made"], "the run directory that was made is removed"
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "job.log").touch()
    for place in (empty, other):
        before = list(place.iterdir())
        locked(place)
        assert list(place.iterdir()) == before


def test_the_lock_of_a_directory_that_was_written_stays(tmp_path: Path) -> None:
    with writing(tmp_path / "run"):
        (tmp_path / "run" / "train.log").touch()
    locked(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK, "train.log"}


def test_a_resume_of_a_directory_that_is_no_run_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert run(["resume", f"run_dir={tmp_path}"]) == NoValidCheckpoint.exit_status
    assert list(tmp_path.iterdir()) == []
