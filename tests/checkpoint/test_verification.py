"""Verification: damage is found at the depth asked for and named down to the tensor; readers and a run coexist."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from diagnosing import commit, composed, narrow_config, narrow_state
from processes import Trainer

from trainer.__main__ import run
from trainer.checkpoint import directory, retention, verification
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.tensors import read_tensor
from trainer.checkpoint.verification import Vanished, newest_valid, verify
from trainer.config.schema import Invocation
from trainer.errors import NotSaved, NoValidCheckpoint, RunDirectoryInUse, UsageError
from trainer.run import session
from trainer.run_directory import lock, which_checkpoint
from trainer.runtime.signals import StopRequest

DATA, INDEX = "state.data-00000-of-00001", "state.index"
KERNEL = "model/mixed_6d/branch_3/conv2d_0b_1x1/conv/kernel"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with three checkpoints of the narrow network."""
    run_dir = tmp_path_factory.mktemp("made") / "run"
    for step in (2, 4, 6):
        commit(run_dir, step, narrow_state(), narrow_config())
    shutil.copy(run_dir / "checkpoints" / "step-00000006" / "config.yaml", run_dir)
    return run_dir


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def flip_kernel(checkpoint: Path) -> None:
    """Change one bit of the values of ``KERNEL``, which are where they are found."""
    values = read_tensor(checkpoint, KERNEL).tobytes()
    flip(checkpoint / DATA, (checkpoint / DATA).read_bytes().index(values) + 1)


