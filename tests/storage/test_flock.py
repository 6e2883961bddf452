"""One holder of a lock at a time, and none after its process has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.storage.flock import locked

HOLDER = """
import sys, time
from pathlib import Path
from trainer.storage.flock import locked
assert locked(Path(sys.argv[1]), wait=False) is not None
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_has_one_holder_and_ends_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert locked(path, wait=False) is None
        finally:
            holder.send_signal(signal.SIGKILL)
        own = locked(path, wait=True)
        assert own is not None
    assert locked(path, wait=False) is None
    os.close(own)
    again = locked(path, wait=False)
    assert again is not None
    os.close(again)


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        locked(tmp_path / "lock", wait=False)
    assert not (tmp_path / "elsewhere").exists()
