"""The embedded digits: PNG images in TFRecord files with the ImageNet schema, shipped with the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import DigitsConfig
from trainer.data.sources.example import ExampleReader
from trainer.data.sources.tfrecord import TFRecordReader, index_records
from trainer.errors import NoSuchSplit, NoValidCheckpoint

DIRECTORY = Path(__file__).resolve().parents[1] / "digits"

Numbers = npt.NDArray[np.int64]


class DigitsSplit:
    """One split of the digits, as stored."""

    def __init__(self, config: DigitsConfig, split: Split) -> None:
        facts = json.loads((DIRECTORY / "facts.json").read_text())
        if split not in facts["splits"]:
            raise NoSuchSplit(
                f"data=digits has no {split} split, only {' and '.join(facts['splits'])}: all of its images are in them"
            )
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        shards = facts["splits"][split]["shards"]
        for name, digest in shards.items():
            found = hashlib.sha256((DIRECTORY / name).read_bytes()).hexdigest()
            if found != digest:
                raise NoValidCheckpoint(
                    f"{DIRECTORY / name} is damaged: its SHA-256 is {found[:16]}…, not {digest[:16]}…; "
                    "reinstall trainer"
                )
        paths = [DIRECTORY / name for name in shards]
        self._reader = TFRecordReader(paths, [index_records(path) for path in paths], verify_crc=False)
        self._example = ExampleReader("image/encoded", "image/class/label", None, len(self.class_names), None)
        self.count = len(self._reader)

    def labels(self) -> Numbers:
        return self.read(np.arange(self.count))[1]

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        examples = [self._read(int(record)) for record in records]
        return [image for image, _ in examples], np.array([label for _, label in examples], np.int64)

    def place(self, record: int) -> str:
        return self._reader.place(record)

    def listing(self, records: Numbers) -> None:
        """None: every file was already compared with its digest."""

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _read(self, record: int) -> tuple[bytes, int]:
        return self._example.read(self._reader.read(record), lambda: self.place(record))