def test_damage_in_the_values_is_named_down_to_the_tensor(run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "step-00000006"
    flip_kernel(path)
    with pytest.raises(NoValidCheckpoint, match=f"{DATA} is damaged: its SHA-256 is .*\n  damaged tensor: {KERNEL}$"):
        verify(path, "full")


def test_a_damaged_index_is_not_followed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir / "checkpoints" / "step-00000006"
    flip(path / INDEX, -20)  # among the offsets that TensorFlow would trust
    flip(path / DATA, 100)
    monkeypatch.setattr("trainer.checkpoint.tensors.damaged_tensors", pytest.fail)
    with pytest.raises(NoValidCheckpoint) as found:
        verify(path, "full")
    assert f"{INDEX} is damaged" in str(found.value)
    assert f"{DATA} is damaged" in str(found.value)


@pytest.mark.parametrize(
    ("name", "damage", "found_by"),
    [
        (DATA, "flip", {"full"}),
        (DATA, "truncate", {"full", "fast"}),
        (INDEX, "flip", {"full", "fast"}),
        ("config.yaml", "flip", {"full", "fast"}),
        ("config.yaml", "link", {"full", "fast", "off"}),
        (manifests.FILE_NAME, "value", {"full", "fast", "off"}),
        (manifests.FILE_NAME, "truncate", {"full", "fast", "off"}),
        ("", "rename", {"full", "fast", "off"}),
    ],
)
def test_each_depth_finds_what_it_promises(name: str, damage: str, found_by: set[str], run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "step-00000004"
    file = path / name
    match damage:
        case "flip":
            flip(file, 50)
        case "truncate":
            file.write_bytes(file.read_bytes()[:-3])
        case "value":
            file.write_text(file.read_text().replace('"examples": 128', '"examples": 129'))
        case "link":
            moved = file.rename(run_dir / "elsewhere")
            file.symlink_to(moved)
        case "rename":
            path = path.rename(path.with_name("step-00000005"))
    for depth in ("full", "fast", "off"):
        if depth in found_by:
            with pytest.raises(NoValidCheckpoint):
                verify(path, depth)  # type: ignore[arg-type]
        else:
            assert verify(path, depth).step == 4  # type: ignore[arg-type]


def test_quarantine_deletes_nothing_says_why_and_finds_a_free_name(run_dir: Path) -> None:
    parent = run_dir / "checkpoints"
    first = directory.quarantine(parent / "step-00000004", "the first reason")
    commit(run_dir, 4, narrow_state(), narrow_config())
    second = directory.quarantine(parent / "step-00000004", "the second")
    place = parent / directory.QUARANTINE
    assert sorted(path.name for path in place.iterdir()) == [
        "step-00000004", "step-00000004.1", "step-00000004.1.reason.txt", "step-00000004.reason.txt"
    ]  # fmt: skip
    assert (place / "step-00000004.reason.txt").read_text() == "the first reason\n"
    assert verify(first, "full").step == verify(second, "full").step == 4
    assert [path.name for path in directory.committed(parent)] == ["step-00000002", "step-00000006"]


def train_again(run_dir: Path) -> None:
    """The command line of a job that is requeued."""
    session.train(Invocation(str(run_dir), "resume", None, ()), composed("model.width=0.01"), StopRequest())


def test_a_run_whose_checkpoints_are_all_damaged_or_in_quarantine_is_never_started_afresh(run_dir: Path) -> None:
    parent = run_dir / "checkpoints"
    for path in directory.committed(parent):
        flip(path / INDEX, 10)
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(NoValidCheckpoint, match="none of the 3 checkpoints"):
        train_again(run_dir)
    assert sorted(path for path in run_dir.rglob("*") if path.name != ".lock") == before, "evidence stays in place"
    for path in directory.committed(parent):
        directory.quarantine(path, "damaged")
    with pytest.raises(NoValidCheckpoint, match=r"holds no checkpoint that counts, only 3 put away: .*quarantine"):
        train_again(run_dir)


def test_a_checkpoint_that_retention_deletes_under_a_reader_is_no_damage(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = run_dir / "checkpoints"
    newest = parent / "step-00000006"

    def while_hashing(path: Path) -> str:
        with one_at_a_time:
            if newest.is_dir():
                commit(run_dir, 8, narrow_state(), narrow_config())
                retention.retire(parent, Retention(1, 0, None, "accuracy"), {}, parent / "step-00000008")
        return files_digest(path)

    files_digest, one_at_a_time = verification.stored_digest, threading.Lock()
    monkeypatch.setattr(verification, "stored_digest", while_hashing)
    warnings: list[str] = []
    assert newest_valid(parent, "full", warnings.append).path.name == "step-00000008"
    assert not newest.is_dir(), "nothing was deleted under the reader: nothing was proven"
    assert warnings == []
    with pytest.raises(Vanished), verification.reading(parent / "step-00000008"):
        shutil.rmtree(parent / "step-00000008")


def test_retention_keeps_the_verified_checkpoint_whatever_the_policy_says(run_dir: Path) -> None:
    parent = run_dir / "checkpoints"
    retention.retire(parent, Retention(1, 0, None, "accuracy"), {}, parent / "step-00000004")
    assert [path.name for path in directory.committed(parent)] == ["step-00000004", "step-00000006"]


def test_verify_takes_the_names_that_resume_takes_and_checks_the_newest_even_when_it_is_damaged(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, newest = run_dir / "checkpoints" / "step-00000004", run_dir / "checkpoints" / "step-00000006"
    there = manifests.read(best / manifests.FILE_NAME)
    manifests.write(dataclasses.replace(there, validation={"loss": 0.1, "accuracy": 1.0}), best / manifests.FILE_NAME)
    for name, path in (("latest", newest), ("best", best), (str(best), best)):
        assert run(["verify", f"run_dir={run_dir}", f"checkpoint={name}"]) == 0
        assert capsys.readouterr().out.startswith(f"{path.name}  ok  ")
    flip_kernel(newest)
    assert run(["verify", f"run_dir={run_dir}", "checkpoint=latest"]) == 4
    assert capsys.readouterr().out.startswith("step-00000006  DAMAGED\n")
    assert which_checkpoint.find(run_dir, "latest", "full", print).path == best


def test_verify_prints_a_line_for_each_and_exits_0_or_4(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"run_dir={run_dir}"]) == 0
    assert "3 whole, 0 damaged" in capsys.readouterr().out
    flip_kernel(run_dir / "checkpoints" / "step-00000004")
    assert run(["verify", f"run_dir={run_dir}"]) == 4
    output = capsys.readouterr().out
    assert "step-00000004  DAMAGED" in output
    assert f"damaged tensor: {KERNEL}" in output
    assert "2 whole, 1 damaged" in output
    assert run(["verify", f"run_dir={run_dir}", "checkpoint=step-6"]) == 0
    assert run(["verify", f"run_dir={run_dir}", "checkpoint=step-5"]) == 4
    assert "checkpoint=step-5 does not exist; in " in capsys.readouterr().err
    assert run(["verify", f"run_dir={run_dir}", "replay=perhaps"]) == 2
    assert run(["verify", f"run_dir={run_dir / 'nowhere'}"]) == 2
    assert not (run_dir / ".lock").exists()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    with lock.writing(tmp_path / "held"):
        yield tmp_path / "held"


def test_a_second_writer_is_told_who_the_first_is_and_a_crash_leaves_nothing(held: Path) -> None:
    with pytest.raises(RunDirectoryInUse, match=f"process {os.getpid()} on "), lock.writing(held):
        pytest.fail("two writers")
    child = os.fork()
    if child == 0:
        descriptor = os.open(held / "other", os.O_CREAT | os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os._exit(0)  # as a crash: nothing is released
    os.waitpid(child, 0)
    descriptor = os.open(held / "other", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_filesystem_without_locks_is_named_as_such(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)
    with pytest.raises(UsageError, match="on a filesystem without locks"), lock.writing(tmp_path / "run"):
        pytest.fail("no lock, no writer")


def test_an_error_of_the_disk_on_a_file_of_the_run_is_a_message(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(NotSaved, match="No such file or directory"), lock.writing(run_dir):
        (run_dir / "gone" / "config.yaml").write_text("")


FOREIGN = (
    ".config.yaml.swp",
    ".DS_Store",
    ".nfs000000000000123400000001",
    "notes.txt",
    ".lock",
    "config.yaml~",
    "état",
)


def add_foreign(checkpoint: Path) -> list[str]:
    """What editors, desktops, network filesystems and users leave, and what TensorFlow could take for its own."""
    for name in FOREIGN:
        (checkpoint / name).write_text("not ours")
    (checkpoint / "state").mkdir()
    shutil.copy(checkpoint / DATA, checkpoint / "state" / "other.data-00000-of-00001")
    shutil.copy(checkpoint / INDEX, checkpoint / "state" / "other.index")
    (checkpoint / "state" / "checkpoint").write_text('model_checkpoint_path: "other"\n')
    values = bytearray((checkpoint / DATA).read_bytes())
    values[:] = bytes(len(values))
    for name in ("state.data-00001-of-00002", "state.data-00000-of-00002", "state/other.data-00000-of-00001"):
        (checkpoint / name).write_bytes(values)
    (checkpoint / "link").symlink_to("/dev/zero")
    os.mkfifo(checkpoint / "fifo")
    return sorted(path.name for path in checkpoint.iterdir())


def test_foreign_files_beside_intact_ones_are_a_note(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "checkpoints" / "step-00000006"
    before = read_tensor(path, KERNEL).tobytes()
    add_foreign(path)
    warnings: list[str] = []
    found = newest_valid(path.parent, "full", warnings.append)
    assert (found.path, found.damaged) == (path, ())
    (warning,) = warnings
    assert warning.startswith("step-00000006 also has .DS_Store, .config.yaml.swp, .lock, .nfs")
    assert warning.endswith(" and 4 more, which its manifest does not name and nothing reads")
    assert which_checkpoint.find(run_dir, "step-6", "full", warnings.append).path == path
    assert warnings == [warning, warning]
    assert read_tensor(path, KERNEL).tobytes() == before, "a foreign directory was read in place of the tensors"
    assert run(["verify", f"run_dir={run_dir}"]) == 0
    said = capsys.readouterr().out
    assert f"\n  {warning}\n" in said
    assert "3 whole, 0 damaged" in said
    assert run(["inspect", f"run_dir={run_dir}"]) == 0
    assert warning in capsys.readouterr().out
    assert run(["doctor", f"checkpoint={path}"]) == 0
    assert f"note: foreign_file: {warning}" in capsys.readouterr().out


def test_foreign_files_do_not_stand_in_for_what_is_missing(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "checkpoints" / "step-00000006"
    add_foreign(path)
    (path / DATA).rename(path / "state.data-00000-of-00001.bak")
    with pytest.raises(NoValidCheckpoint, match=rf"{DATA} is missing\n(.*\n)?  step-00000006 also has "):
        verify(path, "full")
    assert run(["doctor", f"checkpoint={path}"]) == 4
    assert f"missing_shard: {path / DATA} is missing" in capsys.readouterr().out


def test_foreign_files_move_and_go_with_their_checkpoint(run_dir: Path) -> None:
    parent = run_dir / "checkpoints"
    there = add_foreign(parent / "step-00000004")
    place = directory.quarantine(parent / "step-00000004", "to see")
    assert sorted(path.name for path in place.iterdir()) == there
    add_foreign(parent / "step-00000002")
    retention.retire(parent, Retention(1, 0, None, "accuracy"), {}, parent / "step-00000006")
    assert sorted(path.name for path in parent.iterdir()) == ["quarantine", "step-00000006"]


def test_what_cannot_be_deleted_yet_stops_neither_retention_nor_the_next_start(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = run_dir / "checkpoints"
    for name in ("step-00000002", ".writing-step-00000008"):
        (parent / name).mkdir(exist_ok=True)
        (parent / name / ".nfs1").touch()
    real = os.unlink

    def busy(path: str | Path, *arguments: int, **named: int) -> None:
        if Path(path).name == ".nfs1":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        real(path, *arguments, **named)

    monkeypatch.setattr(os, "unlink", busy)
    with pytest.raises(OSError, match="busy"):
        retention.retire(parent, Retention(1, 0, None, "accuracy"), {}, parent / "step-00000006")
    assert [path.name for path in directory.committed(parent)] == ["step-00000006"], "the other one was deleted"
    directory.remove_leftovers(parent)
    said = capsys.readouterr().err
    named = r"\.nfs1" if sys.version_info < (3, 13) else r"\.\w+-step-\d{8}"  # then rmtree blames the directory
    reason = "Device or resource busy; it is no longer a checkpoint"
    assert len(re.findall(rf"cannot be deleted: {named}: {reason}", said)) == 2
    assert not (parent / ".writing-step-00000008").exists(), "a writer that comes back could make it a checkpoint"
    commit(run_dir, 2, narrow_state(), narrow_config())
    (parent / "step-00000002" / ".nfs1").touch()
    with pytest.raises(OSError, match="busy"):  # and not that its name is taken
        retention.retire(parent, Retention(1, 0, None, "accuracy"), {}, parent / "step-00000006")
    monkeypatch.setattr(os, "unlink", real)
    directory.remove_leftovers(parent)
    assert [path.name for path in parent.iterdir()] == ["step-00000006"]


def test_a_manifest_with_another_sizes_entry_is_told_from_one_that_was_written(run_dir: Path) -> None:
    manifest = run_dir / "checkpoints" / "step-00000006" / manifests.FILE_NAME
    container = json.loads(manifest.read_text())
    container["sizes"][DATA] += 1
    manifest.write_text(json.dumps(container, indent=2))
    with pytest.raises(NoValidCheckpoint, match="was changed after it was written"):
        verify(manifest.parent, "off")


def test_the_command_needs_no_tensorflow_unless_a_tensor_is_damaged(trainer: Trainer, run_dir: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from trainer.__main__ import run\n"
        "status = run(sys.argv[1:]); print('tensorflow' in sys.modules, status)\n"
    )
    command = [sys.executable, "-c", program, "verify", f"run_dir={run_dir}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("False 0\n")
