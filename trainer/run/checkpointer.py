"""Making checkpoints of a run: what each contains beside the tensors, when it is written, and which older ones are
deleted.

A save has two halves. ``save`` takes a snapshot of everything the checkpoint will say: the tensors, step, position,
ledger, validations. The other half, ``_commit``, works only on the snapshot, in one background thread: sync of the
history, check and write, hash, fsync, rename, retention. Without ``checkpoint.async_save`` the loop waits for it at
once. One save is in flight at a time: the next save waits for it before it takes its snapshot, so there is at most one
more copy of the state in memory. Nothing may be reported as committed before ``finish`` has returned.
"""

from __future__ import annotations

import dataclasses
import errno
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoint import directory, manifest
from trainer.checkpoint.manifest import Manifest, RecordedMetrics, Start
from trainer.checkpoint.retention import Retention, retire
from trainer.checkpoint.tensors import NotFinite, Snapshot, StateFile
from trainer.command_line import resume_command
from trainer.config import stored
from trainer.config.metrics import counts
from trainer.config.schema import Config
from trainer.errors import NotSaved, RunDirectoryLost, TrainingFailed
from trainer.fingerprint import facts
from trainer.fingerprint import versions as program_versions
from trainer.fingerprint.facts import Fact
from trainer.monitoring.terminal import Terminal
from trainer.run_directory import commit_mark
from trainer.run_directory.history import History
from trainer.run_directory.layout import CHECKPOINTS, LOCK
from trainer.run_directory.lost import way_on
from trainer.run_directory.mirror import Mirror
from trainer.storage import holding
from trainer.storage.going_on import WRITES
from trainer.storage.lease import Fence
from trainer.storage.unreadable import Unreadable
from trainer.training.state import Progress

FAILURES_TOLERATED = 2  # in a row, with checkpoint.on_error=continue; the third stops the run
WAIT_WORTH_A_LINE = 1.0  # seconds that the loop waited for the previous save


@dataclasses.dataclass(frozen=True)
class Contents:
    """The content of a checkpoint: the part that is the same for all saves of one process, and where the state is."""

    config: Config
    fingerprint: Sequence[Fact]
    class_names: tuple[str, ...]
    examples_per_epoch: int
    versions: Mapping[str, str]
    lineage: tuple[Start, ...]
    progress: Progress
    state_file: StateFile


@dataclasses.dataclass(frozen=True)
class Store:
    """Where checkpoints go and which of them stay. ``last_good`` is the verified one that the run continues from."""

    checkpoints: Path
    retention: Retention
    mirror: Mirror | None
    last_good: Path | None


@dataclasses.dataclass(frozen=True)
class Moment:
    """Everything that a checkpoint says about its step."""

    tensors: Snapshot
    step: int
    examples: int
    ledger: str
    validations: Mapping[int, dict[str, float]]
    metrics: RecordedMetrics


