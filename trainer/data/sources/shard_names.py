"""Sets of shards, ``train-00002-of-00004``: whether the files that a pattern matches are what their names promise."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from trainer.data.sources.open_files import AnyPath
from trainer.errors import UsageError, few

NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<after>.*)")
COUNTED = re.compile(r"(?P<before>.*?)(?P<number>\d{2,})(?P<after>\D*)")
MOST_GAPS = 4  # times as many numbers as files
MOST_SHARDS = 10**6  # a larger number is not a count of files


class _Shard(NamedTuple):
    path: AnyPath
    before: str
    number: str
    total: str
    after: str

    def sibling(self, number: int) -> str:
        """The name of the shard with another number."""
        return f"{self.before}{number:0{len(self.number)}d}-of-{self.total}{self.after}"


def refuse_incomplete(shards: Sequence[AnyPath], key: str, pattern: str) -> None:
    """Refuse files named ``…N-of-M…`` that are not the M shards of one set, each once. Shards that the last part of
    ``pattern`` leaves out are not missing. ``key`` is what the pattern was given by.

    Raises:
        UsageError: names the shards that are missing, double, too many, or of two sets.
    """
    sets: dict[tuple[object, str], list[_Shard]] = defaultdict(list)
    for path in shards:
        found = NUMBERED.fullmatch(path.name)
        if found is not None and 0 < int(found["count"]) <= MOST_SHARDS:
            sets[path.parent, found["before"]].append(_Shard(path, *found.groups()))
    for each in sets.values():
        _refuse_two_sets(each, key, pattern)
        _refuse_double(each, key, pattern)
        _refuse_missing(each, key, pattern)


def between(shards: Sequence[AnyPath]) -> list[str]:
    """The names that are missing between files that are numbered one after the other (``train-000007.tar``): nothing
    but a gap says that there were more.
    """
    rows: dict[tuple[object, str, int, str], list[int]] = defaultdict(list)
    for path in shards:
        found = COUNTED.fullmatch(path.name)
        if found is not None and NUMBERED.fullmatch(path.name) is None:
            rows[path.parent, found["before"], len(found["number"]), found["after"]].append(int(found["number"]))
    missing = []
    for (_, before, width, after), numbers in rows.items():
        there, span = set(numbers), range(min(numbers), max(numbers))
        if len(span) <= MOST_GAPS * len(numbers):  # otherwise they do not count
            missing += [f"{before}{number:0{width}d}{after}" for number in span if number not in there]
    return missing


def _refuse_two_sets(shards: Sequence[_Shard], key: str, pattern: str) -> None:
    first = shards[0]
    other = next((shard for shard in shards if int(shard.total) != int(first.total)), None)
    if other is not None:
        raise UsageError(
            f"{first.path} and {other.path.name} are shards of two sets, of {int(first.total)} and of "
            f"{int(other.total)}, which may hold the same records twice\n"
            f"remove one set, or choose one with {key} (now {pattern})"
        )


def _refuse_double(shards: Sequence[_Shard], key: str, pattern: str) -> None:
    seen: dict[int, _Shard] = {}
    for shard in shards:
        same = seen.setdefault(int(shard.number), shard)
        if same is not shard:
            raise UsageError(
                f"{same.path} and {shard.path.name} are the same shard of a set, so its records would count twice\n"
                f"remove one of them, or leave it out with {key} (now {pattern})"
            )


def _refuse_missing(shards: Sequence[_Shard], key: str, pattern: str) -> None:
    first, count = shards[0], int(shards[0].total)
    numbers = {int(shard.number) for shard in shards}
    begin = 1 if count in numbers and 0 not in numbers else 0  # some writers count from 1
    extra = next((shard for shard in shards if not begin <= int(shard.number) < begin + count), None)
    if extra is not None:
        raise UsageError(
            f"{extra.path} is one shard more than its name promises: {first.sibling(begin)} to "
            f"{first.sibling(begin + count - 1)}\nremove or rename it, or leave it out with {key} (now {pattern})"
        )
    missing = [first.sibling(number) for number in range(begin, begin + count) if number not in numbers]
    wanted = [name for name in missing if fnmatch.fnmatchcase(name, PurePosixPath(pattern).name)]
    if wanted:
        raise UsageError(
            f"{len(wanted)} of {count} shards are missing in {first.path.parent}: {few(wanted)}\n"
            f"bring them, or match only the files that are to be used with {key} (now {pattern})"
        )
