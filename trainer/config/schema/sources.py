"""Keys of ``data``: where the images come from."""

from __future__ import annotations

import abc
import dataclasses
import os
import re
import shlex
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainer.command_line import argument
from trainer.config.keys import key
from trainer.config.plugins import SOURCES
from trainer.config.registry import option, plugin_base
from trainer.config.schema.bounds import LARGEST_CLASSIFIER
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.config.contracts import Split, StoredSplit

FOLDS_LISTED = 20  # in a message
TABLES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson")
NO_TABLES = {
    (".xls", ".xlsx", ".ods"): "save the sheet as CSV UTF-8",
    (".parquet", ".feather", ".arrow"): "write its columns as CSV, or read images in Parquet with data=parquet",
    (".gz", ".zip", ".bz2", ".xz", ".zst"): "unpack it",
    (".json",): "write one object a line, as .jsonl",
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The keys of every source: which of its records are used, and what happens to one that cannot be used."""

    name: str = key("which data", "fixed")
    classes: tuple[str, ...] | None = key(
        "use only the records of these classes, in this order of labels; null: all, as stored", "fixed"
    )
    class_weights: tuple[float, ...] | None = key(
        "times an epoch shows each record of a class, one number a class: n records have round(weight x n) places; "
        "null: every record once",
        "consent",
        above=0.0,
        maximum=1e6,
    )
    train_examples: int | None = key("use only so many records; null: all", "consent", minimum=1)
    validation_examples: int | None = key("use only so many records; null: all", "consent", minimum=1)
    on_bad_record: Literal["fail", "skip"] = key(
        "a record that cannot be used: end with its name, or train on another in its place and count it", "free"
    )

    def check_keys(self, image_size: int) -> None:
        """Raise ``UsageError`` when keys of this section conflict with each other or with ``preprocess.image_size``."""


def root_of(data: DataConfig) -> str | None:
    """The directory of the data; None where the source has no such key, because they are part of the program."""
    if isinstance(data, TableConfig):
        return data.root or os.path.dirname(data.file)
    root = getattr(data, "root", None)
    return root if isinstance(root, str) else None


def _disk_cache() -> Any:
    """The key of every source whose files may lie on another machine."""
    return key(
        "local disk that keeps what was read from a root on another machine, 10^9 bytes for all data there",
        "free",
        above=0.0,
    )


@option(SOURCES, "trainer.data.sources.digits:DigitsSplit")
@dataclasses.dataclass(frozen=True)
class DigitsConfig(DataConfig):
    name: Literal["digits"] = key("which data: the embedded UCI handwritten digits", "fixed")


@option(SOURCES, "trainer.data.sources.image_folder:ImageFolderSplit")
@dataclasses.dataclass(frozen=True)
class ImageFolderConfig(DataConfig):
    name: Literal["image_folder"] = key("which data: image files in a folder for each class", "fixed")
    root: str = key(
        "directory of the class folders, or of train/ and val/ with the class folders; or its URL (s3://…, gs://…, "
        "https://…)",
        "free",
        path=True,
    )
    layout: Literal["auto", "classes", "exact"] = key(
        "what the folders of root are; auto: splits where they have the names of splits, else classes; classes: every "
        "one is a class; exact: splits where they are train and val or validation, in this spelling, else classes (as "
        "runs that were stored without this key)",
        "consent",
    )
    extensions: tuple[str, ...] = key(
        "endings of the names of image files, in upper or lower case; what a file holds decides how it is read",
        "consent",
    )
    without_extension: Literal["content", "ignore"] = key(
        "files whose names have no ending; content: images by their first bytes are read; ignore: none is", "consent"
    )
    ignore: tuple[str, ...] = key(
        "patterns (glob, in any case) of the names of files and folders that are left out, wherever they lie", "consent"
    )
    validation_share: float = key(
        "share of the images, by a hash of their path, that validates; unused when there is a val/ folder",
        "consent",
        above=0.0,
        below=1.0,
    )
    split_by: Literal["class", "path"] = key(
        "class: of each class, the images with the lowest hash validate, and one at least is for training; path: the "
        "hash of each path alone decides (as in runs that were stored without this key)",
        "consent",
    )
    group_pattern: str | None = key(
        "regular expression on the path relative to root; its first group, or else the whole match, names the group of "
        "an image, and no group is in two splits; null: every image for itself",
        "consent",
    )

    folds: int | None = key(
        "equal parts that the images are divided into, by the same hash, to validate each in turn; null: "
        "validation_share",
        "consent",
        minimum=2,
        maximum=1000,
    )
    fold: int | None = key("which of the folds validates, counted from 0; null without folds", "consent", minimum=0)
    disk_cache_gigabytes: float = _disk_cache()

    def check_keys(self, image_size: int) -> None:
        _check_folds(self.folds, self.fold)
        wrong = [each for each in self.extensions if not re.fullmatch("[a-z0-9]+", each)]
        if wrong or not self.extensions:
            raise UsageError(
                f"data.extensions is {list(self.extensions)}, but must be endings without their dot, of small letters "
                "and digits: [jpg,png]"
            )
        paths = [each for each in self.ignore if "/" in each or not each]
        if paths:
            raise UsageError(
                f"data.ignore has {paths[0]!r}, but must have patterns of names, not of paths: data.ignore=[background]"
            )
        if self.folds is not None and self.split_by == "path":
            raise UsageError(
                f"data.folds={self.folds} divides each class equally, and data.split_by=path does not look at classes; "
                "set data.split_by=class"
            )
        if self.group_pattern is None:
            return
        try:
            re.compile(self.group_pattern)
        except re.error as error:
            raise UsageError(f"data.group_pattern={self.group_pattern} is not a regular expression: {error}") from error
        if self.split_by == "path":
            raise UsageError(
                "data.split_by=path decides for each image by itself, so it cannot keep the groups of "
                f"data.group_pattern={self.group_pattern} together; set data.split_by=class"
            )


@option(SOURCES, "trainer.data.sources.table:TableSplit")
@dataclasses.dataclass(frozen=True)
class TableConfig(DataConfig):
    name: Literal["table"] = key("which data: image files that a table names, in CSV, TSV or JSON Lines", "fixed")
    file: str = key(
        "the table (.csv, .tsv, .jsonl), or its URL (s3://…, gs://…, https://…); its first line, or its objects, name "
        "columns",
        "free",
        path=True,
    )
    root: str | None = key(
        "directory that the paths in the table are relative to, or its URL; null: that of the table", "free", path=True
    )
    path_column: str = key("column with the path of an image", "consent")
    path_suffix: str = key("added to each path: .jpg where the column has names without their ending", "consent")
    label_column: str = key("column with the label, a text or a number", "consent")
    labels_file: str | None = key(
        "file, relative to the table, with the class names in label order, of which the labels are names or numbers; "
        "null: the labels are the names",
        "free",
    )
    split_column: str | None = key(
        "column with the split: train, validation or test, or another usual name of one; null: validation_share or "
        "folds decide",
        "consent",
    )
    group_column: str | None = key(
        "column with what belongs together (patient, slide, video): no group is in two splits; null: every image for "
        "itself",
        "consent",
    )
    validation_share: float = key(
        "share of each class, by a hash of the path, that validates; unused when rows are marked for validation",
        "consent",
        above=0.0,
        below=1.0,
    )
    folds: int | None = key(
        "equal parts that the images are divided into, by the same hash, to validate each in turn; null: "
        "validation_share",
        "consent",
        minimum=2,
        maximum=1000,
    )
    fold: int | None = key("which of the folds validates, counted from 0; null without folds", "consent", minimum=0)
    disk_cache_gigabytes: float = _disk_cache()

    def check_keys(self, image_size: int) -> None:
        _check_folds(self.folds, self.fold)
        ending = os.path.splitext(self.file)[1].lower()
        if ending not in TABLES:
            instead = next(
                (text for endings, text in NO_TABLES.items() if ending in endings), "save it as one of these"
            )
            raise UsageError(
                f"data.file={self.file} is {f'a {ending} file' if ending else 'without an ending'}, and a table is "
                f"{', '.join(TABLES)}: {instead}"
            )
        columns = {name: value for name, value in vars(self).items() if name.endswith("_column") and value is not None}
        twice = [name for name, value in columns.items() if list(columns.values()).count(value) > 1]
        if twice:
            raise UsageError(f"{' and '.join(f'data.{name}' for name in twice)} are both {columns[twice[0]]}")
        if self.labels_file is not None:
            _check_below(os.path.dirname(self.file), "data.labels_file", self.labels_file, "the folder of data.file")


def is_table(path: str) -> bool:
    """Whether a file's name is that of a table."""
    return os.path.splitext(path)[1].lower() in TABLES


def _check_folds(folds: int | None, fold: int | None) -> None:
    if folds is None and fold is None:
        return
    if folds is None:
        raise UsageError(f"data.fold={fold} is one of several folds: set data.folds, e.g. data.folds=5")
    numbers = ",".join(map(str, range(folds))) if folds <= FOLDS_LISTED else f"0,1,…,{folds - 1}"
    if fold is None:
        raise UsageError(
            f"data.folds={folds} needs the fold that validates: data.fold=0 to data.fold={folds - 1}\n"
            f"for a cross-validation: --multirun data.fold={numbers}"
        )
    if fold >= folds:
        raise UsageError(f"data.fold={fold} does not exist: data.folds={folds} has 0 to {folds - 1}, counted from 0")


@option(SOURCES, "trainer.data.sources.shards:TFRecordSplit")
@dataclasses.dataclass(frozen=True)
class TFRecordConfig(DataConfig):
    name: Literal["tfrecord"] = key("which data: tf.train.Example records in TFRecord files", "fixed")
    root: str = key("directory of the files, or its URL (s3://…, gs://…, https://…)", "free", path=True)
    train_pattern: str = key("which files below root are for training (glob)", "consent")
    validation_pattern: str = key("which files below root are for validation (glob)", "consent")
    test_pattern: str = key("which files below root are the test set (glob); only evaluate reads them", "free")
    image_key: str = key("feature that holds the encoded image", "consent")
    label_key: str = key(
        "feature that holds the label: an integer or, with labels_file, the name of a class", "consent"
    )
    label_offset: int = key("stored label of the first class: 1 where 0 means background", "consent")
    labels_file: str | None = key(
        "file, relative to root, with one class name a line, in label order, or 0:name lines; null: num_classes", "free"
    )
    num_classes: int | None = key(
        "number of classes, when labels_file is null", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER
    )
    verify_crc: bool = key("compare the CRC of every record that is read", "consent")
    disk_cache_gigabytes: float = _disk_cache()

    def check_keys(self, image_size: int) -> None:
        _check_patterns(self)
        _check_class_count(self, "TFRecord files do")


def _check_patterns(config: TFRecordConfig | WebDatasetConfig | ParquetConfig) -> None:
    for name in ("labels_file", "train_pattern", "validation_pattern", "test_pattern"):
        path = getattr(config, name)
        if path is not None:
            _check_below(config.root, f"data.{name}", path)


def _check_class_count(config: TFRecordConfig | WebDatasetConfig | ParquetConfig, data: str) -> None:
    """Refuse keys that do not say how many classes there are, or say it twice."""
    if config.labels_file is None and config.num_classes is None:
        raise UsageError(
            f"{data} not say how many classes there are: set data.num_classes=N, or "
            "data.labels_file=FILE, a file below data.root with one class name a line, in label order"
        )
    if config.labels_file is not None and config.num_classes is not None:
        raise UsageError(
            f"data.labels_file={config.labels_file} and data.num_classes={config.num_classes} both say how many "
            "classes there are; leave data.num_classes null"
        )


def _check_below(root: str, key: str, path: str, place: str = "data.root") -> None:
    """Refuse a path that is not relative to ``root``: the data may move, and the path moves with them. ``place`` is
    what messages call it.

    Raises:
        UsageError: says what to write where the place itself is right.
    """
    if not os.path.isabs(path) and ".." not in path.split("/"):
        return
    there = os.path.normpath(os.path.join(os.path.abspath(root), path))
    resolved = os.path.join(os.path.realpath(os.path.dirname(there)), os.path.basename(there))
    both = (os.path.relpath(there, os.path.abspath(root)), os.path.relpath(resolved, os.path.realpath(root)))
    meant = next((each for each in both if each.split("/")[0] != ".."), None)
    given = f"{key}={path}"
    if meant is not None:
        kind = "is an absolute path" if os.path.isabs(path) else "leads through .."
        raise UsageError(f"{given} {kind}; write it relative to {place}={root}: {shlex.quote(argument(key, meant))}")
    raise UsageError(
        f"{given} leads out of {place}={root}; it is relative to {place}, so that it moves with the data\n"
        f"put a copy or a link of the file below {place}"
    )


@option(SOURCES, "trainer.data.sources.tfds:TFDSSplit")
@dataclasses.dataclass(frozen=True)
class TFDSConfig(DataConfig):
    name: Literal["tfds"] = key("which data: a data set that tensorflow-datasets has prepared", "fixed")
    root: str = key("tensorflow-datasets' data_dir, or its URL (s3://…, gs://…, https://…)", "free", path=True)
    dataset: str = key("name[/config][:version], as tensorflow-datasets writes it", "consent")
    train_split: str = key("split for training, in tensorflow-datasets' notation (train, train[:80%])", "consent")
    validation_split: str = key("split for validation, in tensorflow-datasets' notation", "consent")
    test_split: str = key("the test set, in tensorflow-datasets' notation; only evaluate reads it", "free")
    image_key: str = key("feature that holds the image", "consent")
    label_key: str = key("feature that holds the label, a ClassLabel", "consent")
    disk_cache_gigabytes: float = _disk_cache()


@option(SOURCES, "trainer.data.sources.webdataset:WebDatasetSplit")
@dataclasses.dataclass(frozen=True)
class WebDatasetConfig(DataConfig):
    name: Literal["webdataset"] = key("which data: images and labels in tar shards, as webdataset writes them", "fixed")
    root: str = key("directory of the shards, or its URL (s3://…, gs://…, https://…)", "free", path=True)
    train_pattern: str = key("which shards below root are for training (glob, or names with {000..009})", "consent")
    validation_pattern: str = key("which shards below root are for validation", "consent")
    test_pattern: str = key("which shards below root are the test set; only evaluate reads them", "free")
    extensions: tuple[str, ...] = key("endings of the members that are images, in upper or lower case", "consent")
    label_key: str = key(
        "ending of the members that hold the label: a number (cls) or, with labels_file, the name of a class (txt); or "
        "JSON (json)",
        "consent",
    )
    label_field: str | None = key(
        "field of the JSON object that holds the label; null: the JSON is the label", "consent"
    )
    label_offset: int = key("stored label of the first class: 1 where 0 means background", "consent")
    labels_file: str | None = key(
        "file, relative to root, with one class name a line, in label order, or 0:name lines; null: num_classes", "free"
    )
    num_classes: int | None = key(
        "number of classes, when labels_file is null", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER
    )
    disk_cache_gigabytes: float = _disk_cache()

    def check_keys(self, image_size: int) -> None:
        _check_patterns(self)
        _check_class_count(self, "Tar shards do")
        wrong = [each for each in self.extensions if not re.fullmatch("[a-z0-9.]+", each)]
        if wrong or not self.extensions:
            raise UsageError(
                f"data.extensions is {list(self.extensions)}, but must be endings of members without their first dot, "
                "of small letters and digits: [jpg,png]"
            )
        if self.label_key.lower() in self.extensions:
            raise UsageError(f"data.label_key={self.label_key} is one of data.extensions, the endings of images")


@option(SOURCES, "trainer.data.sources.parquet:ParquetSplit")
@dataclasses.dataclass(frozen=True)
class ParquetConfig(DataConfig):
    name: Literal["parquet"] = key("which data: images and labels in the columns of Parquet files", "fixed")
    root: str = key("directory of the files, or its URL (s3://…, gs://…, https://…)", "free", path=True)
    train_pattern: str = key("which files below root are for training (glob, or names with {000..009})", "consent")
    validation_pattern: str = key("which files below root are for validation", "consent")
    test_pattern: str = key("which files below root are the test set; only evaluate reads them", "free")
    image_column: str = key(
        "column of the encoded images: binary, or a struct with the binary field bytes, as Hugging Face's datasets "
        "writes it",
        "consent",
    )
    label_column: str = key(
        "column of the labels: whole numbers or, where names of classes are known, these", "consent"
    )
    label_offset: int = key("stored label of the first class: 1 where 0 means background", "consent")
    labels_file: str | None = key(
        "file, relative to root, with one class name a line, in label order, or 0:name lines; null: the names that "
        "datasets has written into the files, or else num_classes",
        "free",
    )
    num_classes: int | None = key(
        "number of classes, when neither the files nor labels_file name them",
        "fixed",
        minimum=2,
        maximum=LARGEST_CLASSIFIER,
    )
    cache_megabytes: int = key(
        "memory, for each split, that keeps row groups of images that cannot be read one by one", "free", minimum=1
    )
    disk_cache_gigabytes: float = _disk_cache()

    def check_keys(self, image_size: int) -> None:
        _check_patterns(self)
        if self.labels_file is not None and self.num_classes is not None:
            _check_class_count(self, "")


@option(SOURCES, "trainer.data.sources.synthetic:SyntheticSplit")
@dataclasses.dataclass(frozen=True)
class SyntheticConfig(DataConfig):
    name: Literal["synthetic"] = key("which data: made up, for benchmarks", "fixed")
    train_examples: int = key("number of records for training", "consent", minimum=1)
    validation_examples: int = key("number of records for validation", "consent", minimum=1)
    num_classes: int = key("number of classes", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER)
    height: int = key("of the images, pixels", "consent", minimum=1, maximum=4096)
    width: int = key("of the images, pixels", "consent", minimum=1, maximum=4096)
    decode: bool = key("JPEG files that are decoded and transformed; false: the network's input itself", "consent")

    def check_keys(self, image_size: int) -> None:
        if self.classes is not None:
            raise UsageError(
                "data=synthetic has no classes to choose from: set data.num_classes instead of data.classes"
            )
        if not self.decode and (self.height, self.width) != (image_size, image_size):
            raise UsageError(
                f"data.decode=false makes the network's input itself, so data.height={self.height} and "
                f"data.width={self.width} must be preprocess.image_size={image_size}"
            )


@plugin_base(SOURCES, "trainer.data.sources.plugin:PluggedSplit")
@dataclasses.dataclass(frozen=True)
class SourcePlugin(DataConfig, abc.ABC):
    """Base of a source from another distribution, found by an entry point in ``trainer.sources``. It adds its keys.

    ``splits`` names the splits that ``open`` knows; one with a test set adds ``"test"``.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "validation")

    @abc.abstractmethod
    def open(self, split: Split) -> StoredSplit:
        """All records of one split: ``trainer.plugins.StoredSplit``.

        TensorFlow is not set up yet, so none of its operations may run here, in ``labels`` or in ``listing``.

        Raises:
            UsageError: the data is missing or not what is expected; names the file or folder.
        """
