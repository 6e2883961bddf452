"""What cannot be read is no damage: nothing is moved, nothing older is taken, and a message says what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnosing import commit, composed, narrow_config, narrow_state
from image_data import folder_source, make_shards, make_splits, shard_source

from trainer.__main__ import run
from trainer.checkpoint import directory, retention
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Start
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.tensors import StateFile, stored_tensors
from trainer.checkpoint.verification import newest_valid
from trainer.config.schema import Invocation
from trainer.errors import BadRecord, NoValidCheckpoint, UsageError
from trainer.run import session
from trainer.run_directory import mirror, which_checkpoint
from trainer.run_directory.history import keep_readable
from trainer.run_directory.mirror import Mirror, Place, fetch
from trainer.runtime.signals import StopRequest
from trainer.storage.unreadable import Unreadable, is_directory
from trainer.training.state import flatten

DATA, INDEX = "state.data-00000-of-00001", "state.index"
FILES = (manifests.FILE_NAME, "config.yaml", INDEX, DATA)
ERRORS = (
    errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
START = Start("2026-01-01T00:00:00+00:00", "host", 0, None, ())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with three checkpoints, and a history."""
    run_dir = tmp_path_factory.mktemp("made") / "run"
    for step in (2, 4, 6):
        commit(run_dir, step, narrow_state(), narrow_config(), (START,))
    shutil.copy(run_dir / "checkpoints" / "step-00000006" / "config.yaml", run_dir)
    (run_dir / "metrics.jsonl").write_text("")
    return run_dir


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


