"""Keys of ``data``: where the images come from."""

from __future__ import annotations

import abc
import dataclasses
import os
import re
import shlex
from typing import TYPE_CHECKING, ClassVar, Literal

from trainer.command_line import argument
from trainer.config.keys import key
from trainer.config.plugins import SOURCES
from trainer.config.registry import option, plugin_base
from trainer.config.schema.bounds import LARGEST_CLASSIFIER
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.config.contracts import Split, StoredSplit


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
    root = getattr(data, "root", None)
    return root if isinstance(root, str) else None


@option(SOURCES, "trainer.data.sources.digits:DigitsSplit")
@dataclasses.dataclass(frozen=True)
class DigitsConfig(DataConfig):
    name: Literal["digits"] = key("which data: the embedded UCI handwritten digits", "fixed")


@option(SOURCES, "trainer.data.sources.image_folder:ImageFolderSplit")
@dataclasses.dataclass(frozen=True)
class ImageFolderConfig(DataConfig):
    name: Literal["image_folder"] = key("which data: image files in a folder for each class", "fixed")
    root: str = key("directory of the class folders, or of train/ and val/ with the class folders", "free", path=True)
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

    def check_keys(self, image_size: int) -> None:
        wrong = [each for each in self.extensions if not re.fullmatch("[a-z0-9]+", each)]
        if wrong or not self.extensions:
            raise UsageError(
                f"data.extensions is {list(self.extensions)}, but must be endings without their dot, of small letters "
                "and digits: [jpg,png]"
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


@option(SOURCES, "trainer.data.sources.shards:TFRecordSplit")
@dataclasses.dataclass(frozen=True)
class TFRecordConfig(DataConfig):
    name: Literal["tfrecord"] = key("which data: tf.train.Example records in TFRecord files", "fixed")
    root: str = key("directory of the files", "free", path=True)
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

    def check_keys(self, image_size: int) -> None:
        for name, path in (
            ("labels_file", self.labels_file),
            ("train_pattern", self.train_pattern),
            ("validation_pattern", self.validation_pattern),
            ("test_pattern", self.test_pattern),
        ):
            if path is not None:
                _check_below(self.root, f"data.{name}", path)
        if self.labels_file is None and self.num_classes is None:
            raise UsageError(
                "TFRecord files do not say how many classes there are: set data.num_classes=N, or "
                "data.labels_file=FILE, a file below data.root with one class name a line, in label order"
            )
        if self.labels_file is not None and self.num_classes is not None:
            raise UsageError(
                f"data.labels_file={self.labels_file} and data.num_classes={self.num_classes} both say how many "
                "classes there are; leave data.num_classes null"
            )


def _check_below(root: str, key: str, path: str) -> None:
    """Refuse a path that is not relative to ``root``: the data may move, and the path moves with them.

    Raises:
        UsageError: says what to write where the place itself is right.
    """
    if not os.path.isabs(path) and ".." not in path.split("/"):
        return
    place = os.path.normpath(os.path.join(os.path.abspath(root), path))
    resolved = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
    both = (os.path.relpath(place, os.path.abspath(root)), os.path.relpath(resolved, os.path.realpath(root)))
    meant = next((each for each in both if each.split("/")[0] != ".."), None)
    given = f"{key}={path}"
    if meant is not None:
        kind = "is an absolute path" if os.path.isabs(path) else "leads through .."
        raise UsageError(f"{given} {kind}; write it relative to data.root={root}: {shlex.quote(argument(key, meant))}")
    raise UsageError(
        f"{given} leads out of data.root={root}; it is relative to data.root, so that it moves with the data\n"
        "put a copy or a link of the file below data.root"
    )


@option(SOURCES, "trainer.data.sources.tfds:TFDSSplit")
@dataclasses.dataclass(frozen=True)
class TFDSConfig(DataConfig):
    name: Literal["tfds"] = key("which data: a data set that tensorflow-datasets has prepared", "fixed")
    root: str = key("tensorflow-datasets' data_dir", "free", path=True)
    dataset: str = key("name[/config][:version], as tensorflow-datasets writes it", "consent")
    train_split: str = key("split for training, in tensorflow-datasets' notation (train, train[:80%])", "consent")
    validation_split: str = key("split for validation, in tensorflow-datasets' notation", "consent")
    test_split: str = key("the test set, in tensorflow-datasets' notation; only evaluate reads it", "free")
    image_key: str = key("feature that holds the image", "consent")
    label_key: str = key("feature that holds the label, a ClassLabel", "consent")


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
