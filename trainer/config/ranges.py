"""Ranges of numbers in the configuration, as text: ``576-607`` has both ends in it."""

from __future__ import annotations

import re

from trainer.errors import UsageError

RANGE = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)


def to_range(name: str, text: str) -> range:
    """The numbers in an entry of the key ``name``.

    Raises:
        UsageError: the text is no range, or one without a number in it.
    """
    match = RANGE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"{name} has {text!r}, but must have ranges FIRST-LAST, such as {name}=[576-607]")
    return range(int(match[1]), int(match[2]) + 1)


def to_text(first: int, last: int) -> str:
    return f"{first}-{last}"
