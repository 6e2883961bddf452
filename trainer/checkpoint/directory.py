"""Checkpoint directories: committed as a whole or absent, found, set aside.

The crash argument. A checkpoint is written into a directory whose name no reader accepts, on the filesystem where it
will stay. Every file is synced, then that directory, so its content is on disk before anything points to it. One
``rename`` gives it its final name, and a sync of the parent makes the name durable. A crash before the rename leaves a
directory that readers ignore and the next writer removes. A crash after it leaves a complete checkpoint. At worst a
power failure loses its name: the checkpoint before is still there, because retention runs only after the sync of the
parent. There is no pointer to "the latest": that is the newest directory whose files have the digests of its manifest.

Two processes must not write here at once. The ``Fence`` of the run directory prevents it where the lock does not
reach (``trainer.storage.lease`` has the argument).

None of this depends on the caller. An asynchronous save runs the same calls in the same order in one background
thread, one save at a time, from tensors that nobody changes any more. Meanwhile the loop touches no file of
``checkpoints``. The run reports "committed" and deletes older checkpoints only after ``commit`` has returned. What the
checkpoint refers to outside its directory (metrics.jsonl up to its step) is synced before ``commit`` is called.

A checkpoint loses its name by ``move`` or ``remove``. Both are a ``rename`` where the filesystem has one for
directories. Where it answers EXDEV (a directory of an image's lower layer, a project quota, a mount in between),
``move`` makes a copy by the protocol above, under a name that does not count until the copy is whole and synced. Then
it removes the original. In this case ``remove`` puts a mark beside the directory, a file whose name contains the
directory's name. Once the mark exists the directory does not count, and the next writer deletes it with whatever is
left in it. So a crash leaves the checkpoint under its name, or whole at its new place, or both. The new place never
counts.

A disk error is a crash that the process survives: the unfinished directory is removed, if the disk allows it, and the
error is raised. After a failed sync of the parent the new checkpoint may stay visible. It is complete, but nothing has
reported it as durable.
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
    describe: Callable[[dict[str, str], dict[str, int]], Manifest | str],
    fence: Fence,
    *,
    again: bool = False,
) -> Path:
    """Make the checkpoint of ``step`` under ``parent`` and return its directory. With ``again``, it takes the place of
    the one that is there: of the same step, committed when its validation was still to be made. A crash in between
    leaves that one in ``superseded``.

    ``fill`` writes the files into the directory that it gets. ``describe`` turns their digests and sizes into the
    manifest, or gives the text of one that describes them.

    Raises:
        RunDirectoryInUse: another process has taken over ``parent``. Nothing there was changed.
        RunDirectoryLost: ``parent`` or the run directory is no longer where its name says. Nothing was committed.
        OSError: the disk is full, broken, read-only …; there is no checkpoint of ``step``, or a complete one.
    """
    final = parent / name_of(step)
    assert again or not final.exists() or _is_doomed(final), "a resume sets later checkpoints aside"
    before: Path | None = None
    fence.refuse_if_lost()
    parent.mkdir(exist_ok=True)  # but not the run directory: a deleted one must not come back half empty
    sync(parent.parent)  # otherwise the name of `checkpoints` itself may be lost, with all its content
    unfinished = parent / f"{UNFINISHED}{name_of(step)}{fence.mark}"
    if unfinished.exists():  # an earlier save failed, and so did its removal
        shutil.rmtree(unfinished)
    if _is_doomed(final):  # an earlier deletion of it did not finish
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
        if final.exists():
            (before,) = set_aside([final])
        unfinished.rename(final)
        sync(parent)
    except Exception as error:
        if before is not None and not final.exists():
            with contextlib.suppress(OSError):
                move(before, final)  # as it was moved, which may be a copy
        shutil.rmtree(unfinished, ignore_errors=True)  # the disk that failed may refuse this, too
        if isinstance(error, OSError):  # perhaps another writer took over and removed it
            with contextlib.suppress(OSError):
                fence.look_now()
        if isinstance(error, OSError) and error.filename is None:  # a write knows only the descriptor
            error.filename = str(unfinished)
        raise
    if before is not None:
        with contextlib.suppress(OSError):  # it stays, and does not count
            remove(before)
    return final


def remove_leftovers(parent: Path) -> None:
    """Remove the unfinished files of a dead writer. Only the holder of the run directory may call this.

    A directory cannot be deleted if a foreign file in it is in use or belongs to another user. It stays, under a name
    that nobody renames to that of a checkpoint.
    """
    for place in (parent, parent / SUPERSEDED, parent / QUARANTINE):
        try:
            there = sorted(place.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            _warn(f"{place} cannot be listed: {error.strerror}; unfinished files there stay")
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
        _warn(f"{path} cannot be deleted: {_file_of(error)}: {error.strerror}; it is no longer a checkpoint")
        if path.name.startswith(UNFINISHED):
            with contextlib.suppress(OSError):  # this name does not count either
                path.rename(free(path.parent, f"{RETIRED}{path.name.removeprefix(UNFINISHED)}"))


def move(path: Path, target: Path) -> None:
    """Give a directory another name, durably, on any filesystem. ``target`` is free, and no checkpoint's name.

    Raises:
        OSError: it cannot be moved. It is still whole at ``path``, and there may be a copy at ``target``.
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
    if unfinished.exists():  # an earlier attempt failed, and so did its removal
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
        _warn(f"{path} cannot be deleted: {_file_of(error)}: {error.strerror}; its copy {target} has taken its place")