class Checkpointer:
    """Commits the state of one run."""

    def __init__(
        self,
        contents: Contents,
        store: Store,
        history: History,
        terminal: Terminal,
        when_finished: Callable[[], None],
    ) -> None:
        self.contents = contents
        self._run_dir = store.checkpoints.parent
        self._checkpoints = store.checkpoints
        self._progress = contents.progress
        self._state_file = contents.state_file
        self._history = history
        self._terminal = terminal
        self._retention = store.retention
        self._mirror = store.mirror
        self._last_good = store.last_good
        self._when_finished = when_finished
        self._fence = Fence(self._run_dir / LOCK)
        # these are the same in every checkpoint, and not cheap to make
        self._texts = {
            stored.FILE_NAME: stored.to_text(contents.config),
            facts.FILE_NAME: facts.to_text(contents.fingerprint),
        }
        self._fingerprints = {
            **stored.section_digests(contents.config),
            **facts.digests(contents.fingerprint),
        }
        self._stop_at_once = contents.config.checkpoint.on_error == "stop"
        self._background = ThreadPoolExecutor(1, "commit")
        self._in_flight: tuple[int, Future[None]] | None = None
        self._failures = 0  # saves that failed since the last success
        self._warned: set[str] = set()  # logs whose failure was reported
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()  # from the background thread; the loop prints them

    @property
    def is_writing(self) -> bool:
        """Whether a save was in flight when ``check`` last looked."""
        return self._in_flight is not None

    def save(self) -> None:
        """Take a snapshot of the current step and commit it, in the background if the configuration says so.

        Raises:
            RunDirectoryInUse: another process has taken over. Nothing was written.
            RunDirectoryLost: the run directory is elsewhere. The current step is committed there, if possible.
            NotSaved: this save or an earlier one could not be written, and the policy is to stop.
            TrainingFailed: a variable is not finite in this save or an earlier one. That save was not written.
        """
        with self._keeping():
            self._save()

    def _save(self) -> None:
        self._settle(last=False)
        progress = self._progress
        moment = Moment(
            tensors=self._state_file.snapshot(),
            step=int(progress.step.numpy()),
            examples=int(progress.examples.numpy()),
            ledger=progress.ledger_text(),
            validations=dict(self._history.validations),
            metrics=self._history.recorded,
        )
        self._in_flight = (moment.step, self._background.submit(self._commit, moment))
        if not self.contents.config.checkpoint.async_save:
            self._settle(last=False)

    def check(self) -> None:
        """Report what went wrong since the last call, without waiting.

        Raises:
            RunDirectoryInUse, RunDirectoryLost, NotSaved, TrainingFailed: as ``save``.
        """
        with self._keeping():
            self._fence.refuse_if_lost()
            self._fence.look()
            if self._in_flight is not None and self._in_flight[1].done():
                self._settle(last=False)
        self._print_notices()
        for log, failure in (("metrics", self._history.failure), ("log", self._terminal.failure)):
            if failure is None:
                self._warned.discard(log)
            elif self._stop_at_once:
                raise NotSaved(f"{_reason(failure)}; {self._last()}")
            elif log not in self._warned:
                self._warned.add(log)
                self._terminal.warn(f"{_reason(failure)}; training continues, and what is missing is written later")
        view = self._history.view_failure
        if view is not None and "view" not in self._warned:
            self._warned.add("view")
            self._terminal.warn(f"{_reason(view)}; TensorBoard will not show everything, and nothing else is affected")

    def finish(self) -> None:
        """Return when every save is committed. After this the run may report it and end.

        Raises:
            NotSaved: the last save failed, or the history cannot be written.
            RunDirectoryLost, TrainingFailed: as ``save``.
        """
        with self._keeping():
            self._settle(last=True)
            self._fence.refuse_if_lost()
        try:
            self._history.sync()
        except OSError as error:
            raise NotSaved(f"{_reason(error)}; {self._last()}") from error
        if self._mirror is not None:
            self._mirror.finish()
        self._print_notices()
        self._when_finished()

    def close(self) -> None:
        """Wait for the save in flight when an error ends the run. That error is raised; an error here is a warning."""
        try:
            self._settle(last=True)
        except (NotSaved, RunDirectoryLost, TrainingFailed) as error:
            self._terminal.warn(str(error))
        self._background.shutdown()
        if self._mirror is not None:
            self._mirror.finish()
        self._print_notices()

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """If the block finds that the run directory is elsewhere, commit the current step there."""
        try:
            yield
        except RunDirectoryLost as lost:
            raise RunDirectoryLost(f"{lost}\n{self._keep()}") from lost

    def _keep(self) -> str:
        """Save the current step if possible. Returns what became of it, and how to continue the run."""
        held = holding.of(self._run_dir)
        assert held is not None, "only a directory that is held can be found to be lost"
        if self._in_flight is not None:  # it is of an earlier step, or failed for the same reason
            wait([self._in_flight[1]])
            self._in_flight = None
        lost, step, failure = held.lost() or held, int(self._progress.step.numpy()), None
        place = held.path / CHECKPOINTS if lost is held and held.path != held.name else lost.whereabouts()
        held.follow()
        if place is not None and not lost.is_deleted and 0 < step != self._newest():
            self._checkpoints = place
            try:
                self._save()
                self._settle(last=True)
            except (NotSaved, TrainingFailed) as error:
                failure = str(error)
        return way_on(held, lost, self._newest(), step, failure)

    def _newest(self) -> int | None:
        """The step of the last checkpoint that this process committed, or that it continued from."""
        known = self._last_good is not None and directory.NAME.fullmatch(self._last_good.name)
        return directory.step_of(self._last_good) if self._last_good is not None and known else None

    def _settle(self, *, last: bool) -> None:
        """Wait for the save in flight and handle its outcome. ``last``: no later save can replace this one."""
        if self._in_flight is None:
            return
        step, future = self._in_flight
        self._in_flight = None
        began = time.monotonic()
        error = future.exception()
        waited = time.monotonic() - began
        if waited > WAIT_WORTH_A_LINE and not last:
            self._terminal.line(f"waited {waited:.1f} s for {directory.name_of(step)} to be written")
        self._print_notices()
        if error is None:
            self._failures = 0
            self._terminal.committed(step)
        elif not isinstance(error, OSError):
            raise error
        else:
            self._fence.refuse_if_lost()  # this may be the cause
            self._judge(step, error, last)

    def _judge(self, step: int, error: OSError, last: bool) -> None:
        self._failures += 1
        text = f"{directory.name_of(step)} was not saved: {_reason(error)}; {self._last()}"
        if last or self._stop_at_once or self._failures > FAILURES_TOLERATED:
            count = f" ({self._failures} saves failed in a row)" if self._failures > 1 else ""
            raise NotSaved(f"{text}{count}\nmake the disk writable and resume the run from there") from error
        self._terminal.warn(f"{text}; training continues, and the next save is made at its time")

    def last_good(self) -> str:
        """Text that names the newest checkpoint of this run that is known to be whole. Waits for a save in flight."""
        self.wait()
        return self._last()

    def wait(self) -> None:
        """Wait for a save in flight, whatever becomes of it."""
        in_flight = self._in_flight
        if in_flight is not None:
            wait([in_flight[1]])

    def way_back(self) -> str:
        """Text for a run that ends without the steps since the last save, at once; a save in flight does not count."""
        return f"{self._last()}\n{self.to_continue()}"

    def way_on(self) -> str:
        """Text for a run that ends with everything committed and can continue once the user has acted."""
        return f"{self._last()}\nthen continue with: {self._command()}"

    def to_continue(self) -> str:
        """Text for a run that ends with everything committed and can continue at once."""
        return f"to continue:\n  {self._command()}"

    def _command(self) -> str:
        held = holding.of(self._run_dir)
        return resume_command(self._run_dir if held is None else held.name)  # the user's name for it

    def _last(self) -> str:
        return newest_good(self._last_good, self._history.validations)

    def _print_notices(self) -> None:
        for notices in (
            self._notices,
            self._history.notices,
            *([self._mirror.notices] if self._mirror is not None else []),
        ):
            while not notices.empty():
                self._terminal.warn(notices.get())

    # Everything below runs in the background thread.

    def _commit(self, moment: Moment) -> None:
        with WRITES.doing(lambda: f"saving {directory.name_of(moment.step)}"):
            self._write(moment)

    def _write(self, moment: Moment) -> None:
        self._fence.look_now()
        self._history.sync()
        try:
            path = directory.commit(
                self._checkpoints,
                moment.step,
                lambda place: self._fill(place, moment),
                lambda digests, sizes: self._describe(moment, digests, sizes),
                self._fence,
                again=self._last_good is not None and self._last_good.name == directory.name_of(moment.step),
            )
        except NotFinite as error:
            raise TrainingFailed(
                f"{error.names[0]} and {len(error.names) - 1} more variables are not finite at step {moment.step}; "
                f"nothing was committed; {self._last()}\n"
                "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or resume from an earlier checkpoint"
            ) from error
        self._last_good = path
        try:
            commit_mark.write(self._run_dir, committed=True)
        except OSError as error:
            self._notices.put(f"the mark of a committed checkpoint was not written: {_reason(error)}")
        try:
            retire(self._checkpoints, self._retention, moment.validations, path)
        except OSError as error:
            self._notices.put(f"an old checkpoint was not deleted: {_reason(error)}")
        except Unreadable as error:
            self._notices.put(f"no old checkpoint was deleted: {error}")
        if self._mirror is not None:
            self._mirror.follow(moment.validations)

    def _fill(self, place: Path, moment: Moment) -> None:
        with WRITES.doing(lambda: f"writing the state of {directory.name_of(moment.step)}"):
            self._state_file.write(moment.tensors, place)
        for name, text in self._texts.items():
            (place / name).write_text(text, encoding="utf-8")

    def _describe(self, moment: Moment, digests: dict[str, str], sizes: dict[str, int]) -> Manifest:
        return Manifest(
            format_version=manifest.FORMAT_VERSION,
            step=moment.step,
            examples=moment.examples,
            epoch=moment.examples / self.contents.examples_per_epoch,
            ledger=moment.ledger,
            validation=moment.validations.get(moment.step),
            class_names=self.contents.class_names,
            fingerprints=self._fingerprints,
            versions=dict(self.contents.versions),
            git_commit=program_versions.git_commit(),
            created=program_versions.now(),
            lineage=self.contents.lineage,
            metrics=moment.metrics,
            files=digests,
            sizes=sizes,
        )


