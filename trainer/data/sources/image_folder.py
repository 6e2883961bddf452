"""Images in folders named for their class: below ``train/``, ``val/`` and ``test/``, or one tree split by hashes.

Everything is sorted by name, so the order of records does not depend on the file system. Names are compared in
Unicode's composed form (NFC): a copy on a system that stores them decomposed is the same data.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.sources.class_names import alike
from trainer.data.sources.folders import (
    AnyEntry,
    AnyFolder,
    RemoteEntry,
    RemoteFolder,
    begin_of,
    entries_of,
    folder_at,
    status_of,
)
from trainer.data.sources.image_files import read_file
from trainer.data.sources.image_groups import grouped
from trainer.data.sources.image_names import ImageNames, names_of
from trainer.data.sources.left_out import left_out
from trainer.data.sources.packed_images import Image, PackedImages, composed, rank
from trainer.data.sources.remote_images import remote_files
from trainer.data.sources.same_images import in_both
from trainer.data.sources.split_folders import (
    SPLITS,
    Layout,
    layout_of,
    refuse_folder_between,
    refuse_same_inside,
    say_others,
)
from trainer.data.sources.tree_split import part_of_tree
from trainer.errors import UsageError, few, one_line

TRAIN_FOLDER = "train"
VALIDATION_FOLDERS = ("val", "validation")
LEAST_CLASSES = 2
MOST_CHOSEN = 100  # names on a command line that a message prints; beyond that nobody copies it

Identity = tuple[int, int]  # device and inode: the same directory by whatever path

Numbers = npt.NDArray[np.int64]


class ImageFolderSplit:
    """One split of a folder of images, as stored. ``whole`` is the number of images in the folder that it is part of,
    or that it is.
    """

    def __init__(
        self, config: ImageFolderConfig, split: Split, *, undivided: bool = False, say: Callable[[str], object] = print
    ) -> None:
        """With ``undivided``, one tree is not split: all of its images are in this split. ``say`` gets notes and
        warnings.
        """
        root = folder_at(config.root, config.disk_cache_gigabytes, split)
        ignored: list[str] = []
        finding = names_of(config)
        layout = layout_of(config, root)
        self._folder = layout.folder(split)
        divided = layout.divided(split) and not undivided
        if config.folds is not None and split != "test" and not divided and not undivided:
            raise UsageError(
                f"data.folds={config.folds} divides one tree, and {root} has a folder for validation: "
                f"{layout.folder('validation').name}/\nput its images among the others, or set data.folds=null "
                "data.fold=null"
            )
        if not layout.is_tree and split == "train":
            ignored += _beside(layout)
            say_others(layout, say)
            if divided:
                share = f"data.validation_share={config.validation_share} of it validates"
                say(f"{self._folder} is split, {share}: {root} has no folder for validation")
        least = 2 if divided or split == "train" else 1  # a set to evaluate may have images of one class only
        if least == 2 or config.layout == "auto":
            refuse_folder_between(self._folder, finding, is_root=layout.is_tree)
        classes = class_folders(self._folder, ignored, finding, least)
        if {"train", "validation"} <= layout.folders.keys() and split != "test":
            _check_same_classes({name: layout.folders[name] for name in ("train", "validation")}, config)
        images = PackedImages(_scan(classes, self._folder, ignored, config))
        self.whole = len(images)
        names = tuple(classes)
        if config.layout == "auto":
            refuse_same_inside(self._folder, names, _used(config), images)
        if divided:
            images = part_of_tree(images, config, self._folder, names, split, say)
        elif config.group_pattern is not None:
            _check_groups_apart(config, layout, split, images)
        self._images = images
        self._remote = remote_files(self._folder, images.sizes, split)
        self.ahead = 0 if self._remote is None else self._remote.ahead
        self.class_names = names
        self.count = len(self._images)
        _say_alike(names, config, split, say)
        if split == "train" or not divided:  # a divided tree is scanned for both splits
            asked = [path for path in ignored if finding.is_ignored(os.path.basename(path))]
            others = [path for path in ignored if not finding.is_ignored(os.path.basename(path))]
            if asked:
                first = os.path.relpath(asked[0], str(root))
                say(f"left out by data.ignore in {root}: {len(asked)} (the first {first})")
            if others:
                say("\n".join(left_out(others, config.extensions, root)))

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        return [self._load(int(record)) for record in records], self._images.labels[records].astype(np.int64)

    def expect(self, records: Numbers) -> None:
        """``records`` are read soon; see ``Source.expect``."""
        assert self._remote is not None, "files of this machine are not announced"
        self._remote.expect(self._images.path(record) for record in records.tolist())

    def labels(self) -> Numbers:
        return self._images.labels.astype(np.int64)

    def place(self, record: int) -> str:
        return f"{one_line(str(self._folder / self._images.path(record)))} (record {record})"

    def listing(self, records: Numbers) -> str:
        images, digest = self._images, hashlib.sha256()
        for record in records:
            line = f"{composed(images.path(record))}\0{images.labels[record]}\0{images.sizes[record]}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        """Spread over the classes: the images of lowest rank."""
        ranks = np.array([rank(self._images.path(record)) for record in records])
        return np.sort(records[np.argsort(ranks, kind="stable")[:count]])

    def also_in(self, other: ImageFolderSplit) -> Numbers:
        """The records that ``other`` has, too, by the path below the folder of their split; see ``in_both``."""
        return in_both(self._images, self._load, other._images, other._load)

    def _load(self, record: int) -> bytes:
        below, size = self._images.path(record), int(self._images.sizes[record])
        path = Path(str(self._folder), below) if self._remote is None else self._remote.path(below)
        return read_file(path, lambda: self.place(record), "replace or remove it", size)


def class_folders(folder: AnyFolder, ignored: list[str], finding: ImageNames, least: int = 2) -> dict[str, AnyFolder]:
    """Class name → its folder, sorted by name. Entries that are hidden or not images are added to ``ignored``.

    Raises:
        UsageError: there are fewer than ``least``, two are the same, or an image lies outside of them.
    """
    found: dict[str, AnyFolder] = {}
    identities: dict[Identity, AnyFolder] = {}
    for entry in _entries(folder):
        path = folder / entry.name
        if finding.leaves(entry.name):
            ignored.append(entry.path)
            continue
        status = _status_of(entry)
        if not stat.S_ISDIR(status.st_mode):
            if finding.is_image(entry.name, status, partial(_begin_of, entry)):
                raise UsageError(f"{path} lies beside the class folders, so it has no class; move it into one")
            ignored.append(entry.path)
            continue
        name = composed(entry.name)
        fault = _fault_of_name(name)
        if fault is not None:
            raise UsageError(f"{one_line(str(path))} cannot name a class, because {fault}; rename the folder")
        if name in found:
            raise UsageError(f"{found[name]} and {path} are the same class name in two Unicode forms; keep one of them")
        same = identities.setdefault(_identity(status), path)
        if same != path:
            raise UsageError(f"{path} and {same} are the same folder under two class names; keep one of them")
        found[name] = path
    if len(found) < least:
        there = f"only one class folder, {next(iter(found))}" if found else "no class folders"
        raise UsageError(
            f"{folder} has {there}; expected a folder for each of at least two classes, "
            f"{folder}/CLASS/IMAGE (or in data.root {TRAIN_FOLDER}/ and {VALIDATION_FOLDERS[0]}/ with class folders)"
        )
    return dict(sorted(found.items()))


def _say_alike(names: Sequence[str], config: ImageFolderConfig, split: Split, say: Callable[[str], object]) -> None:
    """Training warns of classes that two sources may have spelled differently."""
    used = _used(config)
    for warning in alike([name for name in names if used is None or name in used]) if split == "train" else ():
        say(warning)


def _used(config: ImageFolderConfig) -> frozenset[str] | None:
    """The chosen classes, None for all: what else lies beside them is no obstacle."""
    return None if config.classes is None else frozenset(config.classes)


def _check_same_classes(folders: dict[Split, AnyFolder], config: ImageFolderConfig) -> None:
    names = {split: set(class_folders(folder, [], names_of(config))) for split, folder in folders.items()}
    used = _used(config)
    if used is not None:
        names = {split: there & used for split, there in names.items()}
    if names["train"] != names["validation"]:
        raise UsageError(
            f"{folders['train']} and {folders['validation']} must have the same class folders\n"
            f"  only in {folders['train'].name}: {few(sorted(names['train'] - names['validation']))}\n"
            f"  only in {folders['validation'].name}: {few(sorted(names['validation'] - names['train']))}\n"
            f"add what is missing{_or_choose('the classes of both', names['train'] & names['validation'])}"
        )


def _check_groups_apart(config: ImageFolderConfig, layout: Layout, split: Split, images: PackedImages) -> None:
    """Refuse a group in ``split`` that an earlier split has too: the folders decide here, and they divide it."""
    earlier = SPLITS[: SPLITS.index(split)]
    here = set(grouped(config, layout.folder(split), images).names) if earlier else set()
    for other in (other for other in earlier if other in layout.folders):
        folder = layout.folders[other]
        there = PackedImages(_scan(class_folders(folder, [], names_of(config), 1), folder, [], config))
        both = sorted(here & set(grouped(config, folder, there).names))
        if both:
            raise UsageError(
                f"{len(both)} groups of data.group_pattern={config.group_pattern} have images in {folder} and in "
                f"{layout.folder(split)}, so {split} is no test of what is learned in {other}: {few(both)}\n"
                "move the images of each into one of them, or set data.group_pattern=null"
            )


def _beside(layout: Layout) -> list[str]:
    """The entries beside the folders of the splits, except other folders."""
    folders = {*layout.others, *(folder.name for folder in layout.folders.values())}
    return [entry.path for entry in _entries(layout.root) if entry.name not in folders]


def _scan(
    classes: dict[str, AnyFolder], folder: AnyFolder, ignored: list[str], config: ImageFolderConfig
) -> Iterator[Image]:
    """The images of every class in order; every class that is used has at least one.

    With ``keep_bad`` an empty file and a broken link are images too: reading them reports the fault.
    """
    prefix, above = os.path.join(str(folder), ""), _above(folder)
    used, finding, keep_bad = _used(config), names_of(config), config.on_bad_record == "skip"
    if isinstance(folder, RemoteFolder):
        folder.tree.list_below([f"{folder.below}/{each.name}".lstrip("/") for each in classes.values()], finding.leaves)
    empty: dict[str, AnyFolder] = {}
    for label, (name, path) in enumerate(classes.items()):
        has_images = False
        for file, size in _walk(path, above, ignored, keep_bad, finding):
            has_images = True
            yield file.removeprefix(prefix), label, size
        if not has_images and (used is None or name in used):
            empty[name] = path
    if empty:
        others = [name for name in classes if name not in empty]
        first, *further = empty.values()
        more = [path.name for path in further]
        also = f", and so {'is' if len(more) == 1 else 'are'} {few(more)}" if more else ""
        there = [each for each in ignored if each.startswith(os.path.join(str(first), ""))]
        noted = "".join(f"\n{line}" for line in left_out(there, config.extensions, first)) if there else ""
        raise UsageError(
            f"{first} is a class folder without an image ({', '.join(config.extensions)}){also}; fill or remove it"
            f"{noted}{_or_choose('the others', others, before=chr(10)) or _or_ignore(config, [first, *further])}"
        )


def images_below(folder: Path, ignored: list[str], finding: ImageNames) -> Iterator[str]:
    """The path of every image below ``folder``, whatever its folders mean, sorted by name; also of empty files and of
    links that lead nowhere. Entries that are hidden or not images are added to ``ignored``.

    Raises:
        UsageError: a folder cannot be read, or a link leads back to one that contains it.
    """
    above = _identities(folder.resolve().parents)
    return (path for path, _ in _walk(folder, above, ignored, True, finding))


def _walk(
    folder: str | AnyFolder, above: frozenset[Identity], ignored: list[str], keep_bad: bool, finding: ImageNames
) -> Iterator[tuple[str, int]]:
    """Path and size of every image below ``folder``; ``above`` are the directories on the way to it."""
    here = _identity(status_of(folder))
    if here in above and not isinstance(folder, RemoteFolder):
        raise UsageError(f"{folder} leads back to {os.path.realpath(folder)}, which contains it; remove the link")
    entries = _entries(folder)
    if isinstance(folder, RemoteFolder):
        folder.look_into(each.name for each in entries if finding.by_content(each.name) and each.is_file())
    for entry in entries:
        if finding.leaves(entry.name):
            ignored.append(entry.path)
            continue
        if keep_bad and finding.has_ending(entry.name) and _leads_nowhere(entry):
            yield entry.path, 0
            continue
        status = _status_of(entry)
        if stat.S_ISDIR(status.st_mode):
            inside = entry.place if isinstance(entry, RemoteEntry) else entry.path
            yield from _walk(inside, above | {here}, ignored, keep_bad, finding)
        elif not finding.is_image(entry.name, status, partial(_begin_of, entry)):
            ignored.append(entry.path)
        elif status.st_size == 0 and not keep_bad:
            raise UsageError(f"{entry.path} is empty (0 bytes); replace or remove it")
        else:
            yield entry.path, status.st_size


def _entries(folder: str | AnyFolder) -> list[AnyEntry]:
    return sorted(entries_of(folder), key=lambda entry: (composed(entry.name), entry.name))


def _status_of(entry: AnyEntry) -> os.stat_result:
    return status_of(entry if isinstance(entry, RemoteEntry) else entry.path)


def _begin_of(entry: AnyEntry) -> bytes:
    return begin_of(entry if isinstance(entry, RemoteEntry) else entry.path)


def _leads_nowhere(entry: AnyEntry) -> bool:
    return not isinstance(entry, RemoteEntry) and not os.path.exists(entry.path)


def _above(folder: AnyFolder) -> frozenset[Identity]:
    """The directories on the way to what is in ``folder``; a bucket has no links that could lead back to them."""
    if isinstance(folder, RemoteFolder):
        return frozenset()
    place = folder.resolve()
    return _identities((place, *place.parents))


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _identities(directories: Iterable[Path]) -> frozenset[Identity]:
    return frozenset(_identity(status_of(directory)) for directory in directories)


def _or_choose(which: str, classes: Iterable[str], before: str = ", ") -> str:
    """How to use only these classes, as it is typed into a shell; nothing when they are too few or too many."""
    chosen = sorted(classes)
    if not LEAST_CLASSES <= len(chosen) <= MOST_CHOSEN:
        return ""
    return f"{before}or choose {which}: {_key('data.classes', chosen)}"


def _key(key: str, names: Iterable[str]) -> str:
    """A key with a list of names, as it is typed into a shell."""
    shown = ",".join(f'"{name}"' if set(name) & set("'\"\\, []@*?") else name for name in names)
    return shlex.quote(f"{key}=[{shown}]")


def _or_ignore(config: ImageFolderConfig, folders: Sequence[AnyFolder]) -> str:
    """How to leave these folders out, as it is typed into a shell; nothing when there are too many."""
    if len(folders) > MOST_CHOSEN:
        return ""
    names = [*config.ignore, *(glob.escape(folder.name) for folder in folders)]
    return f"\nor leave out {few([folder.name for folder in folders])}: {_key('data.ignore', names)}"


def _fault_of_name(name: str) -> str | None:
    """Why a name cannot be that of a class. No file of ours holds the surrogates by which Python keeps other bytes, and
    a line end would break the lists and tables that name classes.
    """
    categories = {unicodedata.category(character) for character in name}
    return "it is not UTF-8" if "Cs" in categories else "it has control characters" if "Cc" in categories else None
