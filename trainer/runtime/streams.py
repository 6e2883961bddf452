"""Standard streams that are closed, full or broken, or that take ASCII only.

A run does not end because nobody can read its output: ``train.log`` has all of it, too. For a command that has nothing
but its output, a disk that refuses it is an error. A reader that has had enough (``… | head -1``) is none: the command
goes on, and its exit status is the one that it would have had. Nor does a run wait for a reader that has
stopped reading (a pager, Ctrl-S, a pipe that is full): it leaves out what is not taken.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import typing
from collections.abc import Iterator

from trainer.errors import SPELLED, TrainerError
from trainer.storage.documents import to_json

NAMES = ("stdin", "stdout", "stderr")
PATIENCE_SECONDS = 10.0  # with a reader that takes nothing


def open_closed() -> None:
    """Give descriptors 0, 1 and 2 to ``/dev/null`` where they are closed. Otherwise a file that is opened later would
    get the number, and the output of a C++ library or a child process would be written into it.
    """
    for descriptor in range(len(NAMES)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    for name in NAMES:
        if getattr(sys, name) is None:  # as Python found it closed
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  as long as the process


def guard(*, tolerant: bool) -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that survive. If the command is ``tolerant``, output that
    the disk or the terminal refuses, or that nobody takes for ``PATIENCE_SECONDS``, is lost, with a warning on standard
    error; if not, standard output raises, and waits. Output
    whose reader has gone, and standard error, are lost always: the exit status remains. What their encoding lacks is
    spelled in ASCII.
    """
    sys.stdout = _guarded(sys.stdout, _Stream(1, tolerant=tolerant, waits=not tolerant))
    sys.stderr = _guarded(sys.stderr, _Stream(2, tolerant=True, waits=not tolerant))


@contextlib.contextmanager
def spelling() -> Iterator[None]:
    """In this block, ``sys.stdout`` and ``sys.stderr`` spell what their encoding lacks, where they are Python's own
    streams.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=SPELLED)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def json_text(value: object) -> str:
    """``value`` as JSON for standard output; escaped by JSON's own rules where the stream lacks a character. A number
    that is not finite is null.
    """
    text = to_json(value, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return to_json(value, indent=2, ascii_only=True)
    return text


def on_stdout(text: str) -> str:
    """``text`` as standard output will show it, for tables that count its characters."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, SPELLED).decode(encoding)


def _guarded(stream: object, raw: _Stream) -> io.TextIOWrapper:
    if not isinstance(stream, io.TextIOWrapper):
        raise AssertionError(f"{stream} is not a stream of this process")
    return io.TextIOWrapper(
        io.BufferedWriter(typing.cast(io.RawIOBase, raw)),
        encoding=stream.encoding,
        errors=SPELLED,
        # Python's own stream has no buffer then (PYTHONUNBUFFERED), and this one has
        line_buffering=stream.line_buffering or stream.write_through,
        write_through=stream.write_through,
    )


class _Stream(io.RawIOBase):
    """The raw stream under a guarded one."""

    def __init__(self, descriptor: int, *, tolerant: bool, waits: bool) -> None:
        self._descriptor = descriptor
        self._tolerant = tolerant
        self._waits = waits
        self._failed = False
        self._full = False  # nothing was taken at the last attempt

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]  # as io.BufferedWriter calls it
        """
        Raises:
            TrainerError: the output is lost, and that is not tolerated.
        """
        if self._failed:
            return len(data)
        try:
            if self._waits:
                return os.write(self._descriptor, data)
            return self._offer(data)
        except OSError as error:
            self._failed = True
            what = f"standard output cannot be written: {error.strerror}"
            if self._tolerant:
                self._tell(f"{what}; further output is in train.log only")
                return len(data)
            if error.errno == errno.EPIPE:
                return len(data)
            raise TrainerError(what) from error

    def _offer(self, data: memoryview) -> int:
        """Write as much as does not wait. All of it is lost, and counts as written, when nothing is taken."""
        if _is_taking(self._descriptor, 0.0 if self._full else PATIENCE_SECONDS):
            self._full = False
            return os.write(self._descriptor, data[: select.PIPE_BUF])  # for so much there is room: pipe(7)
        if not self._full:
            self._full = True
            self._tell(
                f"nobody has taken standard output for {PATIENCE_SECONDS:.0f} s (a pipe that is full, a terminal that "
                "is stopped); the run goes on, and train.log has everything"
            )
        return len(data)

    def _tell(self, text: str) -> None:
        """Warn about standard output on standard error, which may go to the same place."""
        if self._descriptor == 1 and _is_taking(2, 0.0):
            with contextlib.suppress(OSError):
                os.write(2, f"warning: {text}\n".encode())


def _is_taking(descriptor: int, seconds: float) -> bool:
    """Whether a stream takes something, now or within so many seconds. An error counts: to write raises it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(1000 * seconds))
