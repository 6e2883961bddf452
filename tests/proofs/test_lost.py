"""A run directory that is moved, deleted, replaced or hidden while a run goes on: the run ends and keeps its state."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import saving
from processes import Trainer, assert_same_run, checkpoint_names, wait_for_step
from small_plugin import paced

from trainer.checkpoint import directory
from trainer.checkpoint.verification import newest_valid
from trainer.errors import NoValidCheckpoint, RunDirectoryLost, UsageError
from trainer.run_directory import layout, lock, validation_predictions
from trainer.run_directory.metrics import read_metrics
from trainer.storage import holding, lease

Change = Callable[[Path], None]  # of the run directory, behind the back of its writer


def renamed(run_dir: Path) -> None:
    run_dir.rename(run_dir.with_name("new place"))


def parent_renamed(run_dir: Path) -> None:
    run_dir.parent.rename(run_dir.parent.with_name("parent"))


def replaced(run_dir: Path) -> None:
    """By a copy, in which every name is there that the writer might open."""
    renamed(run_dir)
    shutil.copytree(run_dir.with_name("new place"), run_dir)


def replaced_by_a_link(run_dir: Path) -> None:
    replaced(run_dir)
    run_dir.rename(run_dir.with_name("copy"))
    run_dir.symlink_to("copy")


def hidden(run_dir: Path) -> None:
    """As by an unmounted filesystem: the name leads to an empty directory, and no name to the old one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(run_dir)], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a filesystem")


def checkpoints_renamed(run_dir: Path) -> None:
    (run_dir / "checkpoints").rename(run_dir.with_name("new place"))


def checkpoints_replaced(run_dir: Path) -> None:
    checkpoints_renamed(run_dir)
    shutil.copytree(run_dir.with_name("new place"), run_dir / "checkpoints")


def checkpoints_deleted(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "above" / "run"
    yield place
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def contents(place: Path) -> dict[str, bytes | None]:
    """Every file and directory that can be found at a place."""
    found = sorted(place.rglob("*")) if place.is_dir() else []
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in found}


def write(run_dir: Path, change: Change, asynchronous: bool, notice: Callable[[saving.Run], None]) -> None:
    """Two saves, ``change``, a third step and what comes after it."""
    with lock.writing(run_dir):
        place = layout.as_writer(run_dir)
        layout.hold_checkpoints(run_dir)
        run = saving.Run(place, 0, 0, asynchronous, keep_last=5)
        left = None
        try:
            for step in (1, 2):
                run.step(step)
                run.checkpointer.check()
                run.checkpointer.save()
            run.checkpointer.finish()
            change(run_dir)
            left = contents(run_dir)
            run.step(3)
            write_predictions(place)
            notice(run)
        finally:
            run.close()
            if not change.__name__.startswith("checkpoints"):
                assert contents(run_dir) == left


def write_predictions(place: Path) -> None:
    found = validation_predictions.summarize(3, np.array([[0, 1, 0.9, 2.0, 1.0]], np.float32))
    with contextlib.suppress(OSError):  # as TensorBoard does
        validation_predictions.write(place, validation_predictions.with_pictures(found, [None], ["here"]), [3])


def run_into(change: Change, run_dir: Path, asynchronous: bool, notice: Callable[[saving.Run], None]) -> str:
    """The message with which ``write`` ends."""
    with pytest.raises(RunDirectoryLost) as lost:
        write(run_dir, change, asynchronous, notice)
    assert lost.value.exit_status == 5
    return str(lost.value)


def check(run: saving.Run) -> None:
    run.checkpointer.check()


def save_and_finish(run: saving.Run) -> None:
    run.checkpointer.save()
    run.checkpointer.finish()


NOTICES = [pytest.param(check, id="at a step"), pytest.param(save_and_finish, id="at a save")]
MODES = [pytest.param(False, id="sync"), pytest.param(True, id="async")]


