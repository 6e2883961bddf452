"""The embedded digits: PNG images in TFRecord files with the ImageNet schema, shipped with the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tensorflow.core.example.example_pb2 import Example

from trainer.config.schema import DigitsConfig
from trainer.data.split import Split, used_examples
from trainer.data.tfrecord import TFRecordReader
from trainer.errors import NoValidCheckpoint

DIRECTORY = Path(__file__).resolve().parent / "digits"


class DigitsSource:
    """One split of the digits: ``count`` records, ``class_names`` in label order, ``read`` by record number."""

    def __init__(self, config: DigitsConfig, split: Split) -> None:
        facts = json.loads((DIRECTORY / "facts.json").read_text())
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        shards = facts["splits"][split]["shards"]
        for name, digest in shards.items():
            found = hashlib.sha256((DIRECTORY / name).read_bytes()).hexdigest()
            if found != digest:
                raise NoValidCheckpoint(
                    f"{DIRECTORY / name} is damaged: its SHA-256 is {found[:16]}…, not {digest[:16]}…; "
                    "reinstall trainer"
                )
        self._reader = TFRecordReader([DIRECTORY / name for name in shards])
        self.count = used_examples(config, split, len(self._reader), "the digits")
        self.listing: str | None = None  # every file was compared with its digest above

    def read(self, records: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """Encoded images and labels (int64 ``[n]``) of the given record numbers."""
        features = [Example.FromString(data).features.feature for data in self._reader.read(records)]
        images = [feature["image/encoded"].bytes_list.value[0] for feature in features]
        labels = [feature["image/class/label"].int64_list.value[0] for feature in features]
        return images, np.array(labels, np.int64)

    def place(self, record: int) -> str:
        """The file and the record's number in it, for messages."""
        return self._reader.place(record)
