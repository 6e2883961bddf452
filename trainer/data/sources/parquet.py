"""Images in Parquet files, as Hugging Face's datasets writes them: a column of images and one of labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.command_line import python_command
from trainer.config.contracts import Split
from trainer.config.schema.sources import ParquetConfig
from trainer.data.sources import parquet_file
from trainer.data.sources.cache import Arrays, load_or_make
from trainer.data.sources.class_names import numbered, read_labels_file
from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.open_files import AnyPath, AnyRoot
from trainer.data.sources.parquet_rows import ParquetRows, index_rows
from trainer.data.sources.remote_files import ahead_of
from trainer.data.sources.split_files import existing_root, split_files
from trainer.data.sources.stored_labels import StoredLabels
from trainer.errors import BadRecord, UsageError, few

Numbers = npt.NDArray[np.int64]

INDEX = "rows 2"  # another number where another index is made of the same files
MEGABYTE = 10**6
IMAGE_KEY = "data.image_column"
# writes a file again with its images as they are, each to be read by itself
REWRITE = (
    "import sys, pyarrow.parquet as p; f = p.ParquetFile(sys.argv[1]); "
    "w = p.ParquetWriter(sys.argv[2], f.schema_arrow, compression='none', use_dictionary=False); "
    "[w.write_batch(b) for b in f.iter_batches(256)]; w.close()"
)


class ParquetSplit:
    """One split of Parquet files, as stored. Labels are in the index. Safe to use from several threads."""

    def __init__(self, config: ParquetConfig, split: Split) -> None:
        self._root = existing_root(config)
        self._config = config
        parquet_file.pyarrow()
        self._paths = split_files(config, self._root, split, braces=True)
        self.ahead = ahead_of(self._root, self._paths, split)
        self.class_names, known = _class_names(config, self._root, split, self._paths)
        names = self.class_names if known else None
        self._stored_labels = StoredLabels(len(self.class_names), config.label_offset, names)
        settings = (INDEX, config.image_column, config.label_column, str(config.label_offset), str(known))
        index = load_or_make(self._root, "index", self._paths, (*settings, *self.class_names), self._build)
        self._labels = index["label"]
        most_bytes = config.cache_megabytes * MEGABYTE
        self._images = ParquetRows(self._paths, config.image_column, IMAGE_KEY, index, most_bytes)
        self.count = len(self._images)
        if not self.count:
            raise UsageError(
                f"the files of {split} in {self._root} have no row: {few([str(each) for each in self._paths])}\n"
                f"write them again, or set data.{split}_pattern to the names of others"
            )
        if split == "train":
            self._say_cost()

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        images = [b""] * len(records)
        for place in np.argsort(records, kind="stable"):  # so that a row group is read once for all of them
            images[place] = self._image(int(records[place]))
        return images, self._labels[records].astype(np.int64)

    def labels(self) -> Numbers:
        labels = self._labels.astype(np.int64)
        bad = np.flatnonzero(labels == UNKNOWN)
        if len(bad) and self._config.on_bad_record == "fail":
            raise self._bad_label(int(bad[0]))
        return labels

    def expect(self, records: Numbers) -> None:
        self._images.expect(records)

    def place(self, record: int) -> str:
        return self._images.place(record)

    def listing(self, records: Numbers) -> str:
        """Of labels and sizes. Where sizes of single images are not known, of those of their row groups."""
        digest = hashlib.sha256(self._images.sizes(records).astype("<i8").tobytes())
        digest.update(self._labels[records].astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _image(self, record: int) -> bytes:
        if self._labels[record] == UNKNOWN:
            raise self._bad_label(record)
        image = self._images.read(record)
        if image is None:
            raise BadRecord(
                f"{self.place(record)} has no bytes in {IMAGE_KEY}={self._config.image_column}; datasets stores the "
                "bytes with Dataset.to_parquet, and a path alone where they are not embedded"
            )
        if not image:
            raise BadRecord(f"{self.place(record)} has an empty image in {IMAGE_KEY}={self._config.image_column}")
        return image

    def _bad_label(self, record: int) -> BadRecord:
        file = self._images.file_of(record)
        row = record - int(self._images.first[file])
        reason = parquet_file.label_fault(self._paths[file], self._config.label_column, self._stored_labels, row)
        return BadRecord(f"{self.place(record)} {reason}")

    def _build(self) -> Arrays:
        column = self._config.label_column
        labels = [parquet_file.index_labels(path, column, self._stored_labels) for path in self._paths]
        arrays = index_rows(self._paths, self._config.image_column, IMAGE_KEY, f"indexing {self._root}")
        return {**arrays, "label": np.concatenate(labels)}

    def _say_cost(self) -> None:
        cost = self._images.cost()
        if cost is None:
            return
        print(f"{cost.described(f'images in {self._root}')} (data.cache_megabytes)")
        warning = cost.warning()
        if warning is not None:
            first = self._paths[0]
            if not isinstance(first, Path):
                print(f"warning: {warning}; files without compression and dictionary cost nothing (docs/data.md)")
                return
            command = python_command(REWRITE, str(first), f"{first.stem}-plain.parquet")
            print(f"warning: {warning}; this writes a file again, so that each image is read by itself:\n  {command}")


def _class_names(
    config: ParquetConfig, root: AnyRoot, split: Split, paths: list[AnyPath]
) -> tuple[tuple[str, ...], bool]:
    """The names of the classes, and whether they are known or made from numbers."""
    if config.labels_file is not None:
        return read_labels_file(root / config.labels_file, config.label_offset), True
    others = split_files(config, root, "validation", braces=True) if split == "train" else []
    first = paths[0]
    names = parquet_file.class_names(first, config.label_column)
    for path in [*paths[1:], *others]:
        other = parquet_file.class_names(path, config.label_column)
        if other != names:
            raise UsageError(
                f"{first} and {path} name other classes in data.label_column={config.label_column}:\n"
                f"  {few(names or ())}\n  {few(other or ())}\n"
                "write them with the same features, or give the names of all with data.labels_file"
            )
    if names is None:
        if config.num_classes is None:
            raise UsageError(
                f"{first} does not name the classes of data.label_column={config.label_column}: set "
                "data.num_classes=N, or data.labels_file=FILE, a file below data.root with one class name a line, in "
                "label order"
            )
        return numbered(config.num_classes), False
    if config.num_classes not in (None, len(names)):
        raise UsageError(
            f"data.num_classes={config.num_classes}, but {first} names {len(names)} classes; leave it null"
        )
    if config.label_offset:
        raise UsageError(
            f"data.label_offset={config.label_offset}, but {first} names its classes from label 0 on; leave it 0"
        )
    if len(names) < 2 or len(set(names)) != len(names):
        raise UsageError(f"{first} names {len(names)} classes, {few(names)}; it must name two or more, each once")
    return names, True