@pytest.mark.parametrize("asynchronous", MODES)
@pytest.mark.parametrize("notice", NOTICES)
@pytest.mark.parametrize("change", [renamed, parent_renamed, replaced, replaced_by_a_link])
def test_the_state_is_committed_where_the_directory_is_now_and_nothing_where_it_was(
    change: Change, notice: Callable[[saving.Run], None], asynchronous: bool, run_dir: Path, tmp_path: Path
) -> None:
    message = run_into(change, run_dir, asynchronous, notice)
    *_, command = message.splitlines()
    now = Path(shlex.split(command)[-1].removeprefix("run_dir="))
    assert now == (tmp_path / "parent" / "run" if change is parent_renamed else tmp_path / "above" / "new place")
    assert f"{run_dir} was moved to {now}" in message
    assert ("something else" in message) == (change in (replaced, replaced_by_a_link))
    assert "step-00000003 is committed there" in message
    assert checkpoint_names(now) == [f"step-0000000{step}" for step in (1, 2, 3)]
    newest_valid(now / "checkpoints", "full", pytest.fail)
    assert [record["step"] for record in read_metrics(now / "metrics.jsonl")] == [1, 1, 2, 2, 3, 3]
    assert "checkpoint of step 3 is committed" in (now / "train.log").read_text()
    assert (now / ".lock").read_text() == ""  # nobody has to wait


@pytest.mark.parametrize("notice", NOTICES)
def test_of_a_deleted_run_directory_nothing_comes_back(notice: Callable[[saving.Run], None], run_dir: Path) -> None:
    message = run_into(shutil.rmtree, run_dir, True, notice)
    assert f"{run_dir} was deleted, or moved to another filesystem" in message
    assert "the last checkpoint in it was step-00000002; step 3 is lost" in message
    assert not run_dir.exists()


def test_a_run_directory_that_is_hidden_gets_its_checkpoint_and_its_place_nothing(run_dir: Path) -> None:
    message = run_into(hidden, run_dir, True, check)
    assert "can no longer be reached under its name" in message
    assert "step-00000003 is committed there\nwhen it can be reached again" in message
    assert contents(run_dir) == {}
    subprocess.run(["umount", str(run_dir)], check=True)
    assert checkpoint_names(run_dir)[-1] == "step-00000003"
    newest_valid(run_dir / "checkpoints", "full", pytest.fail)


@pytest.mark.parametrize("notice", NOTICES)
@pytest.mark.parametrize("change", [checkpoints_renamed, checkpoints_replaced])
def test_checkpoints_that_are_moved_alone_are_put_back_by_the_commands_of_the_message(
    change: Change, notice: Callable[[saving.Run], None], run_dir: Path
) -> None:
    message = run_into(change, run_dir, True, notice)
    left = checkpoint_names(run_dir) if change is checkpoints_replaced else None
    assert left in (None, ["step-00000001", "step-00000002"])
    if change is checkpoints_replaced:
        assert f"after you have moved away what is at {run_dir / 'checkpoints'} now" in message
        shutil.rmtree(run_dir / "checkpoints")
    move, resume = message.splitlines()[-2:]
    subprocess.run(move, shell=True, check=True)
    assert shlex.split(resume)[-1] == f"run_dir={run_dir}"
    assert checkpoint_names(run_dir)[-1] == "step-00000003"
    newest_valid(run_dir / "checkpoints", "full", pytest.fail)


def test_checkpoints_that_are_deleted_alone_do_not_begin_again(run_dir: Path) -> None:
    message = run_into(checkpoints_deleted, run_dir, True, save_and_finish)
    assert f"{run_dir / 'checkpoints'} was deleted" in message
    assert "step 3 is lost" in message
    assert not (run_dir / "checkpoints").exists()


def test_the_command_that_goes_on_has_the_name_that_the_user_gave_quoted_for_the_shell(tmp_path: Path) -> None:
    run_dir = tmp_path / "it is [here]"
    with lock.writing(run_dir):
        place = layout.as_writer(run_dir)
        layout.hold_checkpoints(run_dir)
        run = saving.Run(place, 0, 0, False)
        *_, command = run.checkpointer.way_on().splitlines()
        run.close()
    words = shlex.split(command.partition("python -m trainer ")[2])
    assert words == ["resume", f'run_dir="{run_dir}"']


