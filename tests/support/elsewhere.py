"""Building ``elsewhere.c``, under which a process sees no other's locks and may believe to be on another host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("elsewhere.c")


def build_elsewhere(place: Path) -> Path:
    """The compiled library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) to build tests/support/elsewhere.c")
    built = place / "elsewhere.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(SOURCE), "-ldl"], check=True)
    return built
