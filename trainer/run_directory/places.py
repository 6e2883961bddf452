"""Whether one place lies in another, and where nothing may be written.

Two paths can be one place: through a symbolic link, a bind mount, a second mount of the same export. So directories
are compared by their resolved paths and, where they exist, by device and inode. A place and all directories above it
are compared.

Nothing is ever written below a committed checkpoint, because an additional file is damage. Every command that writes to
a path from the user checks it here first.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.directory import NAME, QUARANTINE, SUPERSEDED, step_of
from trainer.checkpoint.manifest import CHECKPOINTS, PREFIX
from trainer.command_line import argument, place_beside, resume_command
from trainer.config import stored
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory.layout import OWN

# how a URL begins, which as a path is a directory of this name
SCHEME = re.compile(
    "(abfss?|adl|az|file|ftp|gcs|gs|hdfs|https?|memory|oss|s3a?|sftp|ssh|webhdfs):", re.IGNORECASE | re.ASCII
)


def real(place: Path) -> Path:
    """A place without links and ``..``, as far as it exists. A part that cannot be reached stays as it was given."""
    return Path(os.path.realpath(place))


def within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or lies below it, by any path. Neither has to exist."""
    resolved = real(outer)
    identity = _identity(resolved)
    return any(place == resolved or (identity is not None and _identity(place) == identity) for place in _up(inner))


def overlap(one: Path, other: Path) -> bool:
    """Whether two places are the same, or one lies in the other."""
    return within(one, other) or within(other, one)


def is_checkpoint(place: Path) -> bool:
    """Whether a directory is a checkpoint, or was one before it was damaged."""
    if NAME.fullmatch(place.name) and place.parent.name in (CHECKPOINTS, SUPERSEDED, QUARANTINE):
        return os.path.isdir(place)
    return all(os.path.isfile(place / name) for name in (manifests.FILE_NAME, f"{PREFIX}.index"))


def is_run(place: Path) -> bool:
    """Whether a directory is a run directory: it has a configuration of this program and ``checkpoints/``."""
    try:
        stored.read(place / stored.FILE_NAME)
    except NoValidCheckpoint:
        return False
    return os.path.isdir(place / CHECKPOINTS)


def refuse_url(place: Path, given: str) -> None:
    """Refuse a URL: a directory called ``s3:`` would be made here, and lost with this machine. What is there already
    may be gone on with.

    Raises:
        UsageError: says what copies checkpoints to another machine.
    """
    if not any(map(SCHEME.fullmatch, place.parts)) or os.path.exists(place):
        return
    raise UsageError(
        f"{given} is a URL, and must be a path of this machine: nothing is written to another one directly\n"
        "the checkpoints of a run are copied to a bucket by checkpoint.mirror=URL; copy other files yourself"
    )


def refuse_in_checkpoint(place: Path, given: str) -> None:
    """Refuse to write to ``place`` when it is, or lies in, a checkpoint or a directory of checkpoints. ``given`` is
    what the user wrote.

    Raises:
        UsageError: names the checkpoint, its run, and a command that the user may have meant; or it is a URL.
    """
    refuse_url(place, given)
    for above in _up(place):
        if is_checkpoint(above):
            what = "is a checkpoint" if above == real(place) else f"lies in the checkpoint {above}"
            raise UsageError(
                f"{given} {what}{_owner(above)}; nothing is written there, because any change to a checkpoint damages "
                f"it\n{_continuing(above)}"
            )
        if _holds_checkpoints(above):
            what = "is" if above == real(place) else "lies in"
            run_dir = _run_of(above)
            raise UsageError(
                f"{given} {what} the place for the checkpoints of the run {run_dir}; nothing else is written there\n"
                f"to continue that run:\n  {resume_command(run_dir)}"
            )


