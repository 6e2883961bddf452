"""The container of docs/container.md, built and run by a builder without a daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("podman", "buildah", "runc", "mmdebstrap")
ABSENT = [program for program in NEEDED if shutil.which(program) is None]

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(bool(ABSENT), reason=f"needs {', '.join(ABSENT)} (Debian's packages of these names)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_run_of_any_user_on_a_read_only_root_is_stopped_with_75_and_goes_on_bit_for_bit(
    suite: str, tmp_path: Path
) -> None:
    """It installs packages."""
    page = tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "scripts" / "try_container"), str(page), suite]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert process.returncode == 0, process.stdout + process.stderr
    written = page.read_text()
    assert "Traceback" not in written
    outputs = dict(re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", written, re.MULTILINE))
    (waited,) = [output for command, output in outputs.items() if command.startswith("podman wait")]
    assert waited.splitlines()[0] == "75"
    (again,) = [output for command, output in outputs.items() if command.startswith("podman start")]
    found = re.search(r"resuming /runs/mine at step (\d+) of 200", again)
    assert found is not None, again
    assert 0 < int(found[1]) < 200
    assert "done at step 200" in again
    (compared,) = [output for command, output in outputs.items() if " diff " in command]
    assert "state: bitwise equal" in compared
