"""What disks, copies and people do to a file, at random places."""

from __future__ import annotations

import random
from pathlib import Path


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def grow(path: Path, draw: random.Random) -> None:
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 100)))


def zero(path: Path, draw: random.Random) -> None:
    """A block of zeros, as a disk leaves that lost a sector."""
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    block = content[start : start + 512]
    content[start : start + 512] = bytes(len(block))
    path.write_bytes(content)
