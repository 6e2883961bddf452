"""The lease on a run directory: it keeps the directory to one writer where ``flock`` does not reach.

Within one kernel ``flock`` decides, and a crash leaves nothing behind. Some network filesystems do not carry the lock
to other hosts. Those that do drop it when a host is cut off, although the process there is still alive. So the lock
file also names its holder, and the holder renews the entry every few seconds.

The argument. A writer may find the name of a process on another host, or on this host before its last boot. It cannot
know whether that process is alive. It watches the file: a renewal means that the process is alive. Without a renewal
for ``TAKEN_AFTER`` seconds the newcomer writes its own name. From then on the former holder may not write, should it
come back: it checks the name before it commits a checkpoint (``Fence``), right before the rename that makes the
checkpoint valid. One case remains: the former holder is suspended for ``TAKEN_AFTER`` seconds between this check and
the rename. It then renames a directory that carries its own mark, and that directory is gone: a newcomer that took over
removes unfinished directories before it looks for the newest checkpoint. Clocks of different hosts are never compared.

A holder that ends, with or without an error, empties the file, so the next one need not wait. It also need not wait
when the entry is from this host and this boot of its kernel, because ``flock`` has already decided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import RunDirectoryInUse
from trainer.storage import holding
from trainer.storage.host import host_name

RENEWED_EVERY = 3.0  # seconds
TAKEN_AFTER = 20.0  # seconds without a renewal
LOOK_EVERY = 1.0  # seconds
MOST_BYTES = 1000
BOOT = Path("/proc/sys/kernel/random/boot_id")  # the id of this boot of the kernel (Linux, proc(5))


@dataclasses.dataclass(frozen=True)
class Writer:
    """A process that writes to a run directory, as the lock file names it."""

    process: int
    host: str
    boot: str
    started: str
    token: str

    @property
    def machine(self) -> tuple[str, str]:
        return self.host, self.boot

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, running since {self.started}"

    def to_text(self, renewals: int) -> str:
        fields = "\n".join(f"{name} {value}" for name, value in dataclasses.asdict(self).items())
        return f"{fields}\nrenewals {renewals:08}\n"


# in a lock file of an earlier version the host may be empty or contain blanks
FIELDS = re.compile(r"process (\d+)\nhost (.*)\nboot (\S+)\nstarted (\S+)\ntoken ([0-9a-f]+)\nrenewals \d+\n")


def parse(text: str) -> Writer | None:
    """The writer that a lock file names; None when it names none or cannot be parsed."""
    match = FIELDS.fullmatch(text)
    return None if match is None else Writer(int(match[1]), *match.group(2, 3, 4, 5))


def this_process() -> Writer:
    return _writer(os.getpid())  # a child has its own entry, not its parent's


@functools.cache
def _writer(process: int) -> Writer:
    try:
        boot = BOOT.read_text().strip()
    except OSError:  # another system
        boot = "unknown"
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Writer(process, host_name(), boot, started, secrets.token_hex(8))


@contextmanager
def leased(path: Path, descriptor: int, warn: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lease while the block runs. ``path`` is the lock file, open as ``descriptor``. The caller holds its
    ``flock``. Yields whether the lease was taken from a process that may still be alive.

    Taking it needs at most ``TAKEN_AFTER + RENEWED_EVERY`` seconds, and no time where ``flock`` is enough.

    Raises:
        RunDirectoryInUse: the holder is alive.
    """
    taken_over = _take(path, descriptor, warn)
    released = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, descriptor, released), name="lease", daemon=True)
    renewing.start()
    try:
        yield taken_over
    finally:
        released.set()
        renewing.join()
        with contextlib.suppress(OSError):  # the disk is full or the directory is gone: the next writer waits
            if parse(read(path)) == this_process():
                os.ftruncate(descriptor, 0)


def _take(path: Path, descriptor: int, warn: Callable[[str], None]) -> bool:
    text = read(path)
    holder = parse(text)
    elsewhere = bool(text) and (holder is None or holder.machine != this_process().machine)
    if elsewhere:
        warn(
            f"{path.parent} was last written by {holder or 'an unknown process'}, which may be alive where locks do "
            f"not reach; waiting {TAKEN_AFTER:.0f} s for a sign of life"
        )
        _watch(path, text)
    _write(path, descriptor, 0)
    if elsewhere:  # another newcomer may have waited as long
        time.sleep(RENEWED_EVERY)
        refuse_unless_ours(path)
    return elsewhere


def _watch(path: Path, text: str) -> None:
    """Return when the file has held ``text`` for ``TAKEN_AFTER`` seconds, or when its writer has emptied it."""
    until = time.monotonic() + TAKEN_AFTER
    while time.monotonic() < until:
        time.sleep(LOOK_EVERY)
        now = read(path)
        if not now:
            return
        if now != text:
            raise RunDirectoryInUse(
                f"{path.parent} is in use by {parse(now) or 'another process'}; wait for it or choose another run_dir"
            )


def _renew(path: Path, descriptor: int, released: threading.Event) -> None:
    for renewals in itertools.count(1):
        if released.wait(RENEWED_EVERY):
            return
        with contextlib.suppress(OSError):  # the filesystem is not available: the fence checks later
            if parse(read(path)) != this_process():
                return
            _write(path, descriptor, renewals)


def _write(path: Path, descriptor: int, renewals: int) -> None:
    content = this_process().to_text(renewals).encode()
    try:
        os.pwrite(descriptor, content, 0)  # before truncating: an empty file would mean that it is free
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)  # to the server, so that other hosts see it
    except OSError as error:
        error.filename = str(path)
        raise


class Fence:
    """Stops this process from writing to a run directory that another process has taken over, or that is no longer
    where its name says.

    A directory that nobody holds has no lock file and needs no fence: nobody takes it over.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._held = holding.of(lock.parent)
        self._looked = -math.inf

    @property
    def mark(self) -> str:
        """A suffix for the names of unfinished files, so that two writers never use the same name."""
        return f".{this_process().token}" if self._lock.exists() else ""

    def refuse_if_lost(self) -> None:
        """
        Raises:
            RunDirectoryLost: the directory was moved, deleted, replaced or hidden.
        """
        if self._held is not None:
            self._held.refuse_if_lost()

    @property
    def is_lost(self) -> bool:
        """Whether the directory was moved, deleted, replaced or hidden, also after ``Held.follow``."""
        return self._held is not None and self._held.lost() is not None

    def look(self) -> None:
        """Check the lock file, unless that was done a moment ago. A filesystem that does not answer stops nothing.

        Raises:
            RunDirectoryInUse: another process has taken over.
        """
        if time.monotonic() - self._looked >= RENEWED_EVERY:
            with contextlib.suppress(OSError):
                self.look_now()

    def look_now(self) -> None:
        """As ``look``, but always: right before a write that a process that took over must not see.

        Raises:
            OSError: the filesystem does not answer.
        """
        self._looked = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            refuse_unless_ours(self._lock)


def refuse_unless_ours(lock: Path) -> None:
    """
    Raises:
        RunDirectoryInUse: the lock file names another process, or none.
    """
    now = parse(read(lock))
    if now != this_process():
        raise RunDirectoryInUse(
            f"{lock.parent} was taken over by {now or 'another process, which has ended'}, because this process "
            f"gave no sign of life for {TAKEN_AFTER:.0f} s (suspended, or cut off from the filesystem); this process "
            "has committed nothing there since"
        )


def read(path: Path) -> str:
    """The text of the lock file. It is opened each time, because opening makes a network filesystem ask its server."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, MOST_BYTES, 0).decode(errors="replace")
    finally:
        os.close(descriptor)