def write_nothing(run_dir: Path) -> None:
    with lock.writing(run_dir):
        place = layout.as_writer(run_dir)
        layout.hold_checkpoints(run_dir)
        run = saving.Run(place, 0, 0, True)
        renamed(run_dir)
        try:
            run.checkpointer.check()
        finally:
            run.close()


def test_before_the_first_checkpoint_the_message_says_that_there_is_none(run_dir: Path) -> None:
    with pytest.raises(RunDirectoryLost) as lost:
        write_nothing(run_dir)
    assert str(lost.value).endswith("no checkpoint was committed there\nstart the run again")


def look_for_something(run_dir: Path, error: Exception) -> None:
    with lock.writing(run_dir):
        renamed(run_dir)
        raise error


@pytest.mark.parametrize("error", [NoValidCheckpoint("no checkpoint"), UsageError("no config"), FileNotFoundError("x")])
def test_what_is_not_found_because_the_directory_is_gone_is_said_to_be_that(error: Exception, run_dir: Path) -> None:
    with pytest.raises(RunDirectoryLost, match="run this again where it is now"):
        look_for_something(run_dir, error)
    assert not run_dir.exists()


def test_a_directory_that_is_moved_while_its_lease_is_waited_for_is_not_written(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.mkdir(parents=True)
    other = lease.this_process().to_text(0).replace("host ", "host another-")
    (run_dir / ".lock").write_text(other)
    monkeypatch.setattr(lease, "TAKEN_AFTER", 0.01)
    monkeypatch.setattr(time, "sleep", lambda seconds: renamed(run_dir) if run_dir.exists() else None)
    with pytest.raises(RunDirectoryLost, match="was moved to"), lock.writing(run_dir):
        pytest.fail("it is elsewhere")
    assert not run_dir.exists()


def lead_elsewhere(link: Path) -> None:
    with lock.writing(link):
        layout.as_writer(link)
        link.unlink()
        link.symlink_to("two")
        lease.Fence(holding.path_of(link) / ".lock").refuse_if_lost()


def test_a_directory_that_a_link_no_longer_leads_to_is_lost(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    with pytest.raises(RunDirectoryLost, match=f"was moved to {tmp_path / 'one'}"):
        lead_elsewhere(link)
    assert contents(tmp_path / "two") == {}


def test_a_filesystem_that_does_not_answer_stops_nothing(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(path: Path) -> os.stat_result:
        raise TimeoutError(110, "Connection timed out")

    with lock.writing(run_dir):
        held = holding.of(run_dir)
        assert held is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", silent)
            held.refuse_if_lost()


def test_a_real_run_that_is_moved_ends_with_5_and_goes_on_bit_for_bit(small: tuple[str, ...], trainer: Trainer) -> None:
    run_dir, now, reference = (trainer.cwd / name for name in ("run", "it is here", "reference"))
    arguments = (
        *small,
        *paced(0.02),
        "train.log_every_steps=1",
        "checkpoint.every_steps=1000",
        "schedule=constant",
    )
    process = trainer.start("train", f"run_dir={run_dir}", *arguments, "train.steps=100000")
    wait_for_step(process, run_dir, 3)
    run_dir.rename(now)
    assert process.wait() == 5, process.output
    assert not run_dir.exists()
    (name,) = checkpoint_names(now)
    assert f"{name} is committed there" in process.output
    assert f"python -m trainer resume 'run_dir={now}'" in process.output
    assert "/proc/" not in process.output + (now / "train.log").read_text()
    steps = f"train.steps={directory.step_of(now / 'checkpoints' / name) + 3}"
    trainer.run_in_one_process(
        ("resume", f"run_dir={now}", steps), ("train", f"run_dir={reference}", *arguments, steps)
    )
    assert_same_run(reference, now)
