"""Folders that are splits of a data set and not classes: by their names, and by what they hold."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from trainer.command_line import argument
from trainer.config.contracts import Split
from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.sources.folders import AnyFolder, entries_of
from trainer.data.sources.image_names import ImageNames, names_of
from trainer.data.sources.packed_images import Image
from trainer.errors import NoSuchSplit, UsageError, few

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
SUFFIX = r"(?:[ _.-]?(?:set|data|images))?"  # training_set, Test images
ROLES = {
    split: re.compile(f"(?:{'|'.join(names)}){SUFFIX}", re.IGNORECASE | re.ASCII) for split, names in NAMES.items()
}
# data.layout=exact: what a stored run trains on must not depend on names that were added later
EXACT: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "validation")}
USUAL: dict[Split, str] = {"train": "train/", "validation": "val/ or validation/", "test": "test/"}  # in messages
SHARED = 2  # names of folders in two "classes" that make them the real classes
COMPARED = 50  # folders with one name in them; a thousand classes have half a million pairs
DEEPEST = 8  # folders within each other that a message looks through; a link may lead in a circle


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders of the splits in ``root``; none when ``root`` has the class folders of one tree. ``others`` are the
    folders beside the splits, and ``flat`` those of them that have the name of a split, but no folders in them.
    """

    root: AnyFolder
    folders: Mapping[Split, AnyFolder]
    others: tuple[str, ...]
    flat: tuple[str, ...]

    @property
    def is_tree(self) -> bool:
        return not self.folders

    def divided(self, split: Split) -> bool:
        """Whether the images of ``split`` lie in one folder with those of another split: one tree, or a training set
        with a test set but nothing for validation beside it.
        """
        return self.is_tree or (split != "test" and "validation" not in self.folders)

    def folder(self, split: Split) -> AnyFolder:
        """The folder that has the images of ``split``, of a divided one together with others.

        Raises:
            UsageError: there is none.
        """
        if self.is_tree:
            return self.root
        if split == "test":
            if "test" not in self.folders:
                raise NoSuchSplit(f"{self.root} has {self._there()} but no test/ with class folders")
            return self.folders["test"]
        needed: list[Split] = [split]
        if {"train", "test"} <= self.folders.keys() and "validation" not in self.folders:
            needed = ["train"]  # a part of it validates
        elif split == "train":
            needed = ["train", "validation"]  # a training set alone may lack the other folder by mistake
        for name in needed:
            self._check_there(name)
        return self.folders[needed[0]]

    def _check_there(self, split: Split) -> None:
        """Raise ``UsageError`` when there is no folder for ``split``."""
        if split in self.folders:
            return
        flat = [name for name in self.flat if split_named(name) == split]
        if flat:
            raise UsageError(
                f"{self.root / flat[0]} has no class folders, so its images have no class; expected "
                f"{self.root / flat[0]}/CLASS/IMAGE"
            )
        instead = ""
        for folder in (folder for there, folder in self.folders.items() if there != "test"):
            share = f"to split them by data.validation_share: {_root_argument(folder)}"
            instead = f", or make its class folders data.root {share}"
        raise UsageError(f"{self.root} has {self._there()} but no {USUAL[split]}; add it{instead}")

    def sentence(self) -> str:
        """The splits that were found, for people."""
        if self.is_tree:
            return f"one tree of class folders in {self.root}; a part of it validates"
        found = ", ".join(f"{folder.name}/ for {split}" for split, folder in self.folders.items())
        part = "; a part of the training set validates" if self.divided("validation") else ""
        return f"splits in {self.root}: {found}{part}"

    def _there(self) -> str:
        return " and ".join(f"{folder.name}/" for folder in self.folders.values())


def layout_of(config: ImageFolderConfig, root: AnyFolder) -> Layout:
    """The splits in ``data.root``, which is ``root``. A folder with the name of a split may be a class: then it holds
    images, not folders.

    Raises:
        UsageError: two folders are the same split, or folders named for splits hold no class folders.
    """
    finding = names_of(config)
    names = folders_in(root, finding)
    named = by_split(names)
    inside = {split: [name for name in those if folders_in(root / name, finding)] for split, those in named.items()}
    if config.layout == "classes":
        found: dict[Split, list[str]] = {}
    elif config.layout == "exact":
        found = _exactly(inside, names)
    else:
        found = {split: those for split, those in inside.items() if those}
        if not found and len(named) > 1:
            raise UsageError(
                f"{root} has {' and '.join(itertools.chain(*named.values()))}, which are names of splits, but there "
                f"are no class folders in them; expected {root / next(iter(named.values()))[0]}/CLASS/IMAGE\n"
                "if they are the classes: data.layout=classes"
            )
    for those in found.values():
        if len(those) > 1:
            raise UsageError(
                f"{root} has {' and '.join(those)}, which mean the same; keep one of them\n"
                "if they are classes: data.layout=classes"
            )
    folders = {split: root / found[split][0] for split in SPLITS if split in found}
    taken = {folder.name for folder in folders.values()}
    others = tuple(name for name in names if name not in taken) if folders else ()
    with_folders = set(itertools.chain(*inside.values()))
    flat = tuple(name for name in others if split_named(name) is not None and name not in with_folders)
    return Layout(root, folders, others, flat)


