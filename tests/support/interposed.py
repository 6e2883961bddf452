"""Building ``interpose.c``, running a Python process under it, and reading the trace it leaves."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("interpose.c")
SECONDS_ALLOWED = 3600


@dataclasses.dataclass(frozen=True)
class Call:
    """One call that changed a file or a directory; paths are relative to the watched place, ``.`` is the place itself.

    ``name`` is creat, truncate (to ``offset``), write (``data`` at ``offset``), fsync, rename (to ``other``), mkdir,
    unlink, rmdir or mark (a remark of the process, in ``path``).
    """

    name: str
    path: str
    other: str
    offset: int
    data: bytes


@functools.cache
def library() -> Path:
    """The compiled library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) to build tests/support/interpose.c")
    built = Path(tempfile.mkdtemp(prefix="interpose-")) / "interpose.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return built


def environment(root: Path, trace: Path | None = None, kill: str | None = None) -> dict[str, str]:
    """The environment of a process under the library; ``kill`` is ``before N`` or ``after N``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    added = {"LD_PRELOAD": str(library()), "INTERPOSE_ROOT": str(root), "XDG_CACHE_HOME": os.devnull}
    if trace is not None:
        added["INTERPOSE_TRACE"] = str(trace)
    if kill is not None:
        added["INTERPOSE_KILL"] = kill
    return {**kept, **added}


def run(program: Path, *arguments: str, root: Path, trace: Path | None = None) -> str:
    """Run a Python program under the library to its end and return what it printed."""
    process = subprocess.run(
        [sys.executable, str(program), str(root), *arguments],
        env=environment(root, trace),
        capture_output=True,
        text=True,
        timeout=SECONDS_ALLOWED,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def read_trace(trace: Path, root: Path) -> list[Call]:
    calls = []
    with trace.open("rb") as file:
        while header := file.readline():
            name, path, other, offset, size = header.decode().rstrip("\n").split("\t")
            data = file.read(int(size))
            assert file.read(1) == b"\n"
            if name != "mark":
                path = os.path.relpath(path, root)
            calls.append(Call(name, path, os.path.relpath(other, root) if other else "", int(offset), data))
    return calls
