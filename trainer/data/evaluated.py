"""The data that a checkpoint is evaluated on: which split of it, and its classes matched by name."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.command_line import argument
from trainer.config.contracts import Split, StoredSplit
from trainer.config.registry import builder_of
from trainer.config.reproduction import spelled
from trainer.config.schema.sources import DataConfig, ImageFolderConfig, TableConfig, TFRecordConfig
from trainer.config.urls import is_url
from trainer.data.sources.folders import folder_at
from trainer.data.sources.image_folder import ImageFolderSplit
from trainer.data.sources.source import Source
from trainer.data.sources.split_folders import Layout, layout_of
from trainer.data.sources.table import TableSplit
from trainer.data.sources.table_file import has_column, table_at
from trainer.errors import NoSuchSplit, RestoreRefused, UsageError, few

PARTING = ("validation_share", "split_by", "folds", "fold")  # keys that choose among the images of a folder
# keys that decide what validates in a tree, and in a table
SPLITTING = ("layout", *PARTING, "group_pattern")
SPLITTING_ROWS = ("split_column", "validation_share", "folds", "fold", "group_column")
OF_A_SPLIT = re.compile(r"data\.(train|validation|test)_(examples|pattern|split)")  # keys that choose its records
LISTED = 20  # classes that a command to copy names


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """``source`` has the labels of the checkpoint's classes. ``divided`` says whether its images are a part of a folder
    that is split by the keys of ``PARTING``. ``notes`` say what a reader of the numbers has to know.
    """

    source: Source
    split: Split
    divided: bool
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the checkpoint at ``place`` was trained on. ``data`` is its configuration; ``class_names`` are in label
    order; ``listing`` is the digest of its training records (``Source.listing``), None where it has none.
    """

    place: Path
    data: DataConfig
    class_names: tuple[str, ...]
    listing: str | None


def open_evaluated(trained: Trained, wanted: DataConfig, asked: Split | None) -> Evaluated:
    """Open what is evaluated: the split ``asked`` for, or else the one that is meant.

    Class folders without a split are a test set, all of which is evaluated, unless the checkpoint was trained on a part
    of them: then it is the part that validated. So is a table whose rows are not marked for splits.
    Elsewhere ``validation`` is meant, or ``test`` where there is no other.

    Raises:
        UsageError: the data cannot be read, or has no such split.
        RestoreRefused: it has classes that the checkpoint does not know.
    """
    if isinstance(wanted, TableConfig):
        return _open_table(trained, wanted, asked)
    if not isinstance(wanted, ImageFolderConfig):
        split = asked or "validation"
        return _evaluated(trained, wanted, split, builder_of(wanted)(wanted, split), (), divided=False)
    own = _is_own_root(trained.data, wanted)
    if not own and wanted.layout == "exact":
        wanted = dataclasses.replace(wanted, layout="auto")  # the names that stored runs knew are for their own data
    layout = layout_of(wanted, folder_at(wanted.root, wanted.disk_cache_gigabytes, None))
    if not layout.is_tree:
        split = asked or _meant(layout)
        return _evaluated(trained, wanted, split, ImageFolderSplit(wanted, split), (), divided=layout.divided(split))
    own = own or _is_copy(trained, wanted)
    if not own and asked in (None, "test"):
        whole = ImageFolderSplit(wanted, "test", undivided=True)
        return _evaluated(trained, wanted, "test", whole, _also_trained_on(trained.data, whole), divided=False)
    split = asked or "validation"
    notes = _training_images(trained.data, wanted) if own else ()
    return _evaluated(trained, wanted, split, ImageFolderSplit(wanted, split), notes, divided=True)


def _open_table(trained: Trained, wanted: TableConfig, asked: Split | None) -> Evaluated:
    own = isinstance(trained.data, TableConfig) and os.path.realpath(trained.data.file) == os.path.realpath(wanted.file)
    own = own or _is_copied_table(trained, wanted)
    unmarked: tuple[str, ...] = ()
    if not own and asked in (None, "test"):
        wanted, unmarked = _as_test_set(wanted)
    if wanted.split_column is None and not own and asked in (None, "test"):
        whole = TableSplit(wanted, "test", undivided=True)
        notes = (*unmarked, *_rows_trained_on(trained.data, whole))
        return _evaluated(trained, wanted, "test", whole, notes, divided=False)
    split = asked or "validation"
    if not own and asked is None:
        try:
            stored = TableSplit(wanted, split)
        except NoSuchSplit:  # nothing but a test set
            split, stored = "test", TableSplit(wanted, "test")
    else:
        stored = TableSplit(wanted, split)
    notes = _changed(trained.data, wanted, SPLITTING_ROWS) if own else _rows_trained_on(trained.data, stored)
    return _evaluated(trained, wanted, split, stored, notes, divided=stored.divided)


