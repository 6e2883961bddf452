"""Data sets that tensorflow-datasets has prepared as ArrayRecord files, its format with random access.

Only prepared files are read; nothing is downloaded or generated. Records are serialized ``tf.train.Example``; their
images are passed on as they are encoded there.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import TFDSConfig
from trainer.data.reads import reading
from trainer.data.sources.cache import load_or_make
from trainer.data.sources.example import ExampleReader
from trainer.data.sources.labels import read_labels
from trainer.errors import BadRecord, NoSuchSplit, UsageError, nearest

Numbers = npt.NDArray[np.int64]

INSTALL = "pip install 'resumable-trainer[tfds]'"
FORMAT = "array_record"


class TFDSSplit:
    """One split of a prepared data set, as stored."""

    def __init__(self, config: TFDSConfig, split: Split) -> None:
        self._config = config
        builder = _prepared(config)
        names: dict[Split, str] = {
            "train": config.train_split,
            "validation": config.validation_split,
            "test": config.test_split,
        }
        if split == "test":
            _check_held_out(builder, names)
        files = _files(builder, f"data.{split}_split", names[split])
        self.class_names = _class_names(builder, config)
        self._directory = Path(builder.data_dir)
        self._paths = [Path(file.filename) for file in files]
        self._skipped = np.array([file.skip for file in files], np.int64)
        self._first = np.cumsum([0, *(file.take for file in files)])
        missing = [path for path in self._paths if not path.is_file()]
        if missing:
            raise UsageError(f"{missing[0]} is missing, so {config.dataset} is not complete in data.root={config.root}")
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._records = ArrayRecordDataSource(files)
        self._example = ExampleReader(config.image_key, config.label_key, None, len(self.class_names), None)
        self.count = int(self._first[-1])

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        examples = [self._read(int(record)) for record in records]
        return [image for image, _ in examples], np.array([label for _, label in examples], np.int64)

    def labels(self) -> Numbers:
        config = self._config
        places = str([self._skipped.tolist(), self._first.tolist()])
        settings = (config.label_key, config.image_key, config.on_bad_record, places)
        skip_bad, title = config.on_bad_record == "skip", config.dataset
        cached = load_or_make(
            self._directory,
            "labels",
            self._paths,
            settings,
            lambda: {"labels": read_labels(lambda record: self._read(record)[1], self.count, skip_bad, title)},
        )
        return cached["labels"]

    def place(self, record: int) -> str:
        file = int(np.searchsorted(self._first, record, side="right")) - 1
        return f"{self._paths[file]} record {record - self._first[file] + self._skipped[file]}"

    def listing(self, records: Numbers) -> str:
        """A digest of all files of the split: the lengths of single records are not known."""
        lines = [f"{path.name}\0{path.stat().st_size}\n" for path in self._paths]
        lines.append(str([self._skipped.tolist(), self._first.tolist()]))
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _read(self, record: int) -> tuple[bytes, int]:
        try:
            with reading(lambda: self.place(record)):
                data = self._records[record]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise BadRecord(f"{self.place(record)} cannot be read: {reason}") from error
        return self._example.read(data, lambda: self.place(record))


def _prepared(config: TFDSConfig) -> Any:
    """The builder of the data set as it lies in ``data.root``."""
    try:
        from array_record.python import array_record_data_source  # noqa: F401  # fails where there is no wheel of it
        from tensorflow_datasets.core import read_only_builder, registered
    except ImportError as error:
        raise UsageError(f"data=tfds needs tensorflow-datasets and array_record: {INSTALL}\n({error})") from error
    wanted = f"data.dataset={config.dataset}"
    if not Path(config.root).is_dir():
        raise UsageError(f"data.root={config.root} does not exist, so {wanted} is not prepared there\n{_how(config)}")
    try:
        builder = read_only_builder.builder_from_files(config.dataset, data_dir=config.root)
    except (registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        there = sorted(path.name for path in Path(config.root).iterdir() if path.is_dir())
        name = config.dataset.partition("/")[0].partition(":")[0]
        raise UsageError(
            f"{wanted} is not prepared in data.root={config.root}, which has {', '.join(there) or 'nothing'}"
            f"{nearest(name, there)}\n{_how(config)}"
        ) from error
    formats = sorted(found.value for found in builder.info.available_file_formats())
    if FORMAT not in formats:
        raise UsageError(
            f"{builder.data_dir} is prepared as {', '.join(formats)}, which has no random access; prepare it as "
            f"{FORMAT} in another data_dir\n{_how(config)}"
        )
    builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    return builder


def _how(config: TFDSConfig) -> str:
    command = ["tfds", "build", config.dataset, f"--file_format={FORMAT}", f"--data_dir={config.root}"]
    return f"to prepare it: {shlex.join(command)}"


def _files(builder: Any, key: str, name: str) -> list[Any]:
    """The file instructions (``filename``, ``skip``, ``take``) of a split."""
    try:
        files = builder.info.splits[name].file_instructions
    except (KeyError, ValueError) as error:
        there = sorted(builder.info.splits)
        raise NoSuchSplit(
            f"{key}={name} is not a split of {builder.info.full_name}, which has {', '.join(there)}"
            f"{nearest(name, there)}"
        ) from error
    if not sum(file.take for file in files):
        raise UsageError(f"{key}={name} of {builder.info.full_name} has no record")
    return list(files)


def _check_held_out(builder: Any, names: Mapping[Split, str]) -> None:
    """Raise ``NoSuchSplit`` for a test set that does not exist, or that training or validation reads, too."""
    name = names["test"]
    test = _files(builder, "data.test_split", name)
    for other in ("train", "validation"):
        try:
            files = builder.info.splits[names[other]].file_instructions
        except (KeyError, ValueError):
            continue  # what is not there has no records
        if _share_records(test, files):
            raise NoSuchSplit(
                f"data.test_split={name} has records of data.{other}_split={names[other]}, so they are not held out\n"
                f"evaluate split={other}, or set data.test_split to records that no other split has"
            )


def _share_records(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """Whether two lists of file instructions have a record in common."""
    return any(
        first.filename == second.filename
        and max(first.skip, second.skip) < min(first.skip + first.take, second.skip + second.take)
        for first in one
        for second in two
    )


def _class_names(builder: Any, config: TFDSConfig) -> tuple[str, ...]:
    from tensorflow_datasets import features

    found = builder.info.features
    for key, name, kind in (
        ("image_key", config.image_key, features.Image),
        ("label_key", config.label_key, features.ClassLabel),
    ):
        if name not in found:
            there = sorted(found)
            raise UsageError(
                f"data.{key}={name} is not a feature of {builder.info.full_name}, which has {', '.join(there)}"
                f"{nearest(name, there)}"
            )
        if not isinstance(found[name], kind):
            raise UsageError(
                f"data.{key}={name} of {builder.info.full_name} is {type(found[name]).__name__}, not {kind.__name__}"
            )
    return tuple(found[config.label_key].names)