Refuse = Callable[[Path, int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Let the system refuse to open a file, or to list a directory, with an error: also to root, whom no mode binds."""

    def refuse(path: Path, number: int) -> None:
        for name in ("open", "listdir", "scandir"):  # Path.iterdir asks the last one from Python 3.13 on
            real = getattr(os, name)

            def refusing(given: Any, *arguments: Any, real: Any = real, **named: Any) -> Any:
                if isinstance(given, str | Path) and Path(given) == path:
                    raise OSError(number, os.strerror(number), str(given))
                return real(given, *arguments, **named)

            monkeypatch.setattr(os, name, refusing)

    return refuse


def content(place: Path) -> dict[str, str]:
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in place.rglob("*")
        if path.name != ".lock"
    }


@contextmanager
def unchanged(place: Path) -> Iterator[None]:
    before = content(place)
    yield
    assert content(place) == before


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """Nobody may enter a directory, and this process is nobody."""
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(0o755)


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
def test_a_resume_ends_with_the_file_the_reason_and_the_way_on_and_moves_nothing(
    number: int, run_dir: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = run_dir / "checkpoints" / "step-00000006" / manifests.FILE_NAME
    with unchanged(run_dir), pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_continue", pytest.fail)
        refuse(manifest, number)
        assert run(["resume", f"run_dir={run_dir}"]) == 4
    said = capsys.readouterr().err
    assert f"error: {manifest} cannot be read: {os.strerror(number)} ({errno.errorcode[number]})" in said
    assert "then run the same command again" in said
    assert f"  python -m trainer resume run_dir={run_dir} checkpoint=step-4\n" in said
    assert "skipping" not in said
    assert not (run_dir / "checkpoints" / directory.QUARANTINE).exists()


@pytest.mark.parametrize("name", FILES)
def test_it_does_not_matter_which_file_it_is_and_every_reader_answers_with_it(
    name: str, run_dir: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_dir / "checkpoints" / "step-00000006" / name
    refuse(path, errno.EACCES)
    commands = (
        ("resume", f"run_dir={run_dir}", "checkpoint=step-6"),
        ("doctor", f"checkpoint={path.parent}"),
        ("doctor", f"checkpoint={run_dir}"),
        ("diff", f"left={run_dir}", f"right={path.parent.with_name('step-00000004')}"),
        ("inspect", f"run_dir={run_dir}"),
        ("evaluate", f"run_dir={run_dir}"),
        ("export", f"run_dir={run_dir}", "format=keras", f"output={run_dir.parent / 'out.keras'}"),
    )
    with unchanged(run_dir):
        for command in commands:
            assert run([*command]) == 4, command
            said = capsys.readouterr()
            assert f"{path} cannot be read: Permission denied (EACCES)" in said.err, command
            assert "amaged" not in said.out + said.err, command


def test_a_requeued_run_does_not_go_back_and_does_not_begin_again(
    run_dir: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_run", pytest.fail)
    invocation = Invocation(str(run_dir), "resume", None, ())
    with unchanged(run_dir):
        refuse(run_dir / "checkpoints" / "step-00000006" / INDEX, errno.EIO)
        with pytest.raises(Unreadable, match=r"dmesg"):
            session.train(invocation, composed("model.width=0.01"), StopRequest())
        refuse(run_dir / "checkpoints", errno.ESTALE)
        with pytest.raises(Unreadable, match=r"checkpoints cannot be read: .*\(ESTALE\)"):
            session.train(invocation, composed("model.width=0.01"), StopRequest())
        monkeypatch.undo()  # the directory is listed now, to see that it is unchanged


def test_a_directory_that_cannot_be_looked_at_is_not_one_that_is_missing(run_dir: Path) -> None:
    assert not is_directory(run_dir / "missing")
    assert not is_directory(Path(__file__) / "below a file")
    with without_rights(run_dir):
        for look in (is_directory, directory.committed, directory.put_away):
            with pytest.raises(Unreadable):
                look(run_dir / "checkpoints")  # type: ignore[operator]


def test_missing_files_stay_damage_and_an_older_checkpoint_that_cannot_be_read_stops_nothing(
    run_dir: Path, refuse: Refuse
) -> None:
    parent = run_dir / "checkpoints"
    (parent / "step-00000006" / DATA).unlink()
    refuse(parent / "step-00000002" / manifests.FILE_NAME, errno.EACCES)
    warnings: list[str] = []
    found = newest_valid(parent, "full", warnings.append)
    assert (found.path.name, [damage.path.name for damage in found.damaged]) == ("step-00000004", ["step-00000006"])
    (warning,) = warnings
    assert f"{DATA} is missing" in warning


def test_damage_does_not_lead_past_a_checkpoint_that_cannot_be_read(run_dir: Path, refuse: Refuse) -> None:
    parent = run_dir / "checkpoints"
    (parent / "step-00000006" / DATA).unlink()
    refuse(parent / "step-00000004" / DATA, errno.EIO)
    with pytest.raises(Unreadable, match=r"step-00000004.*\n.*\n.*\n.*checkpoint=step-2$"):
        newest_valid(parent, "full", lambda text: None)


def test_an_older_checkpoint_is_taken_by_its_name(run_dir: Path, refuse: Refuse) -> None:
    refuse(run_dir / "checkpoints" / "step-00000006" / manifests.FILE_NAME, errno.EACCES)
    assert which_checkpoint.find(run_dir, "step-4", "full", pytest.fail).manifest.step == 4


def test_the_best_is_not_known_while_one_cannot_be_read(run_dir: Path, refuse: Refuse) -> None:
    refuse(run_dir / "checkpoints" / "step-00000002" / manifests.FILE_NAME, errno.EACCES)
    with pytest.raises(Unreadable, match="step-00000002"):
        which_checkpoint.find(run_dir, "best", "full", lambda text: None)


def test_verify_counts_it_apart_from_damage(run_dir: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]) -> None:
    parent = run_dir / "checkpoints"
    refuse(parent / "step-00000004" / INDEX, errno.EIO)
    assert run(["verify", f"run_dir={run_dir}"]) == 4
    said = capsys.readouterr().out
    assert "step-00000004  CANNOT BE READ\n" in said
    assert "2 whole, 0 damaged, 1 cannot be read" in said
    assert "DAMAGED" not in said


def test_retention_neither_counts_nor_deletes_it(run_dir: Path, refuse: Refuse) -> None:
    parent = run_dir / "checkpoints"
    refuse(parent / "step-00000002" / manifests.FILE_NAME, errno.EACCES)
    retention.retire(parent, Retention(1, 0, None, "accuracy"), {}, parent / "step-00000006")
    assert [path.name for path in directory.committed(parent)] == ["step-00000002", "step-00000006"]


def test_a_history_that_cannot_be_read_is_not_put_aside(run_dir: Path, refuse: Refuse) -> None:
    refuse(run_dir / "metrics.jsonl", errno.EACCES)
    with unchanged(run_dir), pytest.raises(Unreadable, match=r"metrics\.jsonl cannot be read"):
        keep_readable(run_dir, None, pytest.fail)


def test_a_configuration_of_the_run_that_cannot_be_read_ends_a_resume(
    run_dir: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(run_dir / "config.yaml", errno.EACCES)
    assert run(["resume", f"run_dir={run_dir}"]) == 4
    assert f"{run_dir / 'config.yaml'} cannot be read" in capsys.readouterr().err


@pytest.fixture
def far(run_dir: Path, tmp_path: Path) -> Place:
    """A mirror of the run."""
    place = Place(f"file://{tmp_path}/far")
    kept = Mirror(place, run_dir, Retention(100, 0, None, "accuracy"), START, 0)
    kept.follow({})
    kept.finish()
    assert kept.notices.empty()
    return place


def test_nothing_older_is_fetched_from_a_mirror_that_fails(
    far: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise ConnectionError("connection reset")

    back = tmp_path / "back"
    back.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(far, "get", failing)
        with pytest.raises(Unreadable, match=r"far cannot be read: ConnectionError: connection reset\n"):
            fetch(far, back, pytest.fail)
    assert list(back.iterdir()) == []
    (tmp_path / "far" / "checkpoints" / "step-00000006" / DATA).unlink()
    warnings: list[str] = []
    fetch(far, back, warnings.append)
    assert [path.name for path in directory.committed(back / "checkpoints")] == ["step-00000004"]
    assert "skipping step-00000006" in warnings[0]


def test_nothing_is_fetched_over_a_checkpoint_that_cannot_be_read_here(
    far: Place, run_dir: Path, refuse: Refuse
) -> None:
    refuse(run_dir / "checkpoints" / "step-00000006" / DATA, errno.EACCES)
    with unchanged(run_dir), pytest.raises(Unreadable):
        fetch(far, run_dir, pytest.fail)


def test_a_mirror_says_so_and_goes_on_with_its_next_pass(
    far: Place, run_dir: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "DELAYS", ())
    refuse(run_dir / "checkpoints" / "step-00000006" / manifests.FILE_NAME, errno.EIO)
    kept = Mirror(far, run_dir, Retention(100, 0, None, "accuracy"), START, 6)
    kept.follow({})
    kept.finish()
    assert "step-00000006/manifest.json cannot be read" in kept.notices.get_nowait()
    assert len(far.described()) == 3


def test_tensorflow_is_refused_as_python_is(run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "step-00000006"
    tree = narrow_state().tree()
    state_file = StateFile(tree, flatten(tree))
    brackets = Path(shutil.copytree(path, run_dir / "[1]"))
    for place in (path, brackets):
        with without_rights(place), pytest.raises(Unreadable, match="Permission denied"):
            stored_tensors(place)
    stored_tensors(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.checkpoint.tensors.stored_tensors", lambda place: stored)
        stored = stored_tensors(path)
        with without_rights(path), pytest.raises(Unreadable, match="Permission denied"):
            state_file.restore(path)
    (path / DATA).unlink()
    with pytest.raises(NoValidCheckpoint, match="is damaged"):
        state_file.restore(path)


def test_a_process_that_a_mode_binds_is_told_so(run_dir: Path) -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, for root without its capabilities")
    manifest = run_dir / "checkpoints" / "step-00000006" / manifests.FILE_NAME
    manifest.chmod(0)
    capabilities = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*capabilities, sys.executable, "-m", "trainer", "verify", f"run_dir={run_dir}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 4, process.stderr
    assert "2 whole, 0 damaged, 1 cannot be read" in process.stdout
    assert f"{manifest} belongs to user {os.geteuid()} with mode 0000, and this process runs as user" in process.stdout
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("number", "left_out"), [(errno.EIO, True), (errno.EACCES, True), (errno.ESTALE, False), (errno.EMFILE, False)]
)
def test_an_image_is_not_left_out_as_bad_while_its_filesystem_is_away(
    number: int, left_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Any:
        raise OSError(number, os.strerror(number))

    folder, shards = folder_source(make_splits(tmp_path / "folder")), shard_source(make_shards(tmp_path / "shards"))
    monkeypatch.setattr(Path, "read_bytes", failing)
    monkeypatch.setattr(os, "pread", failing)
    for source in (folder, shards):
        with pytest.raises(UsageError, match="cannot be read: ") as found:
            source.read(np.array([0]))
        assert isinstance(found.value, BadRecord) == left_out
