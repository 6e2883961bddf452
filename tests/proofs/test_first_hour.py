"""What README promises a newcomer: from a fresh clone to predictions for images of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_commands_of_the_readme_lead_from_a_clone_to_predictions_for_images_of_ones_own(tmp_path: Path) -> None:
    """It installs packages. docs/first-hour.md is such a page."""
    page = tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "scripts" / "make_first_hour"), str(page)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert process.returncode == 0, process.stdout + process.stderr
    written, kept = page.read_text(), (ROOT / "docs" / "first-hour.md").read_text()
    assert re.findall(r"^\$ .*$", written, re.MULTILINE) == re.findall(r"^\$ .*$", kept, re.MULTILINE)
    assert "every record can be used" in written
    assert "Traceback" not in written
    assert re.search(r"predictions\.csv", written.rpartition("$ ")[2])
