"""A process that makes checkpoints as a run does, of a state of a few small variables.

Everything but the network is the real thing: history, committer, state file, retention, and what a resume moves away.

    saving.py PLACE crash        in PLACE/sync, PLACE/async and PLACE/copied: four saves, a resume from the third, three
                                 more saves, a resume from the second of these because the last is damaged, two more
                                 saves; in PLACE/copied no checkpoint can be renamed
    saving.py PLACE fail STEP    a save for every call it makes and every error of the disk, in steps of STEP calls

The value of every variable is a function of the step and of the attempt at it, so a reader can tell whether a
checkpoint holds what was there when it was made.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from trainer.checkpoint import directory
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.tensors import StateFile
from trainer.checkpoint.verification import newest_valid
from trainer.config.compose import compose
from trainer.errors import NotSaved
from trainer.fingerprint.facts import Fact
from trainer.monitoring.terminal import Terminal
from trainer.run.checkpointer import Committer, Description
from trainer.run_directory.history import History
from trainer.run_directory.layout import CHECKPOINTS, LOG
from trainer.run_directory.metrics import TRAIN, VALIDATION, Record
from trainer.training.state import Progress, flatten

FAULTS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)
LAST_CALL = 10**6
SAVED, WARNED, RAISED = "saved", "warned", "raised"
ATTEMPTS = 10  # values of different attempts at a step differ by one, of different steps by at least ten
SHAPES = {"kernel": (3, 3, 8, 16), "bias": (16,), "scalar": ()}


def value_of(step: int, attempt: int) -> float:
    return float(step * ATTEMPTS + attempt)


class Run:
    """One process's part of a run: it begins at ``step`` with what is in the directory."""

    def __init__(self, run_dir: Path, step: int, attempt: int, asynchronous: bool, keep_last: int = 2) -> None:
        overrides = ["checkpoint.every_steps=1", f"checkpoint.async_save={str(asynchronous).lower()}"]
        self._attempt = attempt
        self._variables = {name: tf.Variable(tf.zeros(shape)) for name, shape in SHAPES.items()}
        self._progress = Progress(loss_scale=1.0)
        tree = {"model": dict(self._variables), "progress": self._progress.tree()}
        self._history = History(run_dir, step)
        self._terminal = Terminal(run_dir / LOG, step, 10)
        self.warnings: list[str] = []
        self._terminal.warn = self.warnings.append  # type: ignore[method-assign]
        self.committer = Committer(
            checkpoints=run_dir / CHECKPOINTS,
            description=Description(
                compose(overrides), [Fact("data", "here", "count", 3, (), "x.py")], ("a",), 8, {}, ()
            ),
            progress=self._progress,
            state_file=StateFile(tree, flatten(tree)),
            history=self._history,
            terminal=self._terminal,
            retention=Retention(keep_last, 1, None, "accuracy"),
            mirror=None,
            last_good=None,
            when_finished=lambda: None,
        )

    def step(self, step: int) -> None:
        """Change every variable, as a step of training does, and record it."""
        for variable in self._variables.values():
            variable.assign(tf.fill(variable.shape, value_of(step, self._attempt)))
        self._progress.step.assign(step)
        self._progress.examples.assign(step * 8)
        self._history.add(Record(step, TRAIN, {"loss": 1.0 / step}, {"closing": False}))
        validation = {"loss": 1.0 / step, "accuracy": 0.5 + 0.01 * step, "skipped": 0}
        self._history.add(Record(step, VALIDATION, validation, {"closing": False}))

    def close(self) -> None:
        self.committer.close()
        self._history.close()
        self._terminal.close()


@contextlib.contextmanager
def no_renames_of_checkpoints() -> Iterator[None]:
    """As on an overlay, for directories of a lower layer: the error is that of the system call."""
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if directory.NAME.fullmatch(self.name):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(target))
        return rename(self, target)

    Path.rename = refusing  # type: ignore[method-assign]
    try:
        yield
    finally:
        Path.rename = rename  # type: ignore[method-assign]