def _exactly(inside: Mapping[Split, list[str]], names: Sequence[str]) -> dict[Split, list[str]]:
    """The splits as they were found before there was ``data.layout``, and a test set."""
    found = {split: [name for name in names if name in exact] for split, exact in EXACT.items()}
    if not all(found.values()):
        found = {split: [name for name in those if name in inside.get(split, ())] for split, those in found.items()}
    splits = {split: those for split, those in found.items() if those}
    test = inside.get("test", [])
    return {**splits, "test": test} if len(splits) == 2 and len(test) == 1 else splits


def split_named(name: str) -> Split | None:
    """The split that a folder of that name is, if it is one, in any case: ``Training``, ``test_set``."""
    return next((split for split, names in ROLES.items() if names.fullmatch(name)), None)


def by_split(names: Iterable[str]) -> dict[Split, list[str]]:
    """The names that are names of splits, by their split."""
    found: dict[Split, list[str]] = {}
    for name in names:
        split = split_named(name)
        if split is not None:
            found.setdefault(split, []).append(name)
    return found


def say_others(layout: Layout, say: Callable[[str], object]) -> None:
    """Say which folders beside the splits are not read: classes that lie there by mistake, or images without labels."""
    if not layout.others:
        return
    why = f"; {layout.flat[0]}/ has no class folders, so its images have no labels" if layout.flat else ""
    say(f"not read in {layout.root}: {few(layout.others)}, beside the splits{why}")


def refuse_folder_between(folder: AnyFolder, finding: ImageNames, *, is_root: bool) -> None:
    """Refuse a folder whose only folder has the class folders, as some archives leave it: ``archive/archive/…``."""
    deepest, inside = folder, folders_in(folder, finding)
    for _ in range(DEEPEST):
        if len(inside) != 1:
            break
        deepest = deepest / inside[0]
        inside = folders_in(deepest, finding)
    if deepest == folder or len(inside) < 2 or _has_files(deepest, finding):
        return
    what_to_do = f"name the folder that has them: {_root_argument(deepest)}" if is_root else f"move them into {folder}"
    raise UsageError(
        f"{folder} has only one folder, and what seems to be the class folders is in {deepest}: {few(inside)}\n"
        f"{what_to_do}"
    )


def refuse_same_inside(
    folder: AnyFolder, classes: Sequence[str], used: Collection[str] | None, images: Iterable[Image]
) -> None:
    """Refuse "classes" in ``folder`` that hold folders of the same names: those are the classes, or splits. Only the
    classes that are ``used`` count; None: all.
    """
    places: dict[str, set[tuple[str, ...]]] = {name: set() for name in classes}
    for path, label, _ in images:
        if used is None or classes[label] in used:
            places[classes[label]].add(tuple(path.split("/")[1:-1]))
    found = same_inside({name: _names_inside(those) for name, those in places.items()})
    if found is None:
        return
    (first, second), names = found
    splits = split_named(names[0]) is not None
    instead = f"{folder}/{names[0]}/{first}/" if splits else f"{folder}/train/{names[0]}/"
    raise UsageError(
        f"{folder / first} and {folder / second} hold folders of the same names: {few(names)}\n"
        f"if these are {'splits' if splits else 'the classes'}, a network would learn to tell {first} from {second}; "
        f"arrange them as {instead}\n"
        f"if {first} and {second} are the classes: data.layout=classes"
    )


def _names_inside(places: Collection[tuple[str, ...]]) -> set[str]:
    """The names of the folders in a class whose images lie in ``places``: of the first level, and of those below it as
    long as there is only one folder, as some archives leave it (``seg_train/seg_train/…``).
    """
    names: set[str] = set()
    for depth in range(DEEPEST):
        level = {place[depth] for place in places if len(place) > depth}
        names |= level
        if len(level) != 1 or any(len(place) == depth for place in places):
            break
    return names


def same_inside(folders: Mapping[str, Collection[str]]) -> tuple[tuple[str, str], list[str]] | None:
    """The first two of ``folders`` that hold folders of the same names, and these names; None when there are none.

    ``folders`` maps a name to the names of the folders in it. One shared name counts when it is the name of a split,
    else it takes ``SHARED`` of them. Case makes no difference.
    """
    of_name: dict[str, list[str]] = {}
    for folder, inside in folders.items():
        for name in {name.casefold() for name in inside}:
            of_name.setdefault(name, []).append(folder)
    pairs: dict[tuple[str, str], list[str]] = {}
    for name in sorted(of_name):
        for pair in itertools.combinations(of_name[name][:COMPARED], 2):
            pairs.setdefault(pair, []).append(name)
    for pair, names in pairs.items():
        splits = [name for name in names if split_named(name) is not None]
        if splits or len(names) >= SHARED:
            return pair, splits or names
    return None


def folders_in(folder: AnyFolder, finding: ImageNames) -> list[str]:
    """The names of the folders in ``folder``, sorted; those that are left alone are left out.

    Raises:
        UsageError: it cannot be read.
    """
    return sorted(each.name for each in entries_of(folder) if not finding.leaves(each.name) and each.is_dir())


def _has_files(folder: AnyFolder, finding: ImageNames) -> bool:
    return any(each.is_file() and not finding.leaves(each.name) for each in entries_of(folder))


def _root_argument(folder: AnyFolder) -> str:
    return shlex.quote(argument("data.root", str(folder)))
