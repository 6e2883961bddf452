"""What lies under the name of weights where a download or a checkout went wrong."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from trainer.interchange.findings import MISMATCH, Finding, Unusable

HEAD = 512  # bytes
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257


def refuse_mistaken(path: Path) -> None:
    """
    Raises:
        Unusable: the file begins as a pointer of Git LFS, a web page, a packed archive or an index of Keras does.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if finding := _mistaken(path, head):
        raise Unusable(finding)


def _mistaken(path: Path, head: bytes) -> Finding | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(LFS_POINTER):
        size = re.search(rb"^size (\d+)$", head, re.MULTILINE)
        title = f"{path} is a pointer of Git LFS and not the file itself" + (
            f", which has {int(size[1])} bytes" if size else ""
        )
        return Finding("lfs_pointer", MISMATCH, title, (f"fetch it: git lfs pull --include {shlex.quote(path.name)}",))
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<error")):
        kind = "an XML document, as a server sends it for an error" if b"html" not in text[:64] else "a web page"
        title = f"{path} is {kind}, saved under the name of a file of weights"
        return Finding("web_page", MISMATCH, title, ("download the file itself: the address of its page is another",))
    packed = [name for magic, name in PACKED.items() if head.startswith(magic)]
    if head[TAR_MAGIC_AT:].startswith(TAR_MAGIC):
        packed = ["tar"]
    if packed:
        return Finding("packed", MISMATCH, f"{path} is a {packed[0]} archive: unpack it, and give what is in it")
    if path.name.endswith(".weights.json"):
        advice = "write one file where Keras reads it: model.save_weights('model.weights.h5')"
        return Finding("keras_shards", MISMATCH, f"{path} is Keras's index of weights in several files", (advice,))
    return None