def save_and_resume(run_dir: Path, asynchronous: bool, mark: ctypes._NamedFuncPointer) -> None:
    """Marks ``committed N`` once step N must survive anything, ``back to N`` before later steps are moved away."""

    def steps(run: Run, numbers: range) -> None:
        for step in numbers:
            run.step(step)
            run.committer.save()
            # an asynchronous save is known to be committed when the next one has begun
            known = step - 1 if asynchronous and step > numbers[0] else None if asynchronous else step
            if known is not None:
                mark(f"committed {known}".encode())
        run.committer.finish()
        mark(f"committed {numbers[-1]}".encode())
        run.close()

    checkpoints = run_dir / CHECKPOINTS
    steps(Run(run_dir, 0, 0, asynchronous), range(1, 5))
    mark(b"back to 3")
    directory.remove_leftovers(checkpoints)
    directory.set_aside([path for path in directory.committed(checkpoints) if directory.step_of(path) > 3])
    steps(Run(run_dir, 3, 1, asynchronous), range(4, 7))
    mark(b"back to 5")
    with (directory.committed(checkpoints)[-1] / "config.yaml").open("a") as file:
        file.write("# damage\n")
    found = newest_valid(checkpoints, "full", lambda text: None)
    directory.quarantine(found.damaged[0].path, found.damaged[0].reason)
    steps(Run(run_dir, 5, 2, asynchronous), range(6, 8))


@dataclasses.dataclass(frozen=True)
class Fault:
    """A save during which calls failed: the first of them, until when, the error, and how the save ended."""

    call: int
    persistent: bool
    error: str
    asynchronous: bool
    outcome: str


def inject(run_dir: Path, stride: int, library: ctypes.CDLL) -> list[Fault]:
    """Let every ``stride``-th call of a save fail, with every error, alone and with all that follow.

    Each time the checkpoint before must stay the newest valid one, or the new one be whole and said to be saved; and
    once the disk works again, the next save of the same process must succeed.
    """
    faults = []
    library.interpose_fail.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_int)
    library.interpose_calls.restype = ctypes.c_long
    for asynchronous in (False, True):
        run = Run(run_dir, 0, 0, asynchronous)
        step = save(run, 1)
        for error in FAULTS:
            for persistent in (False, True):
                before = library.interpose_calls()
                step = save(run, step)
                calls = library.interpose_calls() - before
                for call in range(1 + len(faults) % stride, calls + 1, stride):
                    last = LAST_CALL if persistent else call
                    library.interpose_fail(call, last, error)
                    outcome = attempt(run, step)
                    library.interpose_fail(0, 0, 0)
                    newest = newest_step(run_dir)
                    expected = (step,) if outcome == SAVED else (step - 1, step)
                    assert newest in expected, (call, persistent, errno.errorcode[error], outcome, newest, step)
                    faults.append(Fault(call, persistent, errno.errorcode[error], asynchronous, outcome))
                    step = save(run, step + 1)
        run.close()
        directory.remove_leftovers(run_dir / CHECKPOINTS)
        left = [path.name for path in (run_dir / CHECKPOINTS).iterdir() if path.name.startswith(".")]
        assert left == [], left
        shutil.rmtree(run_dir)
        run_dir.mkdir()
    return faults


def attempt(run: Run, step: int) -> str:
    """Save one step; how it ended. An error is raised, or a warning that the run goes on without this checkpoint."""
    run.step(step)
    run.warnings.clear()
    try:
        run.committer.save()
        run.committer.finish()
    except NotSaved:
        return RAISED
    return WARNED if any("was not saved" in warning for warning in run.warnings) else SAVED


def save(run: Run, step: int) -> int:
    """Save ``step`` on a disk that works; returns the next step."""
    outcome = attempt(run, step)
    assert outcome == SAVED, (step, outcome)
    return step + 1


def newest_step(run_dir: Path) -> int:
    return directory.step_of(newest_valid(run_dir / CHECKPOINTS, "full", lambda text: None).path)


def main() -> None:
    place, what = Path(sys.argv[1]), sys.argv[2]
    library = ctypes.CDLL(None)
    if what == "fail":
        run_dir = place / "run"
        run_dir.mkdir(parents=True)
        faults = inject(run_dir, int(sys.argv[3]), library)
        print("\n" + json.dumps([dataclasses.asdict(fault) for fault in faults]))
    else:
        for name in ("sync", "async", "copied"):
            (place / name).mkdir(parents=True)
            with no_renames_of_checkpoints() if name == "copied" else contextlib.nullcontext():
                save_and_resume(place / name, name == "async", library.interpose_mark)


if __name__ == "__main__":
    main()
