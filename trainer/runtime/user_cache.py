"""The user's cache directory, for what can be made again (XDG Base Directory Specification)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

KEEPING = "start cache"  # the name of threads that write there; a command that is done waits for them


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in the block, which has the name ``path`` when the block is done, and is gone when it fails.

    Raises:
        OSError: the system refuses it.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".trainer-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def user_cache() -> Path | None:
    """The directory of this program in the user's cache; None for a user without a home, as in a container."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "trainer"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "trainer" if os.path.isabs(home) else None
