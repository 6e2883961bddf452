"""Starting Python programs quickly: forked off a process that has imported TensorFlow, or afresh.

Most processes of the tests are ``python -m trainer``, and importing what is installed takes each of them as long as
all of its training. So a worker of pytest starts ``fork_server.py`` once and has processes forked off it. Such a
process is a child of this one, with a number, session, directory, environment, arguments and streams of its own; it
imports ``trainer`` itself, takes signals and ends as any other. What it shares with its siblings: the addresses of the
libraries, and the seed of Python's hashes.

``Popen`` and ``run`` take what those of ``subprocess`` take. A fresh interpreter is started when ``fresh`` says so,
when the environment differs from that of this process in a variable which is read while things are imported (any but
``READ_LATER``), when the directory has a package ``trainer`` of its own, and always with FRESH_INTERPRETERS=1.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fork_server

READ_LATER = {"XDG_CACHE_HOME", "PYTEST_CURRENT_TEST", "TF_CONFIG"}
# what TensorFlow, Keras, JAX, h5py and Hydra set in the process that imports them: a user's shell has none of it
SET_BY_IMPORTS = {
    "ENABLE_RUNTIME_UPTIME_TELEMETRY",
    "HDF5_PLUGIN_PATH",
    "HYDRA_FULL_ERROR",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "TF2_BEHAVIOR",
    "TPU_SKIP_MDS_QUERY",  # where scripts/bench has installed JAX
    "TPU_ML_PLATFORM",
    "TPU_ML_PLATFORM_VERSION",
}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}  # as trainer sets it before it imports TensorFlow
SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def without_tensorflow(environment: Mapping[str, str]) -> dict[str, str]:
    """A user's environment: without the settings of TensorFlow, and without what imports have set in this process."""
    return {
        name: value for name, value in environment.items() if not name.startswith("TF_") and name not in SET_BY_IMPORTS
    }


# as in a shell where the environment is activated: messages name ``python`` and not its path
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# whoever keeps Python from storing bytecode would have each of hundreds of processes compile the program anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
ENVIRONMENT = without_tensorflow(os.environ)  # before any test


class Server:
    """The process that forks, seen from the worker of pytest that started it."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT | QUIET,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._libc = ctypes.CDLL(None, use_errno=True)

    def start(self, request: Mapping[str, Any], streams: tuple[int, int, int]) -> int:
        """Start a program and return the number of its process, which is a child of this one."""
        self._adopt_orphans(True)
        try:
            fork_server.send(self._connection, request, streams)
            received = fork_server.receive(self._connection)
        finally:
            self._adopt_orphans(False)
        assert received is not None, f"tests/support/fork_server.py has ended with status {self.process.wait()}"
        answer: Any = received[0]
        if "pid" not in answer:
            raise OSError(answer["errno"], answer["message"])
        return int(answer["pid"])

    def _adopt_orphans(self, adopt: bool) -> None:
        if self._libc.prctl(SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")

    def close(self) -> None:
        self._connection.close()
        self.process.wait()


class Forked(subprocess.Popen[Any]):
    """As ``subprocess.Popen``, of a Python program that the server forks."""

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        pipes = [given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        umask = os.umask(0)
        os.umask(umask)
        request = {
            "command": list(map(str, given["args"][1:])),
            "cwd": os.path.abspath(given["cwd"] or "."),
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "umask": umask,
            "new_session": given["start_new_session"],
        }
        try:
            chosen = [place if descriptor == -1 else descriptor for place, descriptor in enumerate(streams)]
            self.pid = server().start(request, (chosen[0], chosen[1], chosen[2]))
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


_started: list[Server] = []


def server() -> Server:
    if not _started:
        _started.append(Server())
    return _started[0]


def close() -> None:
    while _started:
        _started.pop().close()


def may_be_forked(cwd: Path, environment: Mapping[str, str]) -> bool:
    """Whether nothing that an interpreter reads while it starts and imports is different from this process's."""
    if sys.platform != "linux" or os.environ.get("FRESH_INTERPRETERS") == "1" or (cwd / "trainer").exists():
        return False
    names = (ENVIRONMENT.keys() | environment.keys()) - READ_LATER
    return all(ENVIRONMENT.get(name) == environment.get(name) for name in names)


def start(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], fresh: bool, **options: Any
) -> subprocess.Popen[Any]:
    """``python COMMAND``; the options are those of ``subprocess.Popen``."""
    kind = Forked if not fresh and may_be_forked(cwd, environment) else subprocess.Popen
    return kind([sys.executable, *command], cwd=cwd, env=dict(environment), **options)


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    fresh: bool = False,
    timeout: float,
    status: int | None = 0,
) -> subprocess.CompletedProcess[str]:
    """Run ``python COMMAND`` to its end and return what it wrote; ``status`` is required of it unless it is None."""
    surroundings = without_tensorflow(os.environ) if environment is None else environment
    pipe = subprocess.PIPE
    with start(
        command,
        cwd=Path.cwd() if cwd is None else cwd,
        environment=surroundings,
        fresh=fresh,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    finished = subprocess.CompletedProcess(list(command), process.returncode, output, errors)
    assert status is None or finished.returncode == status, f"{command} exited with {finished.returncode}: {errors}"
    return finished
