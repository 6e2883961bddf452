"""Row groups of Parquet files in memory, the last ones used, no more than a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

Key = tuple[int, int]  # file, row group


class RowGroupCache:
    """What ``load`` makes of a key, with its size in bytes. Safe to use from several threads: a row group that several
    want at once is read once.
    """

    def __init__(self, most_bytes: int, load: Callable[[Key], tuple[Any, int]]) -> None:
        """The last row group is kept even where it alone is larger than ``most_bytes``."""
        self._most_bytes = most_bytes
        self._load = load
        self._kept: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._loading: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self.bytes = 0

    def get(self, key: Key) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            own = self._loading.setdefault(key, threading.Lock())
        with own:
            with self._lock:
                if key in self._kept:
                    return self._kept[key][0]
            value, size = self._load(key)
            with self._lock:
                self._keep(key, value, size)
            return value

    def _keep(self, key: Key, value: Any, size: int) -> None:
        self._kept[key] = value, size
        self._loading.pop(key, None)
        self.bytes += size
        while self.bytes > self._most_bytes and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed
