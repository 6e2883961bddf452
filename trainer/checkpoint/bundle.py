"""Reading TensorFlow's checkpoint files: exactly those at the given prefix, and no others.

TensorFlow treats a prefix as a pattern when it reads, but not when it writes: below ``lr=[1]`` it does not find what it
wrote there. So where the prefix contains a pattern character, TensorFlow gets another name of the same files. And where
a prefix is also a directory, ``tf.train.load_checkpoint`` reads whatever lies in the directory: a foreign directory
``state`` in a checkpoint would replace its tensors. So this module does not call it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.errors import UsageError
from trainer.storage.unreadable import is_directory, readable, refuse_unreadable

# what tsl::Env::GetMatchingPaths does not take literally, and bytes that are not UTF-8: TensorFlow is given neither
PATTERN = re.compile("[*?\\[\\\\\udc80-\udcff]")
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # when the usual place for temporary files cannot be used
DESCRIPTORS = Path("/proc/self/fd")
PLAIN = "bundle"


class BundleError(Exception):
    """TensorFlow rejects what it read, or a file is missing. ``truncated``: a file ends before a tensor does."""

    def __init__(self, text: str, *, truncated: bool) -> None:
        super().__init__(text)
        self.truncated = truncated


class BundleReader:
    """The tensors under a prefix. A value is read, and its checksum verified, when the caller requests it.

    Every method raises the same errors.

    Raises:
        BundleError: the index is missing or damaged.
        Unreadable: the system cannot read it now.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        stack = ExitStack()
        name = stack.enter_context(without_patterns(prefix))
        self._name = name
        weakref.finalize(self, stack.close)  # the files of values are opened when a value is requested
        with self._translated():
            self._reader = tf.compat.v1.train.NewCheckpointReader(name)

    @functools.cached_property
    def shapes(self) -> dict[str, list[int]]:
        with self._translated():
            return dict(self._reader.get_variable_to_shape_map())

    @functools.cached_property
    def types(self) -> dict[str, tf.DType]:
        with self._translated():
            return dict(self._reader.get_variable_to_dtype_map())

    def get(self, key: str) -> Any:
        """The value of one tensor as a NumPy array (a scalar for rank 0, ``bytes`` for a text)."""
        with self._translated():
            return self._reader.get_tensor(key)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with translated(self._prefix, self._name):
            yield


@contextmanager
def translated(prefix: Path, name: str) -> Iterator[None]:
    """Translate TensorFlow's errors about the files at ``prefix``, which TensorFlow knows as ``name``.

    Raises:
        BundleError: in place of TensorFlow's error.
        Unreadable: the cause is an error of the operating system that says nothing about the files.
    """
    try:
        yield
    except (tf.errors.OpError, IndexError, ValueError) as error:  # IndexError: a file ends before the tensor does
        lines = str(error).splitlines() or [type(error).__name__]
        text = lines[0].replace(name, str(prefix))
        found = system_error(text, prefix)
        if found is not None:
            refuse_unreadable(prefix, found)
        truncated = isinstance(error, IndexError | tf.errors.OutOfRangeError) or "OutOfRange" in text
        raise BundleError(text, truncated=truncated) from error


def system_error(message: str, place: Path) -> OSError | None:
    """The operating system's error that a TensorFlow error carries only as text; None when it carries none."""
    found = [number for number in errno.errorcode if f"; {os.strerror(number)}" in message]  # "PATH; No such device"
    if not found:
        return None
    number = max(found, key=lambda number: len(os.strerror(number)))  # one text may be the beginning of another
    return OSError(number, os.strerror(number), str(place))


def os_error(error: tf.errors.OpError, place: Path) -> OSError:
    """The operating system's error behind a TensorFlow error, which carries it only as text.

    Raises:
        tf.errors.OpError: there is no such error behind it.
    """
    found = system_error(error.message, place)
    if found is None:
        raise error
    return found


@contextmanager
def without_patterns(prefix: Path) -> Iterator[str]:
    """A prefix under which TensorFlow can read the same files while the block runs.

    It is ``prefix`` itself where TensorFlow takes it literally. Otherwise it is links to the files in a temporary
    directory or, where none can be written, a path through an open descriptor.

    Raises:
        UsageError: none of these works.
        Unreadable: the directory of the files cannot be listed now.
    """
    if not PATTERN.search(str(prefix)):
        yield str(prefix)
        return
    with ExitStack() as stack:
        place = _temporary()
        if place is None:
            yield _through_descriptor(prefix, stack)
            return
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        for file in _siblings(prefix):
            rest = file.name.removeprefix(prefix.name)
            if file.name.startswith(prefix.name) and (not rest or rest.startswith((".index", ".data-"))):
                (place / f"{PLAIN}{rest}").symlink_to(file)
        yield str(place / PLAIN)


def _siblings(prefix: Path) -> list[Path]:
    """The files beside ``prefix``; empty without a directory, because TensorFlow itself reports missing files."""
    place = prefix.parent.absolute()
    with readable(place):
        return list(place.iterdir()) if is_directory(place) else []


def _temporary() -> Path | None:
    """A new directory whose path contains no pattern character; None when no place can be written."""
    for parent in (None, *PLACES):
        with contextlib.suppress(OSError):
            place = Path(tempfile.mkdtemp(prefix="trainer-", dir=parent))
            if not PATTERN.search(str(place)):
                return place
            place.rmdir()
    return None


def _through_descriptor(prefix: Path, stack: ExitStack) -> str:
    if PATTERN.search(prefix.name) or not DESCRIPTORS.is_dir():
        raise UsageError(
            f"TensorFlow treats {prefix} as a pattern, and there is no temporary directory for a link to it\n"
            "name one with TMPDIR=…, or give a path without * ? [ \\"
        )
    descriptor = os.open(prefix.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return str(DESCRIPTORS / str(descriptor) / prefix.name)