def refuse_as_run(place: Path, given: str) -> None:
    """Refuse a checkpoint, a directory of checkpoints, and one of runs, where a run is to be read. ``given`` is what
    the user wrote.

    Raises:
        UsageError: names the arguments that are meant.
    """
    resolved = real(place)
    if is_checkpoint(resolved):
        meant = shlex.quote(argument("checkpoint", resolved))
        if resolved.parent.name == CHECKPOINTS:
            chosen = f"checkpoint=step-{step_of(resolved)}" if NAME.fullmatch(resolved.name) else "checkpoint=latest"
            meant = f"{shlex.quote(argument('run_dir', _run_of(resolved)))} {chosen}"
        raise UsageError(f"{given} is a checkpoint{_owner(resolved)}, and not a run; name it as {meant}")
    if _holds_checkpoints(resolved):
        run_dir = _run_of(resolved)
        raise UsageError(
            f"{given} is the place for the checkpoints of the run {run_dir}, and not the run; name it as "
            f"{shlex.quote(argument('run_dir', run_dir))}"
        )
    inside = sorted(each for each in resolved.iterdir() if is_run(each)) if resolved.is_dir() else []
    if inside:
        raise UsageError(
            f"{given} is not a run, but has {len(inside)} in it; name one, such as "
            f"{shlex.quote(argument('run_dir', inside[0]))}"
        )


def refuse_output(path: Path, given: str) -> None:
    """Refuse to write a result to ``path`` when that would change a checkpoint or the files of a run.

    Raises:
        UsageError: names the run.
    """
    refuse_in_checkpoint(path, given)
    resolved = real(path)
    for above in resolved.parents:
        first = resolved.relative_to(above).parts[0]
        if first in OWN and is_run(above):
            raise UsageError(
                f"{given} belongs to the run {above}, which writes {first} itself\nchoose another place, such as "
                f"{above / f'of-{path.name}'}"
            )


def refuse_replacing(path: Path, given: str) -> None:
    """Refuse to put a new file in the place of what is no file: a user who may write to ``/dev`` would have no such
    device any more. A link is as bad: it would be replaced, and not what it leads to, as with ``/dev/stdout``.

    Raises:
        UsageError: says what is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # nothing is there, or writing will say why it cannot be reached
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
        raise UsageError(f"{given} is {what}, and would be replaced by a file; choose another place")


def refuse_nested(place: Path, given: str) -> None:
    """Refuse to begin something new inside a run directory.

    Raises:
        UsageError: names both; or it is a URL.
    """
    refuse_url(place, given)
    for above in list(_up(place))[1:]:
        if is_run(above):
            raise UsageError(
                f"{given} lies in the directory of another run, {above}: each would take the other's files for its "
                "own\nchoose a place outside of it"
            )


def _up(place: Path) -> Iterator[Path]:
    """The resolved path of a place, and every directory above it."""
    resolved = real(place)
    yield resolved
    yield from resolved.parents


def _identity(place: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(place)
    except OSError:  # it is missing or cannot be reached: only its path is compared
        return None
    return status.st_dev, status.st_ino


def _holds_checkpoints(place: Path) -> bool:
    """Whether this is ``checkpoints/``, ``quarantine/`` or ``superseded/`` of a run. The name alone is not enough."""
    if place.name in (SUPERSEDED, QUARANTINE):
        return place.parent.name == CHECKPOINTS and os.path.isdir(place)
    if place.name != CHECKPOINTS or not os.path.isdir(place):
        return False
    try:
        with os.scandir(place) as entries:
            names = {entry.name for entry in entries if entry.is_dir()}
    except OSError:
        return False
    return bool(names & {SUPERSEDED, QUARANTINE}) or any(NAME.fullmatch(name) for name in names)


def _run_of(place: Path) -> Path:
    """The run directory above a checkpoint or a place for checkpoints."""
    return next((above.parent for above in (place, *place.parents) if above.name == CHECKPOINTS), place.parent)


def _owner(checkpoint: Path) -> str:
    counted = checkpoint.parent.name == CHECKPOINTS
    put_away = checkpoint.parent.name in (SUPERSEDED, QUARANTINE)
    return f" of the run {_run_of(checkpoint)}" if counted or put_away else ""


def _continuing(checkpoint: Path) -> str:
    """What to do instead of giving a checkpoint as a run directory."""
    if checkpoint.parent.name == CHECKPOINTS:
        step = f"checkpoint=step-{step_of(checkpoint)}" if NAME.fullmatch(checkpoint.name) else "checkpoint=latest"
        return f"to continue that run from it:\n  {resume_command(checkpoint.parent.parent, step)}"
    command = resume_command(place_beside(_run_of(checkpoint), "continued"), argument("checkpoint", checkpoint))
    return f"to continue from it in a new directory:\n  {command}"