def _file_of(error: OSError) -> str:
    """The name that an error of ``shutil.rmtree`` has: of the file, and from Python 3.13 on of its directory."""
    return Path(error.filename).name if isinstance(error.filename, str | Path) else str(error.filename)


def remove(path: Path) -> None:
    """Delete a checkpoint. A crash never leaves a part of it under its name.

    Raises:
        OSError: it cannot be deleted. It may no longer count, and the next writer tries again.
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
    sync(path.parent)  # otherwise a power failure may undo the rename and keep the deletions
    shutil.rmtree(doomed)


def finish_removal(path: Path) -> None:
    """Delete the rest of a directory, if a dead writer had begun to remove it.

    Raises:
        OSError: it cannot be deleted, and still does not count.
    """
    if _is_doomed(path):
        _delete_marked(path)


def _delete_marked(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        sync(path.parent)  # before the mark goes: without the mark, what is left would count
    _mark_of(path).unlink()


def _mark_of(path: Path) -> Path:
    """The mark beside a directory that is being deleted. No retired directory has a name like this."""
    return path.parent / f"{RETIRED}{path.name}{MARK}"


def _doomed_by(mark: Path) -> Path | None:
    """The checkpoint that ``mark`` marks as being deleted; None when it is not such a mark."""
    path = mark.with_name(mark.name.removeprefix(RETIRED).removesuffix(MARK))
    return path if _mark_of(path) == mark and NAME.fullmatch(path.name) and _is_doomed(path) else None


def _is_doomed(path: Path) -> bool:
    """Whether a mark beside the directory says that it is being deleted.

    Raises:
        OSError: the system cannot answer.
    """
    try:
        return stat.S_ISREG(_mark_of(path).lstat().st_mode)
    except OSError as error:
        if error.errno in FOUND_OTHERWISE:
            return False
        raise


def is_there(path: Path) -> bool:
    """Whether a checkpoint exists and is not being deleted. One that cannot be reached counts as existing."""
    try:
        return is_directory(path) and not _is_doomed(path)
    except (OSError, Unreadable):
        return True


def _warn(text: str) -> None:
    warn(named(text))


def committed(parent: Path) -> list[Path]:
    """Every directory with a checkpoint's name, oldest first. Its content has not been checked.

    Raises:
        Unreadable: ``parent`` cannot be listed now.
    """
    return sorted(_directories(parent, NAME), key=step_of)


def _directories(place: Path, name: re.Pattern[str]) -> list[Path]:
    """The directories in ``place`` whose name matches ``name``; none when ``place`` does not exist.

    Raises:
        Unreadable: the system cannot answer, so an empty result would be wrong.
    """
    with readable(place):
        if not is_directory(place) or _is_doomed(place):
            return []
        there = [path for path in place.iterdir() if name.fullmatch(path.name)]
        return [path for path in there if is_directory(path) and not _is_doomed(path)]


def is_name(name: str) -> bool:
    """Whether a directory with this name is a checkpoint, or would have become one."""
    return NAME.fullmatch(name) is not None or NAME_UNFINISHED.fullmatch(name) is not None


def step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def manifest_of(path: Path) -> Manifest:
    """The manifest of a checkpoint directory. Its step must be the step in the directory's name.

    Raises:
        ManifestError: it cannot be parsed, it has another step, or ``path`` is not a directory (a link, for example).
        Unreadable: the system cannot read it now.
    """
    try:
        with readable(path):
            refuse_unless_directory(path)
    except Unacceptable as error:
        raise ManifestError(str(error)) from error
    manifest = manifests.read(path / manifests.FILE_NAME)
    if NAME.fullmatch(path.name) and step_of(path) != manifest.step:
        raise ManifestError(
            f"{path} holds step {manifest.step}: it was renamed, or its manifest belongs to another checkpoint"
        )
    return manifest


def set_aside(paths: Sequence[Path]) -> list[Path]:
    """Move checkpoints that a resume makes obsolete to ``superseded``. Nothing is deleted. Returns their new places."""
    places = []
    for path in paths:
        place = path.parent / SUPERSEDED
        make_directory(place)
        places.append(free(place, path.name))
        move(path, places[-1])
    return places


def quarantine(path: Path, reason: str) -> Path:
    """Move a damaged checkpoint to ``quarantine`` with the reason beside it. Returns its new place.

    The reason is on disk before the move. A crash between the two leaves a reason that the next attempt overwrites.
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
    """The checkpoints in quarantine and those set aside. They show that a run was here, even without any other."""
    places = [parent / QUARANTINE, parent / SUPERSEDED]
    return sorted(path for place in places for path in _directories(place, PUT_AWAY))


def free(place: Path, name: str) -> Path:
    """The path ``name`` in ``place``, with a number when that is taken."""
    return next(
        candidate
        for number in range(10**6)
        if not (candidate := place / (name if number == 0 else f"{name}.{number}")).exists()
    )
