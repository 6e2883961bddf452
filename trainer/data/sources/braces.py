"""Braces in the names of shards, as webdataset and shells write them: ``train-{000..009}.tar``, ``{a,b}.tar``."""

from __future__ import annotations

import itertools
import re

from trainer.errors import UsageError

RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
MOST_NAMES = 10**6


def expanded(pattern: str, key: str) -> list[str]:
    """The names that ``pattern`` means, in its order. Braces may hold a list, a range of whole numbers, with a step if
    wanted, or further braces. A range whose bounds begin with a zero has numbers of equal width. Braces with neither a
    comma nor a range stand for themselves. ``key`` is what the pattern was given by.

    Raises:
        UsageError: a brace is not closed, or there are more than ``MOST_NAMES`` names.
    """
    try:
        return _expanded(pattern)
    except ValueError as error:
        raise UsageError(f"{key}={pattern} {error}") from error


def _expanded(pattern: str) -> list[str]:
    begin = pattern.find("{")
    if begin < 0:
        return [pattern]
    end = _closing(pattern, begin)
    parts = _parts(pattern[begin + 1 : end])
    rests = _expanded(pattern[end + 1 :])
    if len(parts) * len(rests) > MOST_NAMES:
        raise ValueError(f"means more than {MOST_NAMES:,} names")
    return [pattern[:begin] + part + rest for part in parts for rest in rests]


def _closing(pattern: str, begin: int) -> int:
    depth = 0
    for place in range(begin, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0:
            return place
    raise ValueError("has a brace that is not closed")


def _parts(inner: str) -> list[str]:
    found = RANGE.fullmatch(inner)
    if found is not None:
        return _numbers(*found.groups())
    places = [-1, *_commas(inner), len(inner)]
    if len(places) == 2:
        return [f"{{{each}}}" for each in _expanded(inner)]
    return [part for first, last in itertools.pairwise(places) for part in _expanded(inner[first + 1 : last])]


def _commas(inner: str) -> list[int]:
    """Where the commas are that are in no further braces."""
    depth, found = 0, []
    for place, character in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            found.append(place)
    return found


def _numbers(first: str, last: str, step: str | None) -> list[str]:
    begin, end = int(first), int(last)
    width = max(len(first), len(last)) if any(re.match("-?0.", each) for each in (first, last)) else 0
    by = max(1, abs(int(step or 1)))
    count = abs(end - begin) // by + 1
    if count > MOST_NAMES:
        raise ValueError(f"means more than {MOST_NAMES:,} names")
    return [f"{begin + (by if end >= begin else -by) * number:0{width}d}" for number in range(count)]