def newest_good(newest: Path | None, validations: Mapping[int, Mapping[str, float]]) -> str:
    """Text that names ``newest``, the newest whole checkpoint; or, where its validation was not finite, an earlier one
    without that fault, as far as ``validations`` (step → values) say.
    """
    if newest is None or not _is_doubtful(newest, validations):
        return f"the last good checkpoint is {newest or 'none'}"
    try:
        there = directory.committed(newest.parent)
    except Unreadable:
        there = []
    earlier = [path for path in there if directory.step_of(path) < directory.step_of(newest)]
    good = [path for path in earlier if not _is_doubtful(path, validations)]
    which = str(good[-1]) if good else "none"
    return f"the last checkpoint is {newest}, whose validation is not finite; the last good one is {which}"


def _is_doubtful(checkpoint: Path, validations: Mapping[int, Mapping[str, float]]) -> bool:
    """Whether a checkpoint is whole, but predicts nothing. One that was not validated is not doubted."""
    if not directory.NAME.fullmatch(checkpoint.name):  # continued from a path of the user's own
        return False
    values = validations.get(directory.step_of(checkpoint))
    return values is not None and not counts(values)


def _reason(error: OSError) -> str:
    assert error.errno is not None
    return f"{error.filename}: {error.strerror} ({errno.errorcode[error.errno]})"
