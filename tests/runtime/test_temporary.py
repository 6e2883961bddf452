"""A machine without a writable place for temporary files, such as a container with a read-only root."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import NARROW, checkpoint_names

from trainer.checkpoint.verification import newest_valid
from trainer.commands import verify
from trainer.errors import UsageError
from trainer.runtime import temporary

ROOT = Path(__file__).parents[2]
SECONDS_ALLOWED = 240
# every mount but those of the kernel's and the run's is made read-only, for the process alone
READ_ONLY = """
mount --make-rprivate / || exit 98
awk '{print $2}' /proc/mounts | sort -u | while read -r place; do
    case $place in /proc*|/sys*|/dev*) ;; *)
        mount --bind "$place" "$place" 2>/dev/null && mount -o remount,ro,bind "$place" 2>/dev/null;;
    esac
done
mount -t tmpfs none "$RUNS" || exit 98
touch "$OUTSIDE/x" 2>/dev/null && exit 98
"$@"
status=$?
cp -r "$RUNS" /dev/shm/$(basename "$OUTSIDE")
exit $status
"""


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])


@pytest.mark.usefixtures("nowhere")
def test_where_python_finds_no_temporary_directory_memory_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    temporary.settle()
    assert tempfile.gettempdir() == temporary.IN_MEMORY
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(temporary, "IN_MEMORY", "/nonexistent")
    temporary.settle()
    assert tempfile.gettempdir() == temporary.USUAL


def test_a_temporary_directory_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    temporary.settle()
    assert tempfile.gettempdir() == str(tmp_path)


def test_a_replay_says_that_it_needs_a_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(UsageError, match=r"/nonexistent, which cannot be written: No such file.*\n.*\n  TMPDIR=/runs "):
        verify._temporary_directory(Path("/runs/mine"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_run_on_a_read_only_root_needs_nothing_but_its_directory(tmp_path: Path) -> None:
    """Fails without ``temporary.settle``: importing TensorFlow asks for a temporary directory."""
    runs, kept = tmp_path / "runs", Path("/dev/shm") / tmp_path.name
    runs.mkdir()
    steps = ("train.steps=2", "evaluation.every_steps=2", "checkpoint.every_steps=2")
    command = [sys.executable, "-m", "trainer", "train", f"run_dir={runs / 'run'}", *NARROW, *steps]
    environment = {**os.environ, "RUNS": str(runs), "OUTSIDE": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS_ALLOWED,
            check=False,
        )
        if ended.returncode == 98 or "unshare failed" in ended.stderr:
            pytest.skip("this machine does not let a process mount anything")
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        found = kept / "runs" / "run" if (kept / "runs").exists() else kept / "run"
        assert checkpoint_names(found) == ["step-00000002"]
        assert newest_valid(found / "checkpoints", "full", pytest.fail).manifest.step == 2
    finally:
        subprocess.run(["rm", "-rf", kept], check=True)
