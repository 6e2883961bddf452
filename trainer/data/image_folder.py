"""Images in folders named for their class: below ``train/`` and ``val/``, or one tree split by a hash of the path.

Everything is sorted by name, so the order of records does not depend on the file system. Names are compared in
Unicode's composed form (NFC): a copy on a system that stores them decomposed is the same data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.schema import ImageFolderConfig
from trainer.data.split import Split, used_examples
from trainer.errors import UsageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
TRAIN_FOLDER = "train"
VALIDATION_FOLDERS = ("val", "validation")
NAMES_SHOWN = 5

Identity = tuple[int, int]  # device and inode: the same directory by whatever path


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """One image file: its path below the folder it was found in, its label, and its size in bytes."""

    path: str
    label: int
    size: int

    @property
    def rank(self) -> float:
        """A number in [0, 1) that only the path decides; uniform over paths."""
        digest = hashlib.sha256(_composed(self.path).encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: a float holds every value, and none rounds to 1


class ImageFolderSource:
    """One split of a folder of images: ``count`` records, ``class_names`` in label order, ``read`` by number."""

    def __init__(self, config: ImageFolderConfig, split: Split) -> None:
        root = Path(config.root)
        if not root.is_dir():
            raise UsageError(f"data.root={root} {'is not a directory' if root.exists() else 'does not exist'}")
        ignored: list[str] = []
        folders = _split_folders(root, ignored if split == "train" else [])
        self._folder = root if folders is None else folders[split]
        classes = class_folders(self._folder, ignored)
        if folders is not None:
            _check_same_classes(folders)
        images = list(_scan(classes, self._folder, ignored))
        if folders is None:
            images = [image for image in images if (image.rank < config.validation_share) == (split == "validation")]
            if not images:
                raise UsageError(
                    f"data.validation_share={config.validation_share} leaves no image of {root} for {split}; "
                    f"change it, or put the images into {TRAIN_FOLDER}/ and {VALIDATION_FOLDERS[0]}/"
                )
            if split == "train":
                _check_every_class(images, classes, config.validation_share)
        self.class_names = tuple(classes)
        self.count = used_examples(config, split, len(images), f"the images in {root}")
        self._images = _subset(images, self.count)
        self._labels = np.array([image.label for image in self._images], np.int64)
        self.listing: str | None = _digest(self._images)
        if ignored and (split == "train" or folders is not None):  # one tree is scanned for both splits
            print(f"ignored in {root}: {_entries_text(ignored)}")

    def read(self, records: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """Encoded images and labels (int64 ``[n]``) of the given record numbers.

        Raises:
            UsageError: a file is gone, cannot be read, or has another size than when the run began.
        """
        return [self._load(int(record)) for record in records], self._labels[records]

    def place(self, record: int) -> str:
        """The file, for messages."""
        return f"{self._folder / self._images[record].path} (record {record})"

    def _load(self, record: int) -> bytes:
        image = self._images[record]
        path = self._folder / image.path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.place(record)} cannot be read: {error.strerror}") from error
        if len(data) != image.size:
            raise UsageError(
                f"{self.place(record)} has {len(data)} bytes, but had {image.size} when this process began; "
                "data must not change while it is in use"
            )
        return data


def _split_folders(root: Path, ignored: list[str]) -> dict[Split, Path] | None:
    """The folders of the two splits, or None when ``root`` holds the class folders of a tree that is to be split.

    A folder called ``train`` may be a class: then it holds images, not folders.
    """
    folders = [entry.name for entry in _entries(root) if os.path.isdir(entry.path)]
    training = [name for name in folders if name == TRAIN_FOLDER]
    validation = [name for name in folders if name in VALIDATION_FOLDERS]
    if len(validation) > 1 and training:
        raise UsageError(f"{root} has {' and '.join(validation)}, which mean the same; keep one of them")
    if training and validation:
        # left alone, but not without a word: a test set, or classes beside the splits by mistake
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


def class_folders(folder: Path, ignored: list[str]) -> dict[str, Path]:
    """Class name → its folder, sorted by name. What is hidden or not an image is added to ``ignored``.

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
            if _is_image(entry.name, status):
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
            f"{folder} has {there}; expected is a folder for each of at least two classes, "
            f"{folder}/CLASS/IMAGE (or in data.root {TRAIN_FOLDER}/ and {VALIDATION_FOLDERS[0]}/ with class folders)"
        )
    return dict(sorted(found.items()))


def _check_same_classes(folders: dict[Split, Path]) -> None:
    names = {split: set(class_folders(folder, [])) for split, folder in folders.items()}
    if names["train"] != names["validation"]:
        raise UsageError(
            f"{folders['train']} and {folders['validation']} must have the same class folders\n"
            f"  only in {folders['train'].name}: {_names(sorted(names['train'] - names['validation']))}\n"
            f"  only in {folders['validation'].name}: {_names(sorted(names['validation'] - names['train']))}"
        )


def _check_every_class(images: Sequence[Image], classes: dict[str, Path], share: float) -> None:
    """A network cannot learn a class of which every image validates."""
    trained = {image.label for image in images}
    for label, path in enumerate(classes.values()):
        if label not in trained:
            raise UsageError(
                f"data.validation_share={share} leaves no image of {path} for training, because all of its few "
                "images fall into validation; lower it, or add images"
            )


def _scan(classes: dict[str, Path], folder: Path, ignored: list[str]) -> Iterator[Image]:
    """The images of every class in order; every class has at least one."""
    place = folder.resolve()
    prefix = os.path.join(folder, "")
    above = frozenset(_identity(_status(directory)) for directory in (place, *place.parents))
    for label, path in enumerate(classes.values()):
        empty = True
        for file, size in _walk(path, above, ignored):
            empty = False
            yield Image(file.removeprefix(prefix), label, size)
        if empty:
            raise UsageError(f"{path} is a class folder without an image ({', '.join(EXTENSIONS)}); fill or remove it")


def _walk(folder: str | Path, above: frozenset[Identity], ignored: list[str]) -> Iterator[tuple[str, int]]:
    """Path and size of every image below ``folder``; ``above`` are the directories on the way to it."""
    here = _identity(_status(folder))
    if here in above:
        raise UsageError(f"{folder} leads back to {os.path.realpath(folder)}, which contains it; remove the link")
    for entry in _entries(folder):
        if entry.name.startswith("."):
            ignored.append(entry.path)
            continue
        status = _status(entry.path)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(entry.path, above | {here}, ignored)
        elif not _is_image(entry.name, status):
            ignored.append(entry.path)
        elif status.st_size == 0:
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


def _is_image(name: str, status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and name.lower().endswith(EXTENSIONS)


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: Python keeps other bytes as surrogates, which no file of ours can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _subset(images: list[Image], count: int) -> list[Image]:
    """``count`` images spread over the classes: those of lowest rank, in their order."""
    if count == len(images):
        return images
    chosen = sorted(range(len(images)), key=lambda index: (images[index].rank, index))[:count]
    return [images[index] for index in sorted(chosen)]


def _digest(images: Sequence[Image]) -> str:
    digest = hashlib.sha256()
    for image in images:
        line = f"{_composed(image.path)}\0{image.label}\0{image.size}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none") + more


def _entries_text(ignored: Sequence[str]) -> str:
    first = ignored[0].encode("utf-8", "replace").decode()
    if len(ignored) == 1:
        return f"{first}, which is hidden or not an image"
    return f"{len(ignored)} entries that are hidden or not images, the first {first}"
