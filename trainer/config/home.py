"""``~`` at the beginning of a path: the home directory, as in a shell."""

from __future__ import annotations

import os

from trainer.errors import UsageError


def at_home(key: str, text: str) -> str:
    """``text`` with the home directory in place of ``~``; other text unchanged. ``key`` is for the message.

    Raises:
        UsageError: this user has no home directory. Otherwise a directory with the name ``~`` would be made.
    """
    place = os.path.expanduser(text)
    if place.split(os.sep)[0] == "~":
        raise UsageError(
            f"{key}={text}: there is no home directory: HOME is not set, and user {os.getuid()} has no entry in the "
            "list of users (passwd)\ngive a path without ~, or set HOME"
        )
    return place
