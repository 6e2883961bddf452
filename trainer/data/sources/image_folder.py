"""Images in folders named for their class: below ``train/`` and ``val/``, or one tree split by a hash of the path.

Everything is sorted by name, so the order of records does not depend on the file system. Names are compared in
Unicode's composed form (NFC): a copy on a system that stores them decomposed is the same data.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.sources.left_out import left_out
from trainer.errors import BadRecord, UsageError
from trainer.storage.unreadable import unusable_record

TRAIN_FOLDER = "train"
VALIDATION_FOLDERS = ("val", "validation")
NAMES_SHOWN = 5

Identity = tuple[int, int]  # device and inode: the same directory by whatever path


Image = tuple[str, int, int]  # path below the folder it was found in, label, size in bytes

Numbers = npt.NDArray[np.int64]


class ImageFolderSplit:
    """One split of a folder of images, as stored."""

    def __init__(self, config: ImageFolderConfig, split: Split) -> None:
        root = Path(config.root)
        if not root.is_dir():
            raise UsageError(f"data.root={root} {'is not a directory' if root.exists() else 'does not exist'}")
        ignored: list[str] = []
        folders = _split_folders(root, ignored if split == "train" else [])
        self._folder = root if folders is None else folders[split]
        classes = class_folders(self._folder, ignored, config.extensions)
        if folders is not None:
            _check_same_classes(folders, config.extensions)
        images: Iterable[Image] = _scan(
            classes, self._folder, ignored, config.on_bad_record == "skip", config.extensions
        )
        if folders is None:
            share = config.validation_share
            images = (image for image in images if (rank(image[0]) < share) == (split == "validation"))
        self._images = PackedImages(images)
        if folders is None and not len(self._images):
            raise UsageError(
                f"data.validation_share={config.validation_share} leaves no image of {root} for {split}; "
                f"change it, or put the images into {TRAIN_FOLDER}/ and {VALIDATION_FOLDERS[0]}/"
            )
        if folders is None and split == "train":
            _check_every_class(self._images.labels, classes, config.validation_share)
        self.class_names = tuple(classes)
        self.count = len(self._images)
        if ignored and (split == "train" or folders is not None):  # one tree is scanned for both splits
            print("\n".join(left_out(ignored, config.extensions, str(root))))

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        return [self._load(int(record)) for record in records], self._images.labels[records].astype(np.int64)

    def labels(self) -> Numbers:
        return self._images.labels.astype(np.int64)

    def place(self, record: int) -> str:
        return f"{self._folder / self._images.path(record)} (record {record})"

    def listing(self, records: Numbers) -> str:
        images, digest = self._images, hashlib.sha256()
        for record in records:
            line = f"{_composed(images.path(record))}\0{images.labels[record]}\0{images.sizes[record]}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        """Spread over the classes: the images of lowest rank."""
        ranks = np.array([rank(self._images.path(record)) for record in records])
        return np.sort(records[np.argsort(ranks, kind="stable")[:count]])

    def _load(self, record: int) -> bytes:
        path, size = self._folder / self._images.path(record), int(self._images.sizes[record])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unusable_record(self.place(record), error) from error
        if not data:
            raise BadRecord(f"{self.place(record)} is empty (0 bytes)\nreplace or remove it")
        if len(data) != size:
            raise BadRecord(
                f"{self.place(record)} has {len(data)} bytes, but had {size} when this process began; "
                "data must not change while it is in use"
            )
        return data


class PackedImages:
    """Paths, ``labels`` (int32 ``[n]``) and ``sizes`` (bytes, int64 ``[n]``) of images, of which there may be millions:
    20 bytes each, and the path.
    """

    def __init__(self, images: Iterable[Image]) -> None:
        paths, ends, labels, sizes = bytearray(), array("q", [0]), array("i"), array("q")
        for path, label, size in images:
            paths += os.fsencode(path)
            ends.append(len(paths))
            labels.append(label)
            sizes.append(size)
        self._paths, self._ends = paths, ends
        self.labels = np.array(labels, np.int32)
        self.sizes = np.array(sizes, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def path(self, number: int) -> str:
        return os.fsdecode(bytes(self._paths[self._ends[number] : self._ends[number + 1]]))


def rank(path: str) -> float:
    """A number in [0, 1) that only the path below the folder of its split decides; uniform over paths."""
    digest = hashlib.sha256(_composed(path).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: a float holds every value, and none rounds to 1


def _split_folders(root: Path, ignored: list[str]) -> dict[Split, Path] | None:
    """The folders of the two splits, or None when ``root`` holds the class folders of one tree, to be split here.

    A folder called ``train`` may be a class: then it holds images, not folders.
    """
    folders = [entry.name for entry in _entries(root) if os.path.isdir(entry.path)]
    training = [name for name in folders if name == TRAIN_FOLDER]
    validation = [name for name in folders if name in VALIDATION_FOLDERS]
    if len(validation) > 1 and training:
        raise UsageError(f"{root} has {' and '.join(validation)}, which mean the same; keep one of them")
    if training and validation:
        # ignored, but with a message: a test set, or classes beside the splits by mistake
        ignored += [str(root / entry.name) for entry in _entries(root) if entry.name not in training + validation]
        return {"train": root / TRAIN_FOLDER, "validation": root / validation[0]}
    for name in training + validation:
        if any(os.path.isdir(entry.path) for entry in _entries(root / name)):
            missing = " or ".join(f"{other}/" for other in (VALIDATION_FOLDERS if training else (TRAIN_FOLDER,)))
            raise UsageError(
                f"{root} has {name}/ but no {missing}; add it, or make its class folders data.root "
                f"to split them by data.validation_share: data.root={root / name}"
            )
    return None


def class_folders(folder: Path, ignored: list[str], extensions: Sequence[str]) -> dict[str, Path]:
    """Class name → its folder, sorted by name. Entries that are hidden or not images are added to ``ignored``.

    Raises:
        UsageError: there are fewer than two, two are the same, or an image lies outside of them.
    """
    found: dict[str, Path] = {}
    identities: dict[Identity, Path] = {}
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.name.startswith("."):
            ignored.append(entry.path)
            continue
        status = _status(path)
        if not stat.S_ISDIR(status.st_mode):
            if _is_image(entry.name, status, extensions):
                raise UsageError(f"{path} lies beside the class folders, so it has no class; move it into one")
            ignored.append(entry.path)
            continue
        name = _composed(entry.name)
        if not _is_text(name):
            raise UsageError(f"{str(path)!r} cannot name a class, because it is not UTF-8; rename the folder")
        if name in found:
            raise UsageError(f"{found[name]} and {path} are the same class name in two Unicode forms; keep one of them")
        same = identities.setdefault(_identity(status), path)
        if same != path:
            raise UsageError(f"{path} and {same} are the same folder under two class names; keep one of them")
        found[name] = path
    if len(found) < 2:
        there = f"only one class folder, {next(iter(found))}" if found else "no class folders"
        raise UsageError(
            f"{folder} has {there}; expected a folder for each of at least two classes, "
            f"{folder}/CLASS/IMAGE (or in data.root {TRAIN_FOLDER}/ and {VALIDATION_FOLDERS[0]}/ with class folders)"
        )
    return dict(sorted(found.items()))


def _check_same_classes(folders: dict[Split, Path], extensions: Sequence[str]) -> None:
    names = {split: set(class_folders(folder, [], extensions)) for split, folder in folders.items()}
    if names["train"] != names["validation"]:
        raise UsageError(
            f"{folders['train']} and {folders['validation']} must have the same class folders\n"
            f"  only in {folders['train'].name}: {_names(sorted(names['train'] - names['validation']))}\n"
            f"  only in {folders['validation'].name}: {_names(sorted(names['validation'] - names['train']))}"
        )


def _check_every_class(labels: npt.NDArray[np.int32], classes: dict[str, Path], share: float) -> None:
    """Refuse a class whose images are all for validation: a network cannot learn it."""
    counts = np.bincount(labels, minlength=len(classes))
    for count, path in zip(counts, classes.values(), strict=True):
        if not count:
            raise UsageError(
                f"data.validation_share={share} leaves no image of {path} for training, because all of its few "
                "images fall into validation; lower it, or add images"
            )


def _scan(
    classes: dict[str, Path], folder: Path, ignored: list[str], keep_bad: bool, extensions: Sequence[str]
) -> Iterator[Image]:
    """The images of every class in order; every class has at least one.

    With ``keep_bad`` an empty file and a broken link are images too: reading them reports the fault.
    """
    place = folder.resolve()
    prefix = os.path.join(folder, "")
    above = frozenset(_identity(_status(directory)) for directory in (place, *place.parents))
    for label, path in enumerate(classes.values()):
        empty = True
        for file, size in _walk(path, above, ignored, keep_bad, extensions):
            empty = False
            yield file.removeprefix(prefix), label, size
        if empty:
            there = [each for each in ignored if each.startswith(os.path.join(path, ""))]
            noted = "".join(f"\n{line}" for line in left_out(there, extensions, str(path))) if there else ""
            raise UsageError(
                f"{path} is a class folder without an image ({', '.join(extensions)}); fill or remove it{noted}"
            )


def _walk(
    folder: str | Path, above: frozenset[Identity], ignored: list[str], keep_bad: bool, extensions: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Path and size of every image below ``folder``; ``above`` are the directories on the way to it."""
    here = _identity(_status(folder))
    if here in above:
        raise UsageError(f"{folder} leads back to {os.path.realpath(folder)}, which contains it; remove the link")
    for entry in _entries(folder):
        if entry.name.startswith("."):
            ignored.append(entry.path)
            continue
        if keep_bad and _has_image_name(entry.name, extensions) and not os.path.exists(entry.path):
            yield entry.path, 0
            continue
        status = _status(entry.path)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(entry.path, above | {here}, ignored, keep_bad, extensions)
        elif not _is_image(entry.name, status, extensions):
            ignored.append(entry.path)
        elif status.st_size == 0 and not keep_bad:
            raise UsageError(f"{entry.path} is empty (0 bytes); replace or remove it")
        else:
            yield entry.path, status.st_size


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: (_composed(entry.name), entry.name))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error


def _status(path: str | Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        link = f", a symbolic link to {os.readlink(path)}," if os.path.islink(path) else ""
        raise UsageError(f"{path}{link} cannot be read: {error.strerror}; repair or remove it") from error


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_image(name: str, status: os.stat_result, extensions: Sequence[str]) -> bool:
    return stat.S_ISREG(status.st_mode) and _has_image_name(name, extensions)


def _has_image_name(name: str, extensions: Sequence[str]) -> bool:
    _, dot, ending = name.rpartition(".")
    return bool(dot) and ending.lower() in extensions


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: Python keeps other bytes as surrogates, which no file of ours can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none") + more
