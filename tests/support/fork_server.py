"""A Python process that has imported what is installed (TensorFlow, Keras, Hydra …) and forks programs off itself.

``python fork_server.py SOCKET``; tests/support/pythons.py starts it and says why. It imports, and does nothing else: it
executes no operation, makes no eager context, and has one thread when it forks. Nothing of ``trainer`` is imported
here: every program imports its own.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import runpy
import socket
import struct
import sys
import threading
import time
import types
from pathlib import Path

INSTALLED = (
    "tensorflow",
    "keras",
    "hydra",
    "omegaconf",
    "antlr4",
    "tensorboard.plugins.hparams.api",
    "fsspec",
    "google_crc32c",
    "h5py",
    "rich.live",
    "rich.progress",
    "scipy.special",
    "concurrent.futures.thread",
    "logging.handlers",
)
UNUSED = ("jax", "sklearn", "matplotlib", "pandas")  # pandas imports pyarrow, which starts a thread
HEADER = struct.Struct("!I")
STREAMS = 3
STARTED_WITH = dict(os.environ)


@dataclasses.dataclass(frozen=True)
class Request:
    """One program to start: what follows ``python`` on its command line, and the surroundings it starts in."""

    command: list[str]
    cwd: str
    environment: dict[str, str]
    umask: int
    new_session: bool


def send(connection: socket.socket, message: object, descriptors: tuple[int, ...] = ()) -> None:
    data = json.dumps(message).encode("utf-8", "surrogateescape")
    if descriptors:
        socket.send_fds(connection, [HEADER.pack(len(data))], descriptors)
    else:
        connection.sendall(HEADER.pack(len(data)))
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[object, list[int]] | None:
    """A message and the descriptors that came with it; None at the end."""
    header, descriptors, _, _ = socket.recv_fds(connection, HEADER.size, STREAMS)
    if not header:
        return None
    (size,) = HEADER.unpack(header)
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return json.loads(data.decode("utf-8", "surrogateescape")), descriptors


def require_one_thread() -> None:
    """A fork copies the calling thread alone: what another one holds or was to do would be lost.

    NumPy's and SciPy's OpenBLAS end their threads before a fork and start them anew when they are needed. So this is
    asked after a first fork.
    """
    from tensorflow.python.eager import context

    if child := os.fork():
        os.waitpid(child, 0)
    else:
        os._exit(0)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len(names) == 1, f"an import started threads: {names}"
    assert threading.active_count() == 1, threading.enumerate()
    assert context._context is None, "an import executed an operation"


def serve(connection: socket.socket) -> Request | None:
    """Fork for every request. Returns in the forked process, with what it is to run, or None when all is done."""
    while (message := receive(connection)) is not None:
        request, streams = Request(**message[0]), message[1]  # type: ignore[arg-type]
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            # The one that asked is to be the parent, as of a process that it started itself. It has asked the kernel
            # to be given orphans; so this process ends, and leaves its child an orphan.
            between = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.0005)
            connection.close()
            os.close(told)
            enter(request, streams, tell)
            return request
        os.close(tell)
        os.waitpid(child, 0)
        with os.fdopen(told, "rb") as answers:
            answer = answers.read()
        for descriptor in streams:
            os.close(descriptor)
        send(connection, json.loads(answer))
    return None


def enter(request: Request, streams: list[int], tell: int) -> None:
    """Take on the session, directory, environment and streams of the request, and report the number of the process."""
    try:
        if request.new_session:
            os.setsid()
        os.umask(request.umask)
        os.chdir(request.cwd)
        for place, descriptor in enumerate(streams):
            os.dup2(descriptor, place)
            os.close(descriptor)
        set_by_imports = {name: os.environ[name] for name in os.environ.keys() - STARTED_WITH.keys()}
        os.environ.clear()
        os.environ.update(set_by_imports | request.environment)
    except OSError as error:
        os.write(tell, json.dumps({"errno": error.errno, "message": str(error)}).encode())
        os._exit(1)
    os.write(tell, json.dumps({"pid": os.getpid()}).encode())
    os.close(tell)


def run(command: list[str]) -> None:
    """What ``python COMMAND`` does: ``-m MODULE …``, ``-c CODE …`` or ``FILE …``."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own generator does so by itself after a fork
    importlib.invalidate_caches()
    kind, *rest = command
    if kind == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = ["-m", *rest[1:]]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(kind))
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # as trainer.runtime.importing does
    for name in INSTALLED:
        importlib.import_module(name)
    for name in UNUSED:
        del sys.modules[name]
    require_one_thread()
    gc.collect()
    gc.freeze()  # or the first collection of every program would copy all of it
    request = serve(connection)
    if request is not None:
        sys.orig_argv = [sys.executable, *request.command]
        run(request.command)


if __name__ == "__main__":
    main()
