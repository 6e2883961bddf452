"""Images in TFRecord files of ``tf.train.Example``: which files, which features, which classes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tensorflow.core.example.example_pb2 import Example

from trainer.config.schema import TFRecordConfig
from trainer.data.index_cache import load_or_build
from trainer.data.split import Split, used_examples
from trainer.data.tfrecord import TFRecordReader
from trainer.errors import UsageError

NAMES_SHOWN = 8
VALUES_OF = {"bytes_list": "bytes", "int64_list": "an integer"}


class TFRecordSource:
    """One split of TFRecord files: ``count`` records, ``class_names`` in label order, ``read`` by record number."""

    def __init__(self, config: TFRecordConfig, split: Split) -> None:
        self._config = config
        root = Path(config.root)
        if not root.is_dir():
            raise UsageError(f"data.root={root} {'is not a directory' if root.exists() else 'does not exist'}")
        self.class_names = _class_names(config, root)
        shards = _shards(config, root)[split]
        self._reader = TFRecordReader(shards, load_or_build(root, shards))
        self.count = used_examples(config, split, len(self._reader), f"the files in {root}")
        lengths = self._reader.lengths[: self.count]
        self.listing: str | None = hashlib.sha256(lengths.astype("<i8").tobytes()).hexdigest()[:16]

    def read(self, records: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """Encoded images and labels (int64 ``[n]``) of the given record numbers.

        Raises:
            UsageError: a record cannot be read, lacks a feature, or has a label out of range.
        """
        images, labels = [], []
        for record, data in zip(records, self._reader.read(records), strict=True):
            image, label = self._example(int(record), data)
            images.append(image)
            labels.append(label)
        return images, np.array(labels, np.int64)

    def place(self, record: int) -> str:
        """The file and the record's number in it, for messages."""
        return self._reader.place(record)

    def _example(self, record: int, data: bytes) -> tuple[bytes, int]:
        config = self._config
        try:
            example = Example.FromString(data)
        except DecodeError as error:
            raise UsageError(f"{self.place(record)} is not a tf.train.Example: {error}") from error
        image = self._value(record, example, "image_key", config.image_key, "bytes_list")
        stored = self._value(record, example, "label_key", config.label_key, "int64_list")
        assert isinstance(image, bytes)
        assert isinstance(stored, int)
        if not image:
            raise UsageError(f"{self.place(record)} has an empty image in {config.image_key}")
        label = stored - config.label_offset
        if not 0 <= label < len(self.class_names):
            first, last = config.label_offset, config.label_offset + len(self.class_names) - 1
            raise UsageError(
                f"{self.place(record)} has label {stored}, but {len(self.class_names)} classes with "
                f"data.label_offset={config.label_offset} are labels {first} to {last}"
            )
        return image, label

    def _value(self, record: int, example: Example, key: str, name: str, kind: str) -> object:
        """The only value of a feature."""
        features = example.features.feature
        if name not in features:
            there = sorted(features)
            listed = ", ".join(there[:NAMES_SHOWN]) + (", …" if len(there) > NAMES_SHOWN else "")
            raise UsageError(f"{self.place(record)} has no feature {name} (data.{key}); it has {listed or 'none'}")
        values = getattr(features[name], kind).value
        if len(values) != 1:
            found = features[name].WhichOneof("kind") or "nothing"
            raise UsageError(
                f"{self.place(record)} must have one value ({VALUES_OF[kind]}) in feature {name} (data.{key}), "
                f"but has {len(values)} (it holds {found})"
            )
        return values[0]


def _shards(config: TFRecordConfig, root: Path) -> dict[Split, list[Path]]:
    """The files of each split, sorted by name."""
    training = _matching(root, "train_pattern", config.train_pattern)
    validation = _matching(root, "validation_pattern", config.validation_pattern)
    shared = sorted(set(training) & set(validation))
    if shared:
        raise UsageError(
            f"{shared[0]} is in both splits: data.train_pattern={config.train_pattern} and "
            f"data.validation_pattern={config.validation_pattern} match it"
        )
    return {"train": training, "validation": validation}


def _matching(root: Path, key: str, pattern: str) -> list[Path]:
    try:
        matches = sorted(root.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"data.{key}={pattern} is not a pattern of files below data.root: {error}") from error
    shards = [path for path in matches if path.is_file() and not path.name.startswith(".")]
    if not shards:
        raise UsageError(f"no file in data.root={root} matches data.{key}={pattern}")
    for shard in shards:
        if shard.stat().st_size == 0:
            raise UsageError(f"{shard} is empty (0 bytes); write it again or remove it")
    return shards


def _class_names(config: TFRecordConfig, root: Path) -> tuple[str, ...]:
    if config.labels_file is None:
        assert config.num_classes is not None, "check() requires one of them"
        return tuple(f"class_{number:03d}" for number in range(config.num_classes))
    path = root / config.labels_file
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"data.labels_file={path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"data.labels_file={path} is not UTF-8: {error.reason} at byte {error.start}") from error
    stripped = [name.strip() for name in names]
    for line, name in enumerate(stripped, 1):
        if not name:
            raise UsageError(f"data.labels_file={path} has no name in line {line}; every line is a class")
        if name in stripped[: line - 1]:
            raise UsageError(f"data.labels_file={path} has {name} in lines {stripped.index(name) + 1} and {line}")
    if len(stripped) < 2:
        raise UsageError(f"data.labels_file={path} has {len(stripped)} lines, but at least two classes are needed")
    return tuple(stripped)
