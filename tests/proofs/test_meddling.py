"""Files of a run that another program deletes, replaces, cuts or appends to while the run writes to them."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.monitoring.terminal import Terminal
from trainer.run_directory.history import History, keep_readable
from trainer.run_directory.layout import LOG, METRICS, refuse_links
from trainer.run_directory.metrics import TRAIN, VALIDATION, Record, read_metrics, read_validations
from trainer.storage import holding


def add(history: History, steps: range) -> None:
    for step in steps:
        history.add(Record(step, TRAIN, {"loss": 1.0 / step}, {"closing": False}))
        if step % 2 == 0:
            values = {"loss": 1.0 / step, "accuracy": 0.5, "skipped": 0}
            history.add(Record(step, VALIDATION, values, {"epoch": 0.0, "closing": False}))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("another file\n")
    other.rename(path)


def appended(path: Path) -> None:
    with path.open("a") as file:
        file.write("a line of mine\n")


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("meddle", "how", "whole", "beside"),
    [
        (Path.unlink, "was deleted", True, None),
        (replaced, "was replaced", True, b"another file\n"),
        (appended, "bytes and was changed to", True, None),
        (half, "bytes and was changed to", False, None),
        (emptied, "and was changed to 0", False, b""),
    ],
)
def test_a_history_that_was_meddled_with_is_made_again_and_the_manifest_has_the_digest_of_what_is_there(
    meddle: Callable[[Path], None], how: str, whole: bool, beside: bytes | None, tmp_path: Path
) -> None:
    for name in ("alone", "run"):
        (tmp_path / name).mkdir()
    alone, history = History(tmp_path / "alone", 0), History(tmp_path / "run", 0)
    path = tmp_path / "run" / METRICS
    for each in (alone, history):
        add(each, range(1, 8))
    meddle(path)
    recorded = history.recorded
    for each in (alone, history):
        each.sync()
        add(each, range(8, 11))
        each.sync()
    last = history.recorded
    for each in (alone, history):
        each.close()
    content = path.read_bytes()
    assert hashlib.sha256(content[: recorded.size]).hexdigest() == recorded.sha256
    assert hashlib.sha256(content).hexdigest() == last.sha256
    assert (content == (tmp_path / "alone" / METRICS).read_bytes()) == whole
    assert read_validations(tmp_path / "run") == alone.validations, "which checkpoint is the best depends on them"
    steps = [record["step"] for record in read_metrics(path)]
    assert steps[-4:] == [8, 9, 10, 10]
    said = history.notices.get_nowait()
    assert history.notices.empty()
    assert how in said
    assert ("nothing is missing" in said) == whole
    aside = tmp_path / "run" / f"{METRICS}.damaged.0"
    assert aside.exists() == (aside.name in said) == (meddle is not Path.unlink)
    assert beside is None or aside.read_bytes() == beside
    warnings: list[str] = []
    keep_readable(tmp_path / "run", recorded, warnings.append)
    History(tmp_path / "run", 10).close()
    assert warnings == []
    assert path.read_bytes() == content


def test_a_history_that_is_deleted_with_its_directory_is_not_made_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    history = History(run_dir, 0)
    add(history, range(1, 3))
    run_dir.rename(tmp_path / "moved")
    add(history, range(3, 4))
    with pytest.raises(FileNotFoundError):
        history.sync()
    assert not run_dir.exists()


@pytest.mark.parametrize("meddle", [Path.unlink, replaced])
def test_a_log_that_is_taken_away_begins_anew_and_says_so(meddle: Callable[[Path], None], tmp_path: Path) -> None:
    log = tmp_path / LOG
    terminal = Terminal(log, 0, 10)
    terminal.log("before")
    meddle(log)
    terminal.log("after")
    terminal.log("later")
    terminal.close()
    lines = [line.partition("  ")[2] or line for line in log.read_text().splitlines()]
    assert lines[-3:] == ["train.log was deleted or replaced while the run went on", "after", "later"]
    assert terminal.failure is None


@pytest.mark.parametrize("meddle", [Path.unlink, replaced])
def test_a_log_that_cannot_be_made_again_is_made_by_the_next_line(
    meddle: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / LOG
    terminal = Terminal(log, 0, 10)
    meddle(log)

    def refuse(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", refuse)
        terminal.log("lost")
    assert terminal.failure is not None
    terminal.log("later")
    terminal.close()
    assert terminal.failure is None
    assert log.read_text().endswith("later\n")


def test_a_directory_that_takes_the_name_of_one_that_is_held_gets_nothing_even_where_only_the_name_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "DESCRIPTORS", tmp_path / "no proc")
    run_dir, moved = tmp_path / "run", tmp_path / "moved"
    run_dir.mkdir()
    with holding.held(run_dir) as held:
        assert held.path == run_dir
        history, terminal = History(run_dir, 0), Terminal(run_dir / LOG, 0, 10)
        add(history, range(1, 3))
        terminal.log("before")
        run_dir.rename(moved)
        shutil.copytree(moved, run_dir)
        copied = {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
        add(history, range(3, 4))
        terminal.log("after")
        assert {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()} == copied
        assert history.notices.empty()
        history.close()
        terminal.close()
    assert [record["step"] for record in read_metrics(moved / METRICS)] == [1, 2, 2, 3]
    assert (moved / LOG).read_text().endswith("after\n")


def test_a_copy_made_of_hard_links_is_refused_with_a_command_that_makes_it_usable(tmp_path: Path) -> None:
    run_dir = tmp_path / "my run's"
    (run_dir / "checkpoints").mkdir(parents=True)
    for name in (METRICS, LOG):
        (run_dir / name).write_text("mine\n")
    linked = tmp_path / "linked 'copy'"
    subprocess.run(["cp", "-al", run_dir, linked], check=True)
    os.link(linked / METRICS, linked / "checkpoints" / "another name")  # which cp -a alone would link again
    (tmp_path / "linked 'copy'-copy").mkdir()  # the first name is taken
    with pytest.raises(UsageError, match="is a hard link: the same file has another name elsewhere") as refused:
        refuse_links(linked)
    command = str(refused.value).splitlines()[-1]
    subprocess.run(shlex.split(command), check=True)
    copy = Path(shlex.split(command)[-1])
    refuse_links(copy)
    assert (copy / METRICS).read_text() == "mine\n"
