"""The user's cache directory, for what can be made again (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The directory of this program in the user's cache; None for a user without a home, as in a container."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "trainer"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "trainer" if os.path.isabs(home) else None
