"""Images in TFRecord files of ``tf.train.Example``: which files, which features, which classes."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import TFRecordConfig
from trainer.data.sources.cache import load_or_make
from trainer.data.sources.class_names import numbered, read_labels_file
from trainer.data.sources.example import ExampleReader
from trainer.data.sources.labels import read_labels
from trainer.data.sources.open_files import AnyRoot
from trainer.data.sources.record_index import load_or_build
from trainer.data.sources.remote_files import ahead_of
from trainer.data.sources.split_files import existing_root, split_files
from trainer.data.sources.tfrecord import TFRecordReader

Numbers = npt.NDArray[np.int64]


class TFRecordSplit:
    """One split of TFRecord files, as stored."""

    def __init__(self, config: TFRecordConfig, split: Split) -> None:
        self._config = config
        self._root = existing_root(config)
        self.class_names = _class_names(config, self._root)
        self._shards = split_files(config, self._root, split)
        self.ahead = ahead_of(self._root, self._shards, split)
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

    def expect(self, records: Numbers) -> None:
        self._reader.expect(records)

    def place(self, record: int) -> str:
        return self._reader.place(record)

    def listing(self, records: Numbers) -> str:
        return hashlib.sha256(self._reader.lengths(records).astype("<i8").tobytes()).hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _read(self, record: int) -> tuple[bytes, int]:
        return self._example.read(self._reader.read(record), lambda: self.place(record))


def _class_names(config: TFRecordConfig, root: AnyRoot) -> tuple[str, ...]:
    if config.labels_file is not None:
        return read_labels_file(root / config.labels_file, config.label_offset)
    assert config.num_classes is not None, "check() requires one of them"
    return numbered(config.num_classes)
