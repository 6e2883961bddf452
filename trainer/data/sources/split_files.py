"""Which files are a split's, where a pattern of names says so: TFRecord files, tar shards, Parquet files."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trainer.config.contracts import Split
from trainer.config.urls import is_url
from trainer.data.remote.remote_path import RemotePath, RemoteRoot, remote_root
from trainer.data.sources.braces import expanded
from trainer.data.sources.open_files import AnyPath, AnyRoot, size_of
from trainer.data.sources.remote_files import as_they_fit, matching
from trainer.data.sources.shard_names import between, refuse_incomplete
from trainer.errors import NoSuchSplit, UsageError, few, warn


class PatternKeys(Protocol):
    """The keys of a source whose splits are files below ``root`` that match a pattern each."""

    @property
    def root(self) -> str: ...
    @property
    def disk_cache_gigabytes(self) -> float: ...
    @property
    def train_pattern(self) -> str: ...
    @property
    def validation_pattern(self) -> str: ...
    @property
    def test_pattern(self) -> str: ...


def existing_root(config: PatternKeys) -> AnyRoot:
    """The directory of the files, on this machine or another one.

    Raises:
        UsageError: it is not a directory, or there is no way to its machine.
    """
    if is_url(config.root):
        return remote_root(config.root, config.disk_cache_gigabytes)
    place = Path(config.root)
    if not place.is_dir():
        state = "is not a directory" if place.exists() else "does not exist"
        raise UsageError(f"data.root={place} {state}")
    return place


def split_files(config: PatternKeys, root: AnyRoot, split: Split, *, braces: bool = False) -> list[AnyPath]:
    """The files of a split, sorted by name. None of them is in another split; only training needs another.

    ``braces``: ``{000..009}`` and ``{a,b}`` in a pattern name files, each of which must exist.

    Raises:
        UsageError: no file matches, one is empty or in two splits, or a set of shards is not complete.
        NoSuchSplit: there is no test split.
    """
    patterns: dict[Split, str] = {
        "train": config.train_pattern,
        "validation": config.validation_pattern,
        "test": config.test_pattern,
    }
    if split == "test" and not _found(root, "test_pattern", config.test_pattern, braces=braces):
        raise NoSuchSplit(
            f"no file in data.root={root} matches data.test_pattern={config.test_pattern}, so there is no test split"
        )
    shards = _matching(root, f"{split}_pattern", patterns[split], braces=braces)
    _warn_of_gaps(shards, f"data.{split}_pattern={patterns[split]}", braces=braces)
    others: dict[Split, list[AnyPath]] = {}
    for other in ("train", "validation"):
        if other != split:
            key, pattern = f"{other}_pattern", patterns[other]
            needed = split == "train" or _found(root, key, pattern, braces=braces)
            others[other] = _matching(root, key, pattern, braces=braces) if needed else []
    for other, paths in others.items():
        shared = sorted(set(shards) & set(paths), key=_parts)
        if shared:
            first, second = sorted((split, other), key=list(patterns).index)
            error = NoSuchSplit if split == "test" else UsageError
            raise error(
                f"{shared[0]} is in both splits: data.{first}_pattern={patterns[first]} and "
                f"data.{second}_pattern={patterns[second]} match it"
            )
    return as_they_fit(root, shards)


def _found(root: AnyRoot, key: str, pattern: str, *, braces: bool) -> list[AnyPath]:
    """The files that match, sorted. Where braces name several, all of them exist, or none."""
    names = expanded(pattern, f"data.{key}") if braces else [pattern]
    try:
        globbed = _globbed(root, names)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"data.{key}={pattern} is not a pattern of files below data.root: {error}") from error
    missing = [name for name, paths in globbed.items() if not paths]
    if len(names) > 1 and 0 < len(missing) < len(names):
        raise UsageError(
            f"{len(missing)} of the {len(names)} names in data.{key}={pattern} are no file in {root}: {few(missing)}\n"
            f"bring them, or name only the files that are to be used with data.{key}"
        )
    return sorted({path for paths in globbed.values() for path in paths if not path.name.startswith(".")}, key=_parts)


def _parts(path: AnyPath) -> tuple[str, ...]:
    """What decides about the order of files: the same wherever they lie."""
    return tuple(path.below.split("/")) if isinstance(path, RemotePath) else path.parts


def _globbed(root: AnyRoot, names: Sequence[str]) -> dict[str, list[AnyPath]]:
    if isinstance(root, RemoteRoot):
        return {name: [*paths] for name, paths in matching(root, names).items()}
    return {name: [path for path in root.glob(name) if path.is_file()] for name in names}


def _matching(root: AnyRoot, key: str, pattern: str, *, braces: bool) -> list[AnyPath]:
    shards = _found(root, key, pattern, braces=braces)
    if not shards:
        raise UsageError(
            f"no file in data.root={root} matches data.{key}={pattern}\n"
            f"bring the files, or set data.{key} to a pattern of their names"
        )
    refuse_incomplete(shards, f"data.{key}", pattern)
    for shard in shards:
        if size_of(shard) == 0:
            raise UsageError(f"{shard} is empty (0 bytes); write it again, or leave it out with data.{key}")
    return shards


def _warn_of_gaps(shards: Sequence[AnyPath], given: str, *, braces: bool) -> None:
    """Name files that are missing between numbered ones, unless the pattern leaves them out."""
    if braces and "{" in given:
        return
    gaps = [name for name in between(shards) if fnmatch.fnmatchcase(name, Path(given.partition("=")[2]).name)]
    if gaps:
        warn(f"{few(gaps)} would be between the files that {given} matches in {shards[0].parent}, but is not there")
