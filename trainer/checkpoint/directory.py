"""Checkpoint directories: committed whole or absent, found, set aside.

The crash argument. A checkpoint is written into a directory whose name no reader accepts, on the filesystem where it
will stay. Every file is synced, then that directory, so its content is on disk before anything points to it. One
``rename`` gives it its final name, and syncing the parent makes the name durable. A crash before the rename leaves a
directory that is ignored and removed by the next writer; a crash after it leaves a complete checkpoint, whose name
may at worst be lost with the power: the checkpoint before is still there, because retention only runs after the sync
of the parent. There is no pointer to "the latest": the newest directory whose files have the digests of its manifest
is the latest.

Two processes must not write here at once; the ``Fence`` of the run directory sees to it where its lock does not
reach (``trainer.storage.lease`` has the argument).

Nothing in this depends on who calls it. An asynchronous save runs the same calls in the same order in one background
thread, one save at a time, from tensors that nobody changes any more; what the loop does meanwhile touches no file of
``checkpoints``. "Committed" is said, and older checkpoints are deleted, only after ``commit`` has returned. What the
checkpoint refers to outside of its directory (metrics.jsonl up to its step) is synced before ``commit`` is called.

A checkpoint leaves its name by ``move`` or ``remove``, each a ``rename`` where the filesystem has one for directories.
Where it answers EXDEV (a directory of an image's lower layer, a project quota, a mount in between), ``move`` makes a
copy by the protocol above, under a name that does not count until it is whole and synced, and then removes what was
copied; and ``remove`` puts a file beside the directory whose name takes the directory's name from it: from the moment
that file is there the directory does not count, and the next writer deletes it with whatever is left in it. So a crash
leaves the checkpoint under its name, or whole at its new place, or both; the new place never counts.

An error of the disk is a crash that is survived: the unfinished directory is removed, if the disk lets us, and the
error is raised. After a failed sync of the parent the new checkpoint may stay visible; it is complete, but nobody
was told that it is durable.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, ManifestError
from trainer.errors import warn
from trainer.storage.durable import copy_tree, digest, make_directory, sync
from trainer.storage.guarded import refuse_unless_directory
from trainer.storage.holding import named
from trainer.storage.lease import Fence
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import FOUND_OTHERWISE, Unreadable, is_directory, readable

NAME = re.compile(r"step-(\d{8,})")
UNFINISHED = ".writing-"
NAME_UNFINISHED = re.compile(rf"{re.escape(UNFINISHED)}{NAME.pattern}(?:\.[0-9a-f]+)?")
RETIRED = ".deleting-"
MARK = ".mark"
PUT_AWAY = re.compile(rf"(?!{re.escape(UNFINISHED)}|{re.escape(RETIRED)}).*", re.DOTALL)
SUPERSEDED = "superseded"
QUARANTINE = "quarantine"
REASON = ".reason.txt"


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def commit(
    parent: Path,
    step: int,
    fill: Callable[[Path], None],
    describe: Callable[[dict[str, str], dict[str, int]], Manifest],
    fence: Fence,
) -> Path:
    """Make the checkpoint of ``step`` under ``parent`` and return its directory.

    ``fill`` writes the files into the directory it is given; ``describe`` turns their digests and sizes into the
    manifest.

    Raises:
        RunDirectoryInUse: another process has taken over ``parent``; nothing there was changed.
        RunDirectoryLost: ``parent`` or the run directory is no longer where its name says; nothing was committed.
        OSError: the disk is full, broken, read-only …; there is no checkpoint of ``step``, or one that is complete.
    """
    final = parent / name_of(step)
    assert not final.exists() or _is_doomed(final), "a resume sets later checkpoints aside"
    fence.refuse_if_lost()
    parent.mkdir(exist_ok=True)  # but not the run directory: one that was deleted must not come back half empty
    sync(parent.parent)  # or the name of `checkpoints` itself may be lost, with all that is in it
    unfinished = parent / f"{UNFINISHED}{name_of(step)}{fence.mark}"
    if unfinished.exists():  # an earlier save failed, and so did its removal
        shutil.rmtree(unfinished)
    if _is_doomed(final):  # what was deleted there could not be so far
        fence.look_now()
        _delete_marked(final)
    try:
        unfinished.mkdir()
        fill(unfinished)
        written = sorted(unfinished.iterdir())
        digests = {path.name: digest(path) for path in written}
        sizes = {path.name: path.stat().st_size for path in written}
        manifest = unfinished / manifests.FILE_NAME
        manifests.write(describe(digests, sizes), manifest)
        for path in [*written, manifest]:
            sync(path)
        sync(unfinished)
        fence.look_now()
        fence.refuse_if_lost()
        unfinished.rename(final)
        sync(parent)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # the disk that failed may refuse this as well
        if isinstance(error, OSError):  # perhaps of a writer that has taken over, and removed what was unfinished
            with contextlib.suppress(OSError):
                fence.look_now()
        if isinstance(error, OSError) and error.filename is None:  # a write knows its file by descriptor only
            error.filename = str(unfinished)
        raise
    return final


def remove_leftovers(parent: Path) -> None:
    """Remove what a dead writer left unfinished. Only the holder of the run directory may call this.

    What is in use or another user's cannot be deleted, as foreign files in it may be. It stays, under a name that
    nobody renames to that of a checkpoint.
    """
    for place in (parent, parent / SUPERSEDED, parent / QUARANTINE):
        try:
            there = sorted(place.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            _warn(f"{place} cannot be listed: {error.strerror}; what was left there unfinished stays")
            continue
        for path in there:
            if path.name.startswith((UNFINISHED, RETIRED)):
                _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif (doomed := _doomed_by(path)) is not None:
            _delete_marked(doomed)
        else:
            path.unlink()
    except OSError as error:
        _warn(f"{path} cannot be deleted: {error.filename}: {error.strerror}; it is no checkpoint any more")
        if path.name.startswith(UNFINISHED):
            with contextlib.suppress(OSError):  # it does not count under this name either
                path.rename(free(path.parent, f"{RETIRED}{path.name.removeprefix(UNFINISHED)}"))


def move(path: Path, target: Path) -> None:
    """Give a directory another name, durably, on any filesystem. ``target`` is none that counts, and is free.

    Raises:
        OSError: it cannot be moved; it is still at ``path``, whole, and there may be a copy at ``target``.
    """
    try:
        path.rename(target)
        sync(target.parent)
        sync(path.parent)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    unfinished = target.parent / f"{UNFINISHED}{target.name}"
    if unfinished.exists():  # of an attempt that failed, as did its removal
        shutil.rmtree(unfinished)
    try:
        copy_tree(path, unfinished)
        unfinished.rename(target)
        sync(target.parent)
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    try:
        remove(path)
    except OSError as error:
        if is_there(path):
            raise
        _warn(f"{path} cannot be deleted: {error.filename}: {error.strerror}; its copy {target} has taken its place")


def remove(path: Path) -> None:
    """Delete a checkpoint so that a crash leaves nothing half under its name.

    Raises:
        OSError: it cannot be deleted; it may not count any more, and the next writer tries again.
    """
    doomed = free(path.parent, f"{RETIRED}{path.name}")
    try:
        path.rename(doomed)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _mark_of(path).touch()
        sync(path.parent)
        _delete_marked(path)
        return
    sync(path.parent)  # or a power failure may undo the new name and keep the deletions
    shutil.rmtree(doomed)


def finish_removal(path: Path) -> None:
    """Delete the rest of a directory that a dead writer had begun to remove, if it had.

    Raises:
        OSError: it cannot be deleted, and still does not count.
    """
    if _is_doomed(path):
        _delete_marked(path)


def _delete_marked(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        sync(path.parent)  # before the mark goes: without it, what is left would count
    _mark_of(path).unlink()


def _mark_of(path: Path) -> Path:
    """The file that takes the name of a directory from it, beside it; no retired directory has a name like this."""
    return path.parent / f"{RETIRED}{path.name}{MARK}"


def _doomed_by(mark: Path) -> Path | None:
    """What a file marks as being deleted; None where it is no mark of a checkpoint."""
    path = mark.with_name(mark.name.removeprefix(RETIRED).removesuffix(MARK))
    return path if _mark_of(path) == mark and NAME.fullmatch(path.name) and _is_doomed(path) else None


def _is_doomed(path: Path) -> bool:
    """Whether a file beside the directory says that it is being deleted.

    Raises:
        OSError: the system cannot tell.
    """
    try:
        return stat.S_ISREG(_mark_of(path).lstat().st_mode)
    except OSError as error:
        if error.errno in FOUND_OTHERWISE:
            return False
        raise


def is_there(path: Path) -> bool:
    """Whether a checkpoint is there, and is not being deleted. One that cannot be reached is not one that was
    deleted.
    """
    try:
        return is_directory(path) and not _is_doomed(path)
    except (OSError, Unreadable):
        return True


def _warn(text: str) -> None:
    warn(named(text))


def committed(parent: Path) -> list[Path]:
    """Every directory that carries a checkpoint's name, oldest first; what is in it has not been looked at.

    Raises:
        Unreadable: ``parent`` cannot be listed now.
    """
    return sorted(_directories(parent, NAME), key=step_of)


def _directories(place: Path, name: re.Pattern[str]) -> list[Path]:
    """The directories in ``place`` whose name is a ``name``; none where it does not exist.

    Raises:
        Unreadable: the system cannot tell, so that none would mean nothing.
    """
    with readable(place):
        if not is_directory(place) or _is_doomed(place):
            return []
        there = [path for path in place.iterdir() if name.fullmatch(path.name)]
        return [path for path in there if is_directory(path) and not _is_doomed(path)]


def is_name(name: str) -> bool:
    """Whether a directory of this name is a checkpoint, or would have become one."""
    return NAME.fullmatch(name) is not None or NAME_UNFINISHED.fullmatch(name) is not None


def step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def manifest_of(path: Path) -> Manifest:
    """The manifest of a checkpoint directory, which must be that of the step in the directory's name.

    Raises:
        ManifestError: it cannot be understood, is of another step, or ``path`` leads to another place.
        Unreadable: the system cannot read it now.
    """
    try:
        with readable(path):
            refuse_unless_directory(path)
    except Unacceptable as error:
        raise ManifestError(str(error)) from error
    manifest = manifests.read(path / manifests.FILE_NAME)
    if NAME.fullmatch(path.name) and step_of(path) != manifest.step:
        raise ManifestError(f"{path} holds step {manifest.step}: it was renamed, or its manifest is another's")
    return manifest


def set_aside(paths: Sequence[Path]) -> None:
    """Move checkpoints that a resume makes obsolete to ``superseded``. Nothing is deleted."""
    for path in paths:
        place = path.parent / SUPERSEDED
        make_directory(place)
        move(path, free(place, path.name))


def quarantine(path: Path, reason: str) -> Path:
    """Move a damaged checkpoint to ``quarantine`` with the reason beside it; returns its new place.

    The reason is on disk before the move, so a crash between them leaves a reason that the next attempt overwrites.
    """
    place = path.parent / QUARANTINE
    make_directory(place)
    target = free(place, path.name)
    explanation = place / f"{target.name}{REASON}"
    explanation.write_text(f"{reason}\n", encoding="utf-8")
    sync(explanation)
    move(path, target)
    return target


def put_away(parent: Path) -> list[Path]:
    """The checkpoints in quarantine and those set aside: a run was here, even if it has no other checkpoint."""
    places = [parent / QUARANTINE, parent / SUPERSEDED]
    return sorted(path for place in places for path in _directories(place, PUT_AWAY))


def free(place: Path, name: str) -> Path:
    """``name`` in ``place``, with a number where that is taken."""
    return next(
        candidate
        for number in range(10**6)
        if not (candidate := place / (name if number == 0 else f"{name}.{number}")).exists()
    )
