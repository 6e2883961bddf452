"""A progress bar for walks over all of the data. Each item is progress for the watchdog, too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import track

from trainer.data.reads import READS

Item = TypeVar("Item")


def tracked(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """``items``, with a bar on a terminal while they are consumed; nothing is shown elsewhere."""
    for item in track(items, title, total=total, disable=not sys.stdout.isatty(), transient=True):
        READS.advance()
        yield item
