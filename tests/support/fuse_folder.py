"""A folder seen through FUSE, whose reads never end once a file exists: ``python fuse_folder.py FOLDER PLACE FLAG``.

It needs fusepy, which the lock files do not have, and imports nothing of ``trainer``.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

READ_SECONDS = 0.02  # or a run would be over before its reads can stall

fuse = importlib.import_module("fuse")


class Folder(fuse.Operations):  # type: ignore[misc, name-defined]
    """Reads of ``folder``; fusepy calls each method with a path below the mount point."""

    def __init__(self, folder: str, flag: str) -> None:
        self._folder = folder
        self._flag = flag

    def getattr(self, path: str, file: int | None = None) -> dict[str, Any]:
        try:
            found = os.lstat(self._folder + path)
        except OSError as error:
            raise fuse.FuseOSError(error.errno) from error
        return {name: getattr(found, name) for name in ("st_mode", "st_nlink", "st_size", "st_mtime", "st_uid")}

    def readdir(self, path: str, directory: int) -> list[str]:
        return [".", "..", *os.listdir(self._folder + path)]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._folder + path, flags)

    def read(self, path: str, size: int, offset: int, file: int) -> bytes:
        time.sleep(READ_SECONDS)
        while os.path.exists(self._flag):
            time.sleep(1)
        return os.pread(file, size, offset)

    def release(self, path: str, file: int) -> None:
        os.close(file)


if __name__ == "__main__":
    folder, place, flag = sys.argv[1:]
    fuse.FUSE(Folder(folder, flag), place, foreground=True)
