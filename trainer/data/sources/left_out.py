"""The entries of a folder that are not read, named with their count by format."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence

from trainer.data.images.headers import known_format
from trainer.data.images.other_formats import by_content, by_name
from trainer.data.sources.folders import AnyFolder, RemoteEntry, RemoteFolder, begin_of
from trainer.errors import one_line

SHOWN = 12  # kinds
ENOUGH = 100  # files of one ending that are opened, where all of them are of one kind
HIDDEN = "hidden"
FOLDER = "folder"
UNNAMED = "without an ending"


def left_out(paths: Sequence[str], extensions: Sequence[str], root: str | AnyFolder) -> list[str]:
    """Lines about ``paths``, which lie below ``root`` and are not read; the first counts them by format.

    ``extensions`` are those of ``data.extensions``. Files that are images of a format that is read, and lack such an
    ending, have a line of their own.
    """
    found: dict[str, list[str]] = {}
    readable: list[str] = []
    opened: dict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)  # by ending
    for path in paths:
        seen = opened[os.path.splitext(path)[1].lower()]
        if len(seen) == 1 and seen.total() >= ENOUGH:
            kind, reads = next(iter(seen))  # there may be a million of them
        else:
            kind, reads = _kind(path, extensions, root)
            if kind not in (HIDDEN, FOLDER):
                seen[kind, reads] += 1
        found.setdefault(kind, []).append(path)
        if reads:
            readable.append(path)
    kinds = sorted(found, key=lambda kind: (kind in (HIDDEN, FOLDER), -len(found[kind])))
    named = [f"{len(found[kind])} {kind} ({_first(found[kind], str(root))})" for kind in kinds[:SHOWN]]
    rest = sum(len(found[kind]) for kind in kinds[SHOWN:])
    lines = [f"not read in {one_line(str(root))}: {', '.join(named)}{f' and {rest} others' if rest else ''}"]
    if readable:
        ending = os.path.splitext(readable[0])[1].lower().removeprefix(".")
        wanted = "rename them"
        if ending.isalnum() and ending.isascii():
            wanted += f", or set 'data.extensions=[{','.join([*extensions, ending])}]'"
        lines.append(f"warning: {len(readable)} of these are images by their content, but not by their names; {wanted}")
    return lines


def _kind(path: str, extensions: Sequence[str], root: str | AnyFolder) -> tuple[str, bool]:
    """What an entry is, and whether it is an image of a format that is read."""
    name = os.path.basename(path)
    if name.startswith("."):
        return HIDDEN, False
    place = root.entry_at(path) if isinstance(root, RemoteFolder) else path
    if place.is_dir() if isinstance(place, RemoteEntry) else os.path.isdir(place):
        return FOLDER, False
    known = by_name(name)
    if known is not None:
        return known, False
    begin = begin_of(place)
    there = known_format(begin)
    ending = os.path.splitext(name)[1].lower()
    if there is not None and ending.removeprefix(".") not in extensions:
        return f"{there} named {ending}" if ending else f"{there} {UNNAMED}", True
    return by_content(begin) or ending or UNNAMED, False


def _first(paths: Sequence[str], root: str) -> str:
    relative = one_line(os.path.relpath(paths[0], root))
    return relative if len(paths) == 1 else f"the first {relative}"
