"""A copy of a run on another filesystem (s3://, gs://, a path …), through fsspec.

A mirror has the layout of the run directory: ``checkpoints/step-…``, ``config.yaml``, ``metrics.jsonl``,
``time.jsonl``, ``predictions/``. Every pass brings the mirror up to date with the run. It copies the committed
checkpoints that the mirror lacks, newest first, and applies the run's retention to the mirror. So the next pass does
whatever one pass could not do. In a checkpoint the manifest is copied last, after every other file was read back and
compared, and it is deleted first. So a checkpoint that is only partly there does not count.

A mirror belongs to one run, identified by the first start in its lineage. ``owner.json`` records the owner before the
first copy. Two runs that begin at the same moment both find no owner, and both write themselves down. Each waits longer
than that takes and reads the file again, so that only the later one copies. Every pass reads it again.

fsspec handles credentials (environment, configuration files). A URL never carries them, because it is stored in
``config.yaml`` and printed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import yaml

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import Manifest, ManifestError, Start
from trainer.checkpoint.retention import Retention, Validations
from trainer.checkpoint.verification import Vanished, newest_valid, reading, verify
from trainer.config import stored
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory import places, validation_predictions
from trainer.run_directory.layout import CHECKPOINTS, LOCK, METRICS, PREDICTIONS, TIME
from trainer.run_directory.mirror_place import Checkpoints, Place
from trainer.storage import lease
from trainer.storage.documents import shown
from trainer.storage.durable import make_directory, replace, sync
from trainer.storage.going_on import COPIES
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import Unreadable

SETTLED = 2.0  # seconds after which another run that found no owner has written itself down
HISTORY_LIMIT = 1 << 30  # bytes of a metrics.jsonl; three million records
ACCOUNT_LIMIT = 1 << 26  # bytes of a time.jsonl; two months of lines each 10 s
DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt of a pass


class Mirror:
    """Keeps a copy of a run up to date in its own thread. Failures become ``notices``, not exceptions."""

    def __init__(self, place: Place, run_dir: Path, retention: Retention, start: Start, step: int) -> None:
        """``start`` is the first start in the run's lineage and identifies it. The run continues at ``step``.

        Raises:
            UsageError: the place holds another run or foreign files, or is the run directory itself.
        """
        self._place = place
        self._run_dir = run_dir
        self._retention = retention
        self._start = start
        self._step = step
        # what the place holds, known after the first pass, so that later passes need not ask
        self._there: dict[str, Manifest] | None = None
        self._shown: set[str] | None = None
        self._validations: Validations = {}
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._next: Future[None] | None = None
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        try:
            with COPIES.doing(lambda: f"asking the mirror {place.url}"):
                self._require_free()
        except UsageError:
            raise
        except Exception as error:  # of whatever network or library is behind the URL
            self._notice(error)

    def follow(self, validations: Validations) -> None:
        """Bring the mirror up to date soon. The new pass replaces one that has not begun yet."""
        self._validations = dict(validations)
        if self._next is not None:
            self._next.cancel()
        self._next = self._thread.submit(self._pass)

    def finish(self) -> None:
        """Return when the last pass has ended, successful or not."""
        self._thread.shutdown()

    def finish_account(self) -> None:
        """Copy the account of the run's time once more: its last line is written after the last pass. Tried once; what
        it costs to fail is that line.
        """
        if self._there is None:
            return  # no pass has succeeded
        with contextlib.suppress(Exception):  # of whatever network or library is behind the URL
            self._own()
            self._copy_growing(TIME)

    def _pass(self) -> None:
        for delay in (*DELAYS, None):
            try:
                with COPIES.doing(lambda: f"bringing the mirror {self._place.url} up to date"):
                    self._bring_up_to_date()
                return
            except UsageError as error:
                self._notice(error)
                return
            except Exception as error:  # of whatever network or library is behind the URL
                if delay is None:
                    self._notice(error)
                    return
                time.sleep(delay)

    def _notice(self, error: Exception) -> None:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.notices.put(f"the mirror {self._place.url} is not up to date: {what}")

    def _require_free(self) -> None:
        """Check the place before anything is written in it or in the run directory."""
        lock = self._place.read_if_there(self._place.root / LOCK, lease.MOST_BYTES)
        holder = None if lock is None else lease.parse(lock.decode(errors="replace"))
        if holder == lease.this_process():
            raise UsageError(
                f"checkpoint.mirror={self._place.url} is the run directory {self._run_dir} itself, by another path\n"
                "give a place on another filesystem, or checkpoint.mirror=null"
            )
        owner, there = self._place.owner(), self._place.described()
        self._require_owner(owner)
        self._require_lineage(there)
        if not there and owner is None:
            for name in (stored.FILE_NAME, METRICS):
                if self._place.has(self._place.root / name):
                    raise UsageError(
                        f"checkpoint.mirror={self._place.url} holds {name}, which does not belong to this run; choose "
                        "another place"
                    )

    def _require_owner(self, owner: Start | None) -> None:
        if owner is not None and owner != self._start:
            raise UsageError(
                f"checkpoint.mirror={self._place.url} holds another run, begun {owner.started} on {owner.host}; choose "
                "another place"
            )

    def _require_lineage(self, checkpoints: Checkpoints) -> None:
        for path, manifest in checkpoints:
            if manifest.lineage[:1] != (self._start,):
                raise UsageError(
                    f"checkpoint.mirror={self._place.url} holds another run ({path.name}); choose another place"
                )

    def _own(self) -> None:
        """Write this run down as the owner, unless it is.

        Raises:
            UsageError: it belongs to another.
        """
        owner = self._place.owner()
        if owner is None:
            self._require_lineage(self._place.described())  # a version without owner.json may have written it
            self._place.write_owner(self._start)
            time.sleep(SETTLED)
            owner = self._place.owner()
        self._require_owner(owner)

    def _foreign(self, path: PurePosixPath) -> PurePosixPath:
        """``path`` on the mirror, checked before it is changed.

        Raises:
            UsageError: it lies in the run directory.
        """
        if self._place.local is not None and places.within(Path(path), self._run_dir):
            raise UsageError(f"{path} is in the run directory {self._run_dir} itself, and was left alone")
        return path

    def _bring_up_to_date(self) -> None:
        checkpoints = self._run_dir / CHECKPOINTS
        self._own()
        if self._there is None:
            self._there = self._begin()
        for path in reversed(directory.committed(checkpoints)):
            if path.name not in self._there:
                try:
                    self._there[path.name] = self._copy(path)
                except Vanished:
                    continue
        for name in (stored.FILE_NAME, METRICS, TIME):
            if (self._run_dir / name).is_file():
                self._copy_growing(name)
        self._bring_predictions()
        entries = sorted(self._there.items(), key=lambda entry: entry[1].step)
        held = [(self._place.checkpoints / name, manifest) for name, manifest in entries]
        kept = self._retention.kept(held, self._validations)
        for checkpoint, _ in held:
            if checkpoint not in kept:
                self._place.remove(self._foreign(checkpoint))
                del self._there[checkpoint.name]

    def _bring_predictions(self) -> None:
        here = {path.name for path in validation_predictions.stored(self._run_dir).values()}
        if self._shown is None:
            self._shown = self._place.predictions()
        for name in sorted(here - self._shown):
            self._place.put(self._run_dir / PREDICTIONS / name, self._place.root / PREDICTIONS / name)
            self._shown.add(name)
        for name in sorted(self._shown - here):
            self._place.clear(self._foreign(self._place.root / PREDICTIONS / name))
            self._shown.remove(name)

    def _begin(self) -> dict[str, Manifest]:
        """The checkpoints of the run that the mirror already has. Those that the run will make again are set aside."""
        there = self._place.described()
        self._require_lineage(there)
        kept = {}
        for path, manifest in there:
            local = self._run_dir / CHECKPOINTS / path.name
            try:
                other = local.is_dir() and manifests.read(local / manifests.FILE_NAME).files != manifest.files
            except ManifestError:
                other = False
            if manifest.step > self._step or other:
                self._place.set_aside(self._foreign(path))
            else:
                kept[path.name] = manifest
        return kept

    def _copy(self, path: Path) -> Manifest:
        with reading(path):
            manifest = manifests.read(path / manifests.FILE_NAME)
            target = self._foreign(self._place.checkpoints / path.name)
            self._place.clear(target)
            for name in (*manifest.files, manifests.FILE_NAME):
                self._place.put(path / name, target / name)
            return manifest

    def _copy_growing(self, name: str) -> None:
        """Copy a file as it is at this moment. The run may append to it meanwhile."""
        moment = self._run_dir / f".mirrored-{name}"
        shutil.copyfile(self._run_dir / name, moment)
        self._place.put(moment, self._place.root / name)
        moment.unlink()


def default_directory(place: Place) -> Path:
    """The directory for a run that ``resume`` fetches: ``outputs/<experiment>/<last part of the URL>``.

    The name of the experiment comes from the mirror, so it must be one plain name: nothing that leads elsewhere.

    Raises:
        NoValidCheckpoint: there is no configuration of this version at the URL, or it names no directory.
        UsageError: the URL has no last part.
        Unreadable: it cannot be read now.
    """
    with _reached(place):
        text = place.read(place.root / stored.FILE_NAME, stored.SIZE_LIMIT)
    try:
        config = stored.from_text(text.decode())
    except (UnicodeDecodeError, yaml.YAMLError, Unacceptable, UsageError) as error:
        reason = str(error).splitlines()[0][: stored.REASON_SHOWN]
        raise NoValidCheckpoint(
            f"{place.url}/{stored.FILE_NAME} is not a configuration of this version: {reason}"
        ) from error
    if not _is_plain(config.experiment):
        raise NoValidCheckpoint(
            f"the experiment of {place.url} is {shown(config.experiment)}, which is not the name of a directory\n"
            "name the directory to fetch the run into: into=DIR"
        )
    if not _is_plain(place.root.name):
        raise UsageError(f"{place.url} ends without a name\nname the directory to fetch the run into: into=DIR")
    return Path("outputs") / config.experiment / place.root.name


def _is_plain(name: str) -> bool:
    """Whether a text is the name of a directory in the directory where it is used, and a visible one."""
    return name.isprintable() and not name.startswith(".") and name == name.strip() != "" and Path(name).name == name


def fetch(place: Place, run_dir: Path, warn: Callable[[str], None]) -> None:
    """Bring the newest valid checkpoint of a mirror, with the run's history, into ``run_dir``.

    Files in ``run_dir`` stay. Nothing is fetched if it already has a valid checkpoint of the same step or a later one.

    Raises:
        UsageError: ``run_dir`` holds another run.
        NoValidCheckpoint: there is no valid checkpoint at the URL.
        Unreadable: the mirror, or a checkpoint in ``run_dir``, cannot be read now.
    """
    checkpoints = run_dir / CHECKPOINTS
    made = not checkpoints.exists()
    checkpoints.mkdir(exist_ok=True)
    try:
        _fetch(place, run_dir, checkpoints, warn)
    except (NoValidCheckpoint, Unreadable, UsageError):
        if made and not any(checkpoints.iterdir()):
            checkpoints.rmdir()  # or an empty directory would be left where nothing was fetched
        raise


def _fetch(place: Place, run_dir: Path, checkpoints: Path, warn: Callable[[str], None]) -> None:
    directory.remove_leftovers(checkpoints)
    with _reached(place):
        there = place.described()
    here = _newest_step(checkpoints, there)
    for path, manifest in reversed(there):
        if here is not None and manifest.step <= here:
            return
        try:
            _fetch_checkpoint(place, path, manifest, checkpoints)
        except NoValidCheckpoint as error:
            warn(f"skipping {path.name} of {place.url}: {error}")
            continue
        if here is None:
            with _reached(place):
                views = [f"{PREDICTIONS}/{name}" for name in sorted(place.predictions())]
            make_directory(run_dir / PREDICTIONS)
            limits = {stored.FILE_NAME: stored.SIZE_LIMIT, METRICS: HISTORY_LIMIT}
            for name in (*limits, *views):
                with _reached(place):
                    content = place.read(place.root / name, limits.get(name, validation_predictions.SIZE_LIMIT))
                replace(run_dir / name, content)
            _fetch_account(place, run_dir, warn)
        return
    raise NoValidCheckpoint(f"{place.url} holds no valid checkpoint")


def _fetch_account(place: Place, run_dir: Path, warn: Callable[[str], None]) -> None:
    """Bring the account of the run's time, if there is one and none is here. Nothing depends on it, so a mirror that
    fails is no error.
    """
    if os.path.lexists(run_dir / TIME):
        return
    try:
        content = place.read_if_there(place.root / TIME, ACCOUNT_LIMIT)
    except Exception as error:  # of whatever network or library is behind the URL
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warn(f"the account of the time before was not fetched from {place.url}: {reason}")
        return
    if content is not None:
        replace(run_dir / TIME, content)


@contextmanager
def _reached(place: Place) -> Iterator[None]:
    """Turn any error of the network or library behind a URL into one message.

    Raises:
        NoValidCheckpoint: a file is missing there, or is not one of this program.
        Unreadable: any other error. It says nothing about the stored files.
    """
    try:
        with COPIES.doing(lambda: f"reading {place.url}"):
            yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        if isinstance(error, Unacceptable):  # it was read, and its content is wrong
            raise NoValidCheckpoint(f"{place.url} has files that are not of this program: {reason}") from error
        text = f"{place.url} cannot be read: {type(error).__name__}: {reason}"
        if isinstance(error, FileNotFoundError):
            raise NoValidCheckpoint(text) from error
        raise Unreadable(f"{text}\nnothing older was taken in its place; run the same command again") from error


def _newest_step(checkpoints: Path, there: Checkpoints) -> int | None:
    """The step of the newest valid checkpoint in ``checkpoints``; None when there is none."""
    if not directory.committed(checkpoints):
        return None
    try:
        found = newest_valid(checkpoints, "full", lambda text: None)
    except NoValidCheckpoint:
        return None
    if there and there[0][1].lineage[:1] != found.manifest.lineage[:1]:
        raise UsageError(f"{checkpoints.parent} holds another run; fetch into another directory: into=DIR")
    return found.manifest.step


def _fetch_checkpoint(place: Place, path: PurePosixPath, manifest: Manifest, checkpoints: Path) -> None:
    """Copy one checkpoint and commit it like one that was written here: see ``directory.commit``."""
    unfinished = checkpoints / f"{directory.UNFINISHED}{path.name}"
    unfinished.mkdir()
    try:
        for name in (*manifest.files, manifests.FILE_NAME):
            with _reached(place):
                limit = manifest.sizes[name] if name in manifest.sizes else manifests.SIZE_LIMIT
                place.get(path / name, unfinished / name, limit)
        verify(unfinished, "full")
    except Exception:
        shutil.rmtree(unfinished)
        raise
    for file in unfinished.iterdir():
        sync(file)
    sync(unfinished)
    final = checkpoints / path.name
    if final.is_dir():  # it is damaged, otherwise it would not be fetched
        directory.quarantine(final, f"not valid here; fetched again from {place.url}")
    unfinished.rename(final)
    sync(checkpoints)