def _as_test_set(wanted: TableConfig) -> tuple[TableConfig, tuple[str, ...]]:
    """``wanted`` without the columns that say how rows are divided where the table lacks them: a table of a test set
    seldom has those of the one that was trained on. A note says what this means.
    """
    columns = {"data.path_column": wanted.path_column, "data.label_column": wanted.label_column}
    split, group = wanted.split_column, wanted.group_column
    note: tuple[str, ...] = ()
    if split is not None and not has_column(table_at(wanted), columns, "data.split_column", split):
        note = (f"{wanted.file} has no column {split} (data.split_column), so all of its rows are evaluated",)
        split = None
    if group is not None and not has_column(table_at(wanted), columns, "data.group_column", group):
        group = None
    return dataclasses.replace(wanted, split_column=split, group_column=group), note


def _is_copied_table(trained: Trained, wanted: TableConfig) -> bool:
    """Whether the table has the very images that the checkpoint was trained on, at another place, or is what they were
    prepared from.
    """
    there = wanted
    if isinstance(trained.data, TableConfig):
        there = dataclasses.replace(trained.data, file=wanted.file, root=wanted.root)
    listing = _listing(trained, wanted)
    if listing is None:
        return False
    try:
        return Source(TableSplit(there, "train", say=_unsaid), there, "train").listing == listing
    except UsageError:
        return False  # it has not even its columns


def _rows_trained_on(trained: DataConfig, test: TableSplit) -> tuple[str, ...]:
    """A note where images of another table were trained on. Only what has the same path is found."""
    if not isinstance(trained, TableConfig) or not (is_url(trained.file) or os.path.isfile(trained.file)):
        return ()
    return _no_test(test, lambda: test.also_in(TableSplit(trained, "train", say=_unsaid)))


def refuse_without_effect(found: Evaluated, given: Mapping[str, object]) -> None:
    """Refuse keys that the user has ``given`` (dotted key → value) and that choose none of the images evaluated: the
    numbers would not be those that the user asked for.

    Raises:
        UsageError: names the first such key, and what is meant instead.
    """
    for key, value in given.items():
        reason = None if value is None else _without_effect(key, found, given)
        if reason is not None:
            raise UsageError(f"{argument(key, value)} has no effect on this evaluation: {reason}")


def _without_effect(key: str, found: Evaluated, given: Mapping[str, object]) -> str | None:
    split = found.split
    if key == "data.class_weights":
        return "every example is evaluated once; leave it out"
    if key in (f"data.{name}" for name in PARTING) and not found.divided:
        return f"it parts validation from training, and every image of {split} is evaluated; leave it out"
    of_split = OF_A_SPLIT.fullmatch(key)
    if of_split is None:
        return None
    other, what = of_split.groups()
    own = f"data.{split}_{what}"
    if own in given:  # the data were described as a whole
        return None
    whole = split == "test" and what == "examples"
    meant = [] if whole else [f"set {own}"]
    if other != "train":  # nobody tests on what was trained on by mistake
        meant.append(f"evaluate split={other}")
    also = ", which is evaluated whole" if whole else ""
    return f"it is about {other}, and this is {split}{also}; {' or '.join([*meant, 'leave it out'])}"


def _meant(layout: Layout) -> Split:
    """``validation``, or ``test`` where nothing else could be evaluated that was not trained on."""
    there = "validation" in layout.folders or "train" in layout.folders
    return "validation" if there else "test"


def _evaluated(
    trained: Trained,
    wanted: DataConfig,
    split: Split,
    stored: StoredSplit,
    notes: tuple[str, ...],
    *,
    divided: bool,
) -> Evaluated:
    _refuse_unknown(trained, wanted.classes, stored.class_names)
    source = Source(stored, dataclasses.replace(wanted, class_weights=None), split, trained.class_names)
    if not source.count:
        raise UsageError(f"the data has no record for {split} of the classes {few(trained.class_names)}")
    found = stored.class_names
    there = set(found)
    in_order = dict.fromkeys(name for name in trained.class_names if name in there)
    if list(in_order) != [name for name in (wanted.classes or found) if name in in_order]:
        notes += ("the data has its classes in another order than the checkpoint; they were matched by name",)
    return Evaluated(source, split, divided, notes)


