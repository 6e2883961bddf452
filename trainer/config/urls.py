"""Places that are URLs (``s3://bucket/data``): which texts are, and which of them must not be stored."""

from __future__ import annotations

import re

from trainer.errors import UsageError

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")


def is_url(text: str) -> bool:
    """Whether a text is a URL, and not a path of this machine."""
    return SCHEME.match(text) is not None


def check_url(name: str, url: str) -> None:
    """Raise ``UsageError`` for a URL that must not be stored or printed, and for a relative path."""
    scheme, separator, rest = url.rpartition("://")
    if not separator:
        if not url.startswith("/"):
            raise UsageError(f"{name}={url} is neither a URL (s3://bucket/run) nor an absolute path")
        return
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise UsageError(
            f"{name}={scheme}://… carries a user, password or query, and would be stored with them\n"
            "give credentials to the filesystem itself: environment variables or its configuration file"
        )


def data_url(name: str, url: str) -> str:
    """The URL of a place with data, without a slash at its end.

    Raises:
        UsageError: it would store a secret, or is no place of another machine.
    """
    check_url(name, url)
    scheme, _, rest = url.partition("://")
    if "::" in url:
        raise UsageError(f"{name}={url} is several filesystems in one another; give the URL of the files themselves")
    if scheme.lower() in ("file", "local"):
        raise UsageError(f"{name}={url} is on this machine: {name}=/{rest.lstrip('/')}")
    if not rest.strip("/"):
        raise UsageError(f"{name}={url} names no bucket or server: {name}={scheme}://BUCKET/FOLDER")
    return url.rstrip("/")
