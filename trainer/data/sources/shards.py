"""Images in TFRecord files of ``tf.train.Example``: which files, which features, which classes."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import TFRecordConfig
from trainer.data.sources.cache import load_or_make
from trainer.data.sources.class_names import numbered, read_labels_file
from trainer.data.sources.example import ExampleReader
from trainer.data.sources.labels import read_labels
from trainer.data.sources.record_index import load_or_build
from trainer.data.sources.shard_names import refuse_incomplete
from trainer.data.sources.tfrecord import TFRecordReader
from trainer.errors import NoSuchSplit, UsageError

Numbers = npt.NDArray[np.int64]


class TFRecordSplit:
    """One split of TFRecord files, as stored."""

    def __init__(self, config: TFRecordConfig, split: Split) -> None:
        self._config = config
        self._root = Path(config.root)
        if not self._root.is_dir():
            state = "is not a directory" if self._root.exists() else "does not exist"
            raise UsageError(f"data.root={self._root} {state}")
        self.class_names = _class_names(config, self._root)
        self._shards = _shards(config, self._root, split)
        self._reader = TFRecordReader(self._shards, load_or_build(self._root, self._shards), config.verify_crc)
        names = None if config.labels_file is None else self.class_names
        self._example = ExampleReader(
            config.image_key, config.label_key, config.label_offset, len(self.class_names), names
        )
        self.count = len(self._reader)

    def labels(self) -> Numbers:
        config = self._config
        skip_bad = config.on_bad_record == "skip"
        how = [str(value) for value in dataclasses.astuple(self._example) if value is not None]
        settings = (*how, config.on_bad_record, str(config.verify_crc))
        cached = load_or_make(
            self._root,
            "labels",
            self._shards,
            settings,
            lambda: {"labels": read_labels(lambda record: self._read(record)[1], self.count, skip_bad, config.root)},
        )
        return cached["labels"]

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        examples = [self._read(int(record)) for record in records]
        return [image for image, _ in examples], np.array([label for _, label in examples], np.int64)

    def place(self, record: int) -> str:
        return self._reader.place(record)

    def listing(self, records: Numbers) -> str:
        return hashlib.sha256(self._reader.lengths(records).astype("<i8").tobytes()).hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _read(self, record: int) -> tuple[bytes, int]:
        return self._example.read(self._reader.read(record), lambda: self.place(record))


def _shards(config: TFRecordConfig, root: Path, split: Split) -> list[Path]:
    """The files of a split, sorted by name. None of them is in another split; only training needs another."""
    patterns: dict[Split, str] = {
        "train": config.train_pattern,
        "validation": config.validation_pattern,
        "test": config.test_pattern,
    }
    if split == "test" and not _found(root, "test_pattern", config.test_pattern):
        raise NoSuchSplit(
            f"no file in data.root={root} matches data.test_pattern={config.test_pattern}, so there is no test split"
        )
    shards = _matching(root, f"{split}_pattern", patterns[split])
    others: dict[Split, list[Path]] = {}
    for other in ("train", "validation"):
        if other != split:
            key, pattern = f"{other}_pattern", patterns[other]
            others[other] = _matching(root, key, pattern) if split == "train" or _found(root, key, pattern) else []
    for other, paths in others.items():
        shared = sorted(set(shards) & set(paths))
        if shared:
            first, second = sorted((split, other), key=list(patterns).index)
            error = NoSuchSplit if split == "test" else UsageError
            raise error(
                f"{shared[0]} is in both splits: data.{first}_pattern={patterns[first]} and "
                f"data.{second}_pattern={patterns[second]} match it"
            )
    return shards


def _found(root: Path, key: str, pattern: str) -> list[Path]:
    try:
        matches = sorted(root.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"data.{key}={pattern} is not a pattern of files below data.root: {error}") from error
    return [path for path in matches if path.is_file() and not path.name.startswith(".")]


def _matching(root: Path, key: str, pattern: str) -> list[Path]:
    shards = _found(root, key, pattern)
    if not shards:
        raise UsageError(f"no file in data.root={root} matches data.{key}={pattern}")
    refuse_incomplete(shards, f"data.{key}", pattern)
    for shard in shards:
        if shard.stat().st_size == 0:
            raise UsageError(f"{shard} is empty (0 bytes); write it again, or leave it out with data.{key}")
    return shards


def _class_names(config: TFRecordConfig, root: Path) -> tuple[str, ...]:
    if config.labels_file is not None:
        return read_labels_file(root / config.labels_file, config.label_offset)
    assert config.num_classes is not None, "check() requires one of them"
    return numbered(config.num_classes)
