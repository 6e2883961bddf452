"""Data sets that tensorflow-datasets has prepared as ArrayRecord, Parquet or TFRecord files, here or in a bucket.

Only prepared files are read; nothing is generated. Records are serialized ``tf.train.Example``; their images are passed
on as they are encoded there. TFRecord files are read at random by an index of their own. ArrayRecord's reader opens
files of this machine alone.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import TFDSConfig
from trainer.data.reads import reading
from trainer.data.remote.remote_path import RemotePath
from trainer.data.sources import parquet_file
from trainer.data.sources.cache import load_or_make
from trainer.data.sources.example import ExampleReader
from trainer.data.sources.labels import read_labels
from trainer.data.sources.open_files import AnyPath, size_of
from trainer.data.sources.parquet_rows import ParquetRows, index_rows
from trainer.data.sources.record_index import load_or_build
from trainer.data.sources.remote_files import ahead_of, as_they_fit
from trainer.data.sources.tfds_directory import PreparedDirectory, prepared_directory
from trainer.data.sources.tfrecord import TFRecordReader
from trainer.errors import BadRecord, NoSuchSplit, UsageError, few, nearest

Numbers = npt.NDArray[np.int64]

INSTALL = "pip install 'resumable-trainer[tfds]'"
FORMAT = "array_record"
TFRECORD = "tfrecord"
PARQUET, COLUMN = "parquet", "data"  # its Parquet files have whole examples in one column
DESCRIPTION = "dataset_info.json"
UNREADABLE = (ValueError, AssertionError, KeyError, TypeError, AttributeError, OSError)  # what is raised for damage
KEPT_BYTES = 512 * 10**6  # of row groups of Parquet files
# ``tfds build`` does the same, but does not start without apache-beam
PREPARE = (
    "import sys, tensorflow_datasets as t; "
    f"t.builder(sys.argv[1], data_dir=sys.argv[2], file_format='{FORMAT}').download_and_prepare()"
)


class TFDSSplit:
    """One split of a prepared data set, as stored."""

    def __init__(self, config: TFDSConfig, split: Split) -> None:
        self._config = config
        with prepared_directory(config, split) as place:
            self._open(place, split)

    def _open(self, place: PreparedDirectory, split: Split) -> None:
        config = self._config
        builder = _prepared(config, place)
        names: dict[Split, str] = {
            "train": config.train_split,
            "validation": config.validation_split,
            "test": config.test_split,
        }
        if split == "test":
            _check_held_out(builder, names)
        files = _files(builder, f"data.{split}_split", names[split])
        self.class_names = _class_names(builder, config, place)
        self._root = place.root(builder.data_dir)
        self._paths = place.files([Path(file.filename) for file in files])
        self._skipped = np.array([file.skip for file in files], np.int64)
        self._first = np.cumsum([0, *(file.take for file in files)])
        for path in self._paths:
            state = "is missing" if not _is_there(path) else "is empty (0 bytes)" if not size_of(path) else None
            if state is not None:
                raise UsageError(
                    f"{path} {state}, so {config.dataset} is not complete in data.root={config.root}\n"
                    f"copy it there, or {_how(config)}"
                )
        self._paths = as_they_fit(self._root, self._paths)
        self.ahead = ahead_of(self._root, self._paths, split)
        self._expect: Callable[[Numbers], None] | None = None
        self._records = self._opened(files, builder.info.file_format.value, split)
        self._example = ExampleReader(config.image_key, config.label_key, None, len(self.class_names), None)
        self.count = int(self._first[-1])

    def _opened(self, files: list[Any], file_format: str, split: Split) -> Callable[[int], bytes]:
        """Reads a record by its number."""
        if file_format == FORMAT:
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            records = ArrayRecordDataSource(files)
            return lambda record: records[record]
        if file_format == TFRECORD:
            return self._opened_tfrecord()
        title = f"indexing {self._config.dataset}"
        index = load_or_make(
            self._root, "index", self._paths, ("rows 1",), lambda: index_rows(self._paths, COLUMN, "column", title)
        )
        rows = ParquetRows(self._paths, COLUMN, "column", index, KEPT_BYTES)
        cost = rows.cost()
        if cost is not None and split == "train":
            print(cost.described(f"records in {self._root}"))
            warning = cost.warning()
            if warning is not None:
                print(f"warning: {warning}; prepared as {FORMAT}, it costs nothing\n{_how(self._config)}")
        self._refuse_short(rows.first, "rows")
        self._expect = lambda records: rows.expect(self._numbers(rows.first, records))

        def read(record: int) -> bytes:
            file, within = self._where(record)
            value = rows.read(int(rows.first[file]) + within)
            if value is None:
                raise BadRecord(f"{self.place(record)} has no example")
            return value

        return read

    def _opened_tfrecord(self) -> Callable[[int], bytes]:
        index = load_or_build(self._root, self._paths)
        first = np.cumsum([0, *(len(each) - 1 for each in index)])
        reader = TFRecordReader(self._paths, index, True)
        self._refuse_short(first, "records")
        self._expect = lambda records: reader.expect(self._numbers(first, records))
        return lambda record: reader.read(int(self._numbers(first, np.array([record]))[0]))

    def _numbers(self, first: Numbers, records: Numbers) -> Numbers:
        """The numbers of records among all that the files have, of which ``first`` are the first of each file."""
        files = np.searchsorted(self._first, records, side="right") - 1
        numbers: Numbers = records - self._first[files] + self._skipped[files] + first[files]
        return numbers

    def _refuse_short(self, first: Numbers, what: str) -> None:
        """Refuse files that have fewer records than the data set says."""
        there, taken = np.diff(first), np.diff(self._first) + self._skipped
        for path, has, needs in zip(self._paths, there.tolist(), taken.tolist(), strict=True):
            if has < needs:
                raise UsageError(
                    f"{path} has {has} {what}, but {self._config.dataset} should have {needs} there\n"
                    f"copy it again, or {_how(self._config)}"
                )

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        examples = [self._read(int(record)) for record in records]
        return [image for image, _ in examples], np.array([label for _, label in examples], np.int64)

    def expect(self, records: Numbers) -> None:
        """``records`` are read soon; see ``Source.expect``."""
        assert self._expect is not None, "files of this machine are not announced"
        self._expect(records)

    def labels(self) -> Numbers:
        config = self._config
        places = str([self._skipped.tolist(), self._first.tolist()])
        settings = (config.label_key, config.image_key, config.on_bad_record, places)
        skip_bad, title = config.on_bad_record == "skip", config.dataset
        cached = load_or_make(
            self._root,
            "labels",
            self._paths,
            settings,
            lambda: {"labels": read_labels(lambda record: self._read(record)[1], self.count, skip_bad, title)},
        )
        return cached["labels"]

    def place(self, record: int) -> str:
        file, within = self._where(record)
        return f"{self._paths[file]} record {within}"

    def _where(self, record: int) -> tuple[int, int]:
        """The number of a record's file, and the record's number in it."""
        file = int(np.searchsorted(self._first, record, side="right")) - 1
        return file, int(record - self._first[file] + self._skipped[file])

    def listing(self, records: Numbers) -> str:
        """A digest of all files of the split: the lengths of single records are not known."""
        lines = [f"{path.name}\0{size_of(path)}\n" for path in self._paths]
        lines.append(str([self._skipped.tolist(), self._first.tolist()]))
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _read(self, record: int) -> tuple[bytes, int]:
        try:
            with reading(lambda: self.place(record)):
                data = self._records(record)
        except (OSError, RuntimeError, ValueError, IndexError) as error:  # what array_record raises
            reason = str(error).splitlines()[0]
            raise BadRecord(f"{self.place(record)} cannot be read: {reason}") from error
        return self._example.read(data, lambda: self.place(record))


def _is_there(path: AnyPath) -> bool:
    return path.found is not None if isinstance(path, RemotePath) else path.is_file()


def _prepared(config: TFDSConfig, place: PreparedDirectory) -> Any:
    """The builder of the data set as it lies in ``data.root``."""
    try:
        from array_record.python import array_record_data_source  # noqa: F401  # fails where there is no wheel of it
        from google.protobuf.json_format import ParseError
        from tensorflow_datasets.core import read_only_builder, registered
    except ImportError as error:
        raise UsageError(f"data=tfds needs tensorflow-datasets and array_record: {INSTALL}\n({error})") from error
    wanted = f"data.dataset={config.dataset}"
    if not place.directory.is_dir():
        raise UsageError(f"data.root={config.root} does not exist, so {wanted} is not prepared there\n{_how(config)}")
    try:
        builder = read_only_builder.builder_from_files(config.dataset, data_dir=str(place.directory))
    except (*UNREADABLE, ParseError) as error:
        there = place.folders()
        name = config.dataset.partition("/")[0].partition(":")[0]
        described = sorted(place.directory.glob(f"{name}/**/{DESCRIPTION}"))
        if described and not isinstance(error, registered.DatasetNotFoundError):
            raise UsageError(
                f"{place.shown(_damaged(described))} describes {wanted} and cannot be read; it is damaged: "
                f"{parquet_file.reason_of(error)}\ncopy it again, or {_how(config)}"
            ) from error
        raise UsageError(
            f"{wanted} is not prepared in data.root={config.root}, which has {', '.join(there) or 'nothing'}"
            f"{nearest(name, there)}\n{_how(config)}"
        ) from error
    formats = sorted(found.value for found in builder.info.available_file_formats())
    readable = (PARQUET, TFRECORD) if place.is_remote else (FORMAT, PARQUET, TFRECORD)
    chosen = next((each for each in readable if each in formats), None)
    if chosen is None and FORMAT in formats:
        raise UsageError(
            f"{place.shown(builder.data_dir)} is prepared as {', '.join(formats)}, whose reader opens files of this "
            f"machine alone; copy the folder to this machine, or prepare it as {TFRECORD} there"
        )
    if chosen is None:
        raise UsageError(
            f"{place.shown(builder.data_dir)} is prepared as {', '.join(formats)}, which has no random access; prepare "
            f"it as {FORMAT} in another data_dir\n{_how(config)}"
        )
    if chosen == PARQUET:
        parquet_file.pyarrow()
    builder.info.set_file_format(chosen, override=True, override_if_initialized=True)
    return builder


def _damaged(described: Sequence[Path]) -> Path:
    """The file that is not what it should be, or else the directory of the description."""
    for path in (path for each in described for path in sorted(each.parent.glob("*.json"))):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            return path
    return described[0].parent


def _how(config: TFDSConfig) -> str:
    return f"to prepare it: {shlex.join(['python', '-c', PREPARE, config.dataset, config.root])}"


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


def _class_names(builder: Any, config: TFDSConfig, place: PreparedDirectory) -> tuple[str, ...]:
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
                f"data.{key}={name} of {builder.info.full_name} is {type(found[name]).__name__}, not {kind.__name__}; "
                f"set it to one that is: {few([each for each in found if isinstance(found[each], kind)])}"
            )
    listed = Path(builder.data_dir) / f"{config.label_key}.labels.txt"
    if listed.is_file() and not listed.read_bytes().strip():  # tensorflow-datasets would count the classes instead
        raise UsageError(f"{place.shown(listed)} names no class; copy it again, or {_how(config)}")
    return tuple(found[config.label_key].names)
