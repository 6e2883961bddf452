"""What a run directory holds before anything is written there: nothing, a run, remains of a run, or foreign files.

A directory belongs to this program because of the content of its files, not their names: a readable configuration, a
metrics record, the mark of ``trainer.run_directory.commit_mark``, or a checkpoint. A directory without any of these is
left alone.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoint import directory
from trainer.command_line import resume_command
from trainer.config import reproduction, stored
from trainer.errors import NoValidCheckpoint, TrainerError, UsageError
from trainer.run_directory import commit_mark, places
from trainer.run_directory.layout import CHECKPOINTS, LOG, METRICS, NOTES, PREDICTIONS, TENSORBOARD, TIME, TRACKING
from trainer.run_directory.metrics import record_of
from trainer.storage.durable import make_directory, sync
from trainer.storage.guarded import open_regular
from trainer.storage.unacceptable import Unacceptable

ASIDE = "before-"  # and a number: the place for an earlier run when a new one begins in its directory
# Files that are nobody's work: those of filesystems, desktops and schedulers, logs of a shell, the script that starts
# the run. Hidden names are also left alone.
BYSTANDERS = re.compile(
    rf"\..*|lost\+found|@eaDir|Thumbs\.db|desktop\.ini|{ASIDE}\d+"
    rf"|(?!{re.escape(LOG)}$).*\.(log|out|err|o\d+|e\d+|sh|sbatch|slurm)|multirun\.yaml"
)
RUN = (
    CHECKPOINTS,
    METRICS,
    LOG,
    TIME,
    TENSORBOARD,
    PREDICTIONS,
    TRACKING,
    "report.html",
    *NOTES,
    stored.FILE_NAME,
)
ADVICE = "to begin again at step 0, add on_existing=restart (for a trial of a sweep, move its directory away)"
TAIL = 1 << 20  # bytes at the end of metrics.jsonl in which its last record is searched
SHOWN = 3
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d")  # of run_dir in conf/config.yaml


def is_stamp(place: Path) -> bool:
    """Whether a directory has a moment for its name, as the default of ``run_dir``: nobody has chosen it."""
    return STAMP.fullmatch(place.name) is not None


@contextlib.contextmanager
def own_place(wanted: Path) -> Iterator[Path]:
    """A directory that this process alone has made: ``wanted`` or, where another run has that name, one with a number
    behind it. It is removed again if the block leaves nothing in it.

    Raises:
        UsageError: it cannot be made.
    """
    places.refuse_in_checkpoint(wanted, f"run_dir={wanted}")
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(1))
    try:
        make_directory(wanted.absolute().parent)
        place = next(name for name in names if _made(name))
    except OSError as error:
        raise UsageError(f"run_dir={wanted} cannot be written: {error.strerror}") from error
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):  # it has a run in it
            place.rmdir()


def _made(place: Path) -> bool:
    try:
        place.mkdir()  # of several processes one succeeds
    except FileExistsError:
        return False
    return True


def refuse_foreign(run_dir: Path, *, continued: bool = False) -> None:
    """Refuse a directory that has content, but none of this program. Nothing is written, not even the lock. With
    ``continued``, a run is expected there.

    Raises:
        UsageError: names the content, or the checkpoint that ``run_dir`` is or lies in.
    """
    places.refuse_in_checkpoint(run_dir, f"run_dir={run_dir}")
    try:
        if not run_dir.is_dir() or _is_ours(run_dir):
            return
        foreign = [name for name in sorted(os.listdir(run_dir)) if not _is_bystander(run_dir / name)]
    except OSError as error:
        raise UsageError(f"run_dir={run_dir} cannot be read: {error.strerror}") from error
    if not foreign:
        return
    why = f"\n{_unreadable(run_dir)}" if stored.FILE_NAME in foreign else ""
    runs = [name for name in foreign if places.is_run(run_dir / name)]
    named = [f"{name}/" if (run_dir / name).is_dir() else name for name in foreign[:SHOWN]]
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    if continued:
        instead = "name the directory of a run: it has config.yaml and checkpoints/"
        if runs:
            instead = f"to continue one of the runs in it:\n  {resume_command(run_dir / runs[0])}"
        raise UsageError(f"run_dir={run_dir} is not a run; there are {', '.join(named)}{more}{why}\n{instead}")
    what = f"contains other runs ({', '.join(runs[:SHOWN])})" if runs else "is not a run of this program and not empty"
    raise UsageError(
        f"run_dir={run_dir} {what}; there are {', '.join(named)}{more}, which a run would overwrite or mix with its "
        f"own files{why}\nchoose a new directory, for example run_dir={run_dir / 'run'}"
    )


def has_checkpoints(run_dir: Path) -> bool:
    """Whether the directory has checkpoints that a run could continue from, or that were put away."""
    checkpoints = run_dir / CHECKPOINTS
    return bool(directory.committed(checkpoints) or directory.put_away(checkpoints))


def is_vacant(run_dir: Path, advice: str) -> bool:
    """Whether the directory has no checkpoint and never had one, so that a run may begin at step 0.

    A run that may have committed checkpoints, but has none now, is refused. ``advice`` says how to begin again.

    Raises:
        NoValidCheckpoint: names what the directory holds.
    """
    if has_checkpoints(run_dir):
        return False
    mark = commit_mark.read(run_dir)
    if mark is False or not (mark or _is_ours(run_dir)):
        return True
    known = (
        "a run was here and had committed checkpoints"
        if mark
        else "a run was here, of a version that did not note whether it had committed a checkpoint"
    )
    raise NoValidCheckpoint(
        f"{run_dir / CHECKPOINTS} holds no checkpoint, but {known}; there are {', '.join(_remains(run_dir))}\n"
        "nothing was changed. Is a volume not mounted, or were the checkpoints moved? Put them back, or continue from "
        f"a copy with resume checkpoint=PATH\n{advice}; it moves what is there to {_free(run_dir)}"
    )


def begin_again(run_dir: Path) -> str:
    """The advice with the command that trains the configuration of ``run_dir`` from step 0."""
    try:
        config = stored.read(run_dir / stored.FILE_NAME)
        command = reproduction.command(config, run_dir, "on_existing=restart")
    except TrainerError:
        return "to begin again at step 0, run the train command of that run with on_existing=restart"
    return f"to begin again at step 0:\n  {command}\nnothing is deleted"


def begin(run_dir: Path, *, continues: bool, restart: bool) -> list[str]:
    """Take a run directory for a new run, or for one that ``continues`` from a checkpoint, and write the mark of
    ``trainer.run_directory.commit_mark``. With ``restart``, the files of an earlier run are moved away first. Returns
    lines for the log.

    Raises:
        UsageError: a file cannot be moved.
        OSError: the mark cannot be written.
    """
    said = []
    for name in RUN:
        directory.finish_removal(run_dir / name)  # a restart was killed while it moved by copying
    if restart:
        said = _put_aside(run_dir)
    elif not continues and commit_mark.read(run_dir) is False:
        said = [f"a run was begun in {run_dir} before and stopped before its first checkpoint: starting at step 0"]
    commit_mark.write(run_dir, committed=continues)
    return said


def _is_ours(run_dir: Path) -> bool:
    if commit_mark.read(run_dir) is not None or has_checkpoints(run_dir):
        return True
    try:
        stored.read(run_dir / stored.FILE_NAME)
    except NoValidCheckpoint:
        return _has_records(run_dir / METRICS)
    return True


def _unreadable(run_dir: Path) -> str:
    """Why the configuration in ``run_dir`` is not one of this program."""
    try:
        stored.read(run_dir / stored.FILE_NAME)
    except NoValidCheckpoint as error:
        return str(error)
    return ""


def _has_records(path: Path) -> bool:
    """Whether a metrics.jsonl begins with a record of a run."""
    try:
        with open_regular(path) as file:
            record_of(file.readline(TAIL))
    except (OSError, Unacceptable):
        return False
    return True


def _is_bystander(path: Path) -> bool:
    if BYSTANDERS.fullmatch(path.name) or _is_empty(path):
        return True
    # left by a fetch or a first save that was killed, or the top of a volume
    return path.name == CHECKPOINTS and path.is_dir() and all(map(BYSTANDERS.fullmatch, os.listdir(path)))


def _remains(run_dir: Path) -> list[str]:
    """The files that an earlier run left, each with what is known about it."""
    found = [name for name in RUN if os.path.lexists(run_dir / name) and not _is_empty(run_dir / name)]
    return [_described(run_dir / name) for name in reversed(found)] or [commit_mark.FILE_NAME]


def _described(path: Path) -> str:
    if path.name != METRICS:
        return f"{path.name}/" if path.is_dir() else path.name
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines(keepends=True)
        step = next(record_of(line)["step"] for line in reversed(lines) if _is_record(line))
    except (OSError, Unacceptable, StopIteration):
        return path.name
    return f"{path.name} (up to step {step})"


def _is_record(line: bytes) -> bool:
    try:
        record_of(line)
    except Unacceptable:
        return False
    return True


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not os.listdir(path)


def _free(run_dir: Path) -> Path:
    return next(
        candidate for number in range(1, 10**6) if not os.path.lexists(candidate := run_dir / f"{ASIDE}{number}")
    )


def _put_aside(run_dir: Path) -> list[str]:
    """Move the files of an earlier run to a numbered directory inside ``run_dir``. Nothing is deleted.

    The checkpoints go first and the mark last. After a crash between the two, the next start refuses to begin unasked.
    """
    damaged = sorted(name for name in os.listdir(run_dir) if name.startswith(f"{METRICS}.damaged."))
    names = [name for name in (*RUN, *damaged, commit_mark.FILE_NAME) if os.path.lexists(run_dir / name)]
    names = [name for name in names if not _is_empty(run_dir / name)]
    if not names:
        return []
    aside = _free(run_dir)
    make_directory(aside)
    for name in names:
        try:
            _move(run_dir / name, aside / name)
        except OSError as error:
            if _is_empty(aside):
                aside.rmdir()
            raise UsageError(
                f"{run_dir / name} cannot be moved to {aside}: {error.strerror}; move it elsewhere by hand, and run "
                "the same command again"
            ) from error
    return [f"beginning again: the files of an earlier run are in {aside}"]


def _move(path: Path, target: Path) -> None:
    """Move a file or a directory, durably.

    Raises:
        OSError: it is not at ``target``, or it is also still at ``path``.
    """
    if path.is_symlink() or not path.is_dir():
        path.rename(target)
        sync(target.parent)
        sync(path.parent)
        return
    directory.move(path, target)
    if path.exists():  # copied, but not deleted: nothing written there would count
        raise OSError(errno.EBUSY, "it was copied there, but what is here cannot be deleted", str(path))
