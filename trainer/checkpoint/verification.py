"""Verification: whether a checkpoint is what was written, and which valid checkpoint is the newest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.directory import committed, is_there, manifest_of, put_away
from trainer.checkpoint.manifest import PREFIX, Manifest, ManifestError
from trainer.command_line import argument, command_line
from trainer.errors import NoValidCheckpoint
from trainer.runtime.importing import importing_tensorflow
from trainer.storage.durable import stored_digest
from trainer.storage.guarded import refuse_unless_file
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import Unreadable, readable

# full: the SHA-256 of every file. fast: sizes, and the SHA-256 of every file except the values of the tensors, which
# TensorFlow checks by its own CRC-32C when it restores them. off: the manifest, and that all files exist.
Depth = Literal["full", "fast", "off"]
SHOWN = 8


class Vanished(NoValidCheckpoint):
    """The retention of its run deleted a checkpoint while it was being read."""


@dataclasses.dataclass(frozen=True)
class Damage:
    """A checkpoint that is not what was written, and why."""

    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Found:
    """The newest valid checkpoint, and the newer ones that are damaged."""

    path: Path
    manifest: Manifest
    damaged: tuple[Damage, ...]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Distinguish a checkpoint that vanishes while the block reads it from a damaged one.

    Raises:
        Vanished: the directory existed before the block and does not after it, however the block ended.
    """
    there = is_there(path)
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
        raise
    finally:
        if there and not is_there(path):
            raise Vanished(f"{path} was deleted while it was being read: its run keeps newer ones") from failure


def verify(path: Path, depth: Depth) -> Manifest:
    """Check a checkpoint against its manifest. Files that the manifest does not name are ignored (``foreign``).

    Raises:
        NoValidCheckpoint: names every missing or changed file, and the damaged tensors.
        Unreadable: the system cannot read a file now, so its state is unknown.
        Vanished: the checkpoint was deleted meanwhile.
    """
    with reading(path), readable(path):
        try:
            manifest = manifest_of(path)
        except ManifestError as error:
            raise NoValidCheckpoint(str(error)) from error
        problems = _problems(path, manifest, depth)
        if problems:
            tensors = _damaged_tensors(path, manifest, problems)
            raise NoValidCheckpoint("\n  ".join([*problems[:SHOWN], *tensors, *foreign_note(path, manifest)]))
        return manifest


def foreign(path: Path, manifest: Manifest) -> list[str]:
    """Names in the directory that the manifest does not have, sorted.

    Editors, desktops and network filesystems leave such files. Nothing reads them, so they cannot change the
    checkpoint. They move with it, are deleted with it, and are not copied to a mirror.
    """
    return sorted(file.name for file in path.iterdir() if file.name not in (*manifest.files, manifests.FILE_NAME))


def foreign_note(path: Path, manifest: Manifest) -> list[str]:
    """A line about the files that the manifest does not name; none if there are none, or if they cannot be listed."""
    try:
        names = foreign(path, manifest)
    except OSError:
        return []
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [
        f"{path.name} also has {', '.join(names[:SHOWN])}{more}, which its manifest does not name and nothing reads"
    ]


def _problems(path: Path, manifest: Manifest, depth: Depth) -> list[str]:
    """What is wrong with each file: missing, not a regular file, of another size, changed. Missing files come first."""
    problems: list[str] = []
    whole: list[str] = []
    for name in manifest.files:
        file = path / name
        try:
            size = refuse_unless_file(file).st_size
        except FileNotFoundError:
            problems.insert(0, f"{file} is missing")
            continue
        except Unacceptable as error:
            problems.append(str(error))
            continue
        if depth == "off":
            continue
        if size != manifest.sizes[name]:
            problems.append(f"{file} is damaged: it has {size} bytes, the manifest says {manifest.sizes[name]}")
        elif depth == "full" or not _holds_values(name):
            whole.append(name)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        for name, found in zip(whole, pool.map(lambda name: stored_digest(path / name), whole), strict=True):
            if found != manifest.files[name]:
                wanted = manifest.files[name][:16]
                problems.append(f"{path / name} is damaged: its SHA-256 is {found[:16]}…, the manifest says {wanted}…")
    return problems


def _holds_values(name: str) -> bool:
    return name.startswith(f"{PREFIX}.data-")


def _damaged_tensors(path: Path, manifest: Manifest, problems: list[str]) -> list[str]:
    """The tensors whose bytes were changed, by TensorFlow's own checksum of each.

    They are checked only where the index is known to be right: TensorFlow does not check the offsets and sizes in it.
    """
    index = path / f"{PREFIX}.index"
    damaged = [name for name in manifest.files if _holds_values(name) and any(str(path / name) in p for p in problems)]
    if not damaged or not all(_is_regular(file) for file in (index, *(path / name for name in damaged))):
        return []  # TensorFlow would follow a link, and wait for a FIFO
    if stored_digest(index) != manifest.files[index.name]:
        return []
    with importing_tensorflow():
        from trainer.checkpoint.tensors import damaged_tensors  # imports TensorFlow, which is slow

    names = damaged_tensors(path)
    if not names:
        return ["every tensor in it still has its checksum"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"damaged tensor{'s' if len(names) > 1 else ''}: {', '.join(names[:SHOWN])}{more}"]


def _is_regular(path: Path) -> bool:
    try:
        refuse_unless_file(path)
    except (Unacceptable, OSError):
        return False
    return True


def newest_valid(parent: Path, depth: Depth, warn: Callable[[str], None]) -> Found:
    """The newest valid checkpoint. ``warn`` gets a line for each invalid one, and for foreign files in the valid one.

    A checkpoint that retention deletes meanwhile is not damaged: the search starts again for what replaced it.

    Raises:
        NoValidCheckpoint: there is none.
        Unreadable: the newest checkpoint that is not damaged cannot be read now. Its content is unknown, so no older
            one is taken in its place.
    """
    damaged: dict[Path, str] = {}
    while candidates := [path for path in committed(parent) if path not in damaged]:
        newest = candidates[-1]
        try:
            manifest = verify(newest, depth)
        except Vanished:
            continue
        except Unreadable as error:
            raise Unreadable(f"{error}{_older(candidates[:-1], depth)}") from error
        except NoValidCheckpoint as error:
            damaged[newest] = str(error)
            warn(f"skipping {newest.name}: {error}")
        else:
            for note in foreign_note(newest, manifest):
                warn(note)
            newer = [Damage(path, reason) for path, reason in damaged.items() if path.is_dir()]
            return Found(newest, manifest, tuple(newer))
    away = put_away(parent)
    if damaged:
        count = len(damaged)
        what = f"none of the {count} checkpoints" if count > 1 else "the only checkpoint"
        raise NoValidCheckpoint(f"{what} in {parent} is {'' if count > 1 else 'not '}valid; see the warnings above")
    if away:
        raise NoValidCheckpoint(
            f"{parent} holds no checkpoint that counts, only {len(away)} put away: {', '.join(map(str, away[:3]))} …\n"
            "resume from one of them with checkpoint=PATH, or start a new run in another run_dir"
        )
    raise NoValidCheckpoint(f"{parent} holds no checkpoint; start the run with train")


def _older(candidates: Sequence[Path], depth: Depth) -> str:
    """A line that names the newest valid checkpoint of ``candidates``, for a user who would rather resume from it."""
    for path in reversed(candidates):
        try:
            step = verify(path, depth).step
        except (NoValidCheckpoint, Unreadable):
            continue
        command = command_line("resume", argument("run_dir", path.parent.parent), f"checkpoint=step-{step}")
        return f"\nan older checkpoint is used only if you name it:\n  {command}"
    return ""