def _refuse_unknown(trained: Trained, chosen: Sequence[str] | None, found: Sequence[str]) -> None:
    """Refuse class names that the checkpoint does not know: no output of the network means them.

    Raises:
        UsageError: they were chosen.
        RestoreRefused: the data has them.
    """
    known = dict.fromkeys(trained.class_names)
    strange = [name for name in (found if chosen is None else chosen) if name not in known]
    if not strange:
        return
    if chosen is not None:
        raise UsageError(f"data.classes has {strange[0]}, which {trained.place} was not trained on")
    both = [name for name in found if name in known]
    leave_out = (
        f"\nto evaluate the others: {shlex.quote(f'data.classes={spelled(both)}')}" if 0 < len(both) <= LISTED else ""
    )
    raise RestoreRefused(
        f"{len(strange)} of the {len(found)} classes of the data are none that {trained.place} was trained on: "
        f"{few(strange)}\n  it was trained on {len(known)}: {few(trained.class_names)}{leave_out}"
    )


def _is_own_root(trained: DataConfig, wanted: ImageFolderConfig) -> bool:
    """Whether ``wanted`` is the folder that ``trained`` names."""
    return isinstance(trained, ImageFolderConfig) and os.path.realpath(trained.root) == os.path.realpath(wanted.root)


def _is_copy(trained: Trained, wanted: ImageFolderConfig) -> bool:
    """Whether the folder has the very images that the checkpoint was trained on, at another place, or is what they were
    prepared from.
    """
    there = wanted
    if isinstance(trained.data, ImageFolderConfig):
        there = dataclasses.replace(trained.data, root=wanted.root)
    listing = _listing(trained, wanted)
    if listing is None:
        return False
    try:
        return Source(ImageFolderSplit(there, "train", say=_unsaid), there, "train").listing == listing
    except UsageError:
        return False  # it is not even laid out like them


def _listing(trained: Trained, wanted: DataConfig) -> str | None:
    """The listing of the training records or, where their source is not that of ``wanted``, of those that
    ``prepare-data`` made them of; None where it is not known.
    """
    if isinstance(trained.data, type(wanted)):
        return trained.listing
    if not isinstance(trained.data, TFRecordConfig) or is_url(trained.data.root):
        return None
    from trainer.data.prepared import listing_of_originals  # imports TensorFlow, which is slow

    return listing_of_originals(Path(trained.data.root))


def _training_images(trained: DataConfig, wanted: ImageFolderConfig) -> tuple[str, ...]:
    """A note where another rule splits the folder than in training: then images validate that were trained on."""
    if not isinstance(trained, ImageFolderConfig):
        return ()
    return _changed(trained, wanted, SPLITTING)


def _changed(trained: DataConfig, wanted: DataConfig, names: Sequence[str]) -> tuple[str, ...]:
    changed = [name for name in names if getattr(trained, name, None) != getattr(wanted, name)]
    if not changed or type(trained) is not type(wanted):
        return ()
    return (
        f"data.{changed[0]} was {getattr(trained, changed[0])} in training, so the split has images that the network "
        "was trained on",
    )


def _also_trained_on(trained: DataConfig, test: ImageFolderSplit) -> tuple[str, ...]:
    """A note where images were trained on, as in a copy of the training data that has grown since. Only what still lies
    where it lay in training is found.
    """
    if not isinstance(trained, ImageFolderConfig) or not (is_url(trained.root) or os.path.isdir(trained.root)):
        return ()
    return _no_test(test, lambda: test.also_in(ImageFolderSplit(trained, "train", say=_unsaid)))


def _no_test(test: ImageFolderSplit | TableSplit, trained_on: Callable[[], npt.NDArray[np.int64]]) -> tuple[str, ...]:
    """A note about the records of ``test`` that were trained on."""
    try:
        both = trained_on()
    except UsageError:
        return ()  # the data of training is gone or has become something else
    if not len(both):
        return ()
    return (
        f"{len(both)} of {test.count} images have path and size of images that the network was trained on, the first "
        f"{test.place(int(both[0]))}: they are no test of it",
    )


def _unsaid(text: str) -> None:
    """The split is only compared: nothing is evaluated on it."""
