"""A process killed at any call, and power lost after any call: the newest committed checkpoint is what a resume finds.

The calls are recorded from a process that saves with the real code (``saving.py`` under ``interpose.c``); every state
that a crash can leave is computed from them (``disk.py``), written out, and given to the code that a resume runs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from disk import Fate, Trace, trace_of
from interposed import Call, read_trace, run
from manifests_made import describe
from saving import ATTEMPTS, SHAPES, value_of

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.tensors import read_tensor
from trainer.checkpoint.verification import newest_valid, verify
from trainer.errors import NoValidCheckpoint
from trainer.run_directory import commit_mark
from trainer.run_directory.history import keep_readable
from trainer.run_directory.layout import CHECKPOINTS, LOCK, METRICS, TENSORBOARD
from trainer.storage.lease import Fence

SAVING = Path(__file__).parents[1] / "support" / "saving.py"
MODES = ("sync", "async", "copied")  # copied: where a directory cannot be renamed
STATES_IN_CI = 300
DRAWS = 20  # random states for each call, in the whole proof
SET_ASIDE = "back to 3"  # step 4 is there before this remark
DAMAGED_ON_PURPOSE = directory.name_of(6)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    """The calls of a synchronous run, an asynchronous one, and one whose checkpoints are copied and not renamed;
    TensorBoard's files are left out: nothing depends on them.
    """
    place = tmp_path_factory.mktemp("traces")
    run(SAVING, "crash", root=place / "runs", trace=place / "trace")
    calls = read_trace(place / "trace", place / "runs")
    trace = trace_of(calls)
    trace.disk(len(trace), {}).materialise(place / "copy")
    assert tree(place / "copy") == tree(place / "runs"), "a call was not seen, or not understood"
    return {mode: trace_of(list(calls_below(mode, calls))) for mode in MODES}


def calls_below(mode: str, calls: list[Call]) -> Iterator[Call]:
    """The calls of one of the runs, as if its directory were the place that was watched."""
    current = ""
    for call in calls:
        current = call.path.split("/")[0] if call.name != "mark" else current
        if current != mode or (call.path == mode and call.name == "mkdir"):
            continue
        path = call.path if call.name == "mark" else os.path.relpath(call.path, mode)
        if not path.startswith(TENSORBOARD):
            other = os.path.relpath(call.other, mode) if call.other else ""
            yield dataclasses.replace(call, path=path, other=other)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory: thousands of states are written out."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    chosen = parent / f"crashes-{os.getpid()}"
    yield chosen
    shutil.rmtree(chosen, ignore_errors=True)


def tree(place: Path) -> dict[str, bytes | None]:
    paths = sorted(place.rglob("*"))
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in paths}


@dataclasses.dataclass(frozen=True)
class Survivor:
    """What a resume would continue from, and what it would say of the others."""

    path: Path
    manifest: Manifest
    warnings: list[str]


def survivor(run_dir: Path) -> Survivor | None:
    warnings: list[str] = []
    try:
        found = newest_valid(run_dir / CHECKPOINTS, "full", warnings.append)
    except NoValidCheckpoint:
        return None
    return Survivor(found.path, found.manifest, warnings)


def must_survive(trace: Trace, end: int) -> int | None:
    """The step that the process knew to be committed, after the first ``end`` calls."""
    marks = trace.marks(end)
    return int(marks[-1].split()[-1]) if marks else None


@functools.cache
def content(path_digests: tuple[tuple[str, str], ...], path: Path) -> tuple[float, ...]:
    """The first and last value of every variable; checkpoints with the same digests are read once."""
    values = [np.ravel(read_tensor(path, f"model/{name}")) for name in SHAPES]
    return tuple(float(value) for array in values for value in (array.min(), array.max()))


def check(run_dir: Path, trace: Trace, end: int) -> Survivor | None:
    """What holds after every crash: nothing that was committed is lost, nothing half is taken for a checkpoint."""
    floor = must_survive(trace, end)
    found = survivor(run_dir)
    mark = commit_mark.read(run_dir)
    if found is None:
        assert floor is None, f"step {floor} was committed, and nothing is left"
        assert mark is not True, "nothing was committed, and the mark says so: the run could not begin again"
        return None
    assert floor is None or mark is True, f"step {floor} was committed, and the mark does not say so"
    step = found.manifest.step
    assert floor is None or step >= floor, f"step {floor} was committed, but a resume finds step {step}"
    values = content(tuple(sorted(found.manifest.files.items())), found.path)
    assert len(set(values)) == 1, f"step {step} mixes {values}"
    assert values[0] in {value_of(step, attempt) for attempt in range(ATTEMPTS)}, f"step {step} holds {values[0]}"
    assert (run_dir / METRICS).exists(), "the history is lost"
    history = (run_dir / METRICS).read_bytes()[: found.manifest.metrics.size]
    assert hashlib.sha256(history).hexdigest() == found.manifest.metrics.sha256, "the history of the checkpoint is lost"
    for path in directory.committed(run_dir / CHECKPOINTS):
        if path.name != DAMAGED_ON_PURPOSE or floor is None or floor < 5:
            verify(path, "full")
    aside = [path for path in directory.put_away(run_dir / CHECKPOINTS) if path.parent.name == directory.SUPERSEDED]
    for path in aside:
        verify(path, "full")
    if SET_ASIDE in trace.marks(end):
        assert aside or (run_dir / CHECKPOINTS / directory.name_of(4)).is_dir(), "what was set aside is lost"
    return found


@pytest.mark.parametrize("mode", MODES)
def test_killed_before_or_after_any_call_a_resume_finds_the_newest_checkpoint_and_leaves_nothing(
    mode: str, traces: dict[str, Trace], place: Path
) -> None:
    trace = traces[mode]
    calls = [end for end in range(1, len(trace) + 1) if trace.operations[end - 1].call.name != "mark"]
    for end in calls:
        trace.disk(end, {}).materialise(place)
        found = check(place, trace, end)
        checkpoints = place / CHECKPOINTS
        named = [path for path in directory.committed(checkpoints) if found is None or path != found.path]
        if found is not None:
            on_purpose = [path for path in named if path.name == DAMAGED_ON_PURPOSE]
            assert [path for path in named if path > found.path] == (on_purpose if found.warnings else [])
            said: list[str] = []
            keep_readable(place, found.manifest.metrics, said.append)
            assert said == []
        directory.remove_leftovers(checkpoints)
        if checkpoints.is_dir():
            assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".")] == []
        step = 99
        fence = Fence(place / LOCK)
        directory.commit(checkpoints, step, lambda place: (place / "data").write_bytes(b"x"), describe(step), fence)
        again = survivor(place)
        assert again is not None
        assert again.manifest.step == step
        shutil.rmtree(place)
    assert len(calls) > 200


def power_loss_states(trace: Trace, draws: int) -> Iterator[tuple[int, dict[int, Fate]]]:
    for end in range(1, len(trace) + 1):
        for fates in trace.after_power_loss(end, draws, seed=0):
            yield end, fates


def check_power_loss(trace: Trace, states: list[tuple[int, dict[int, Fate]]], place: Path) -> None:
    for end, fates in states:
        trace.disk(end, fates).materialise(place)
        try:
            check(place, trace, end)
        except (AssertionError, NoValidCheckpoint) as error:
            last = trace.operations[end - 1].call
            lost = {index: (fate, trace.operations[index].call.name, trace.operations[index].call.path)
                    for index, fate in fates.items() if fate != "kept"}  # fmt: skip
            raise AssertionError(f"power lost after call {end} ({last.name} {last.path}), {lost}: {error}") from error
        shutil.rmtree(place)


@pytest.mark.parametrize("mode", MODES)
def test_when_power_fails_nothing_committed_is_lost(mode: str, traces: dict[str, Trace], place: Path) -> None:
    states = list(power_loss_states(traces[mode], draws=1))
    check_power_loss(traces[mode], random.Random(0).sample(states, STATES_IN_CI // 2), place)


def is_file_of_a_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/{directory.UNFINISHED}") and path.count("/") == 2


def is_file_of_a_copy(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/{directory.SUPERSEDED}/{directory.UNFINISHED}") and path.count("/") == 3


def is_directory_of_a_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/{directory.UNFINISHED}") and path.count("/") == 1


NEEDED: dict[str, Callable[[str], bool]] = {
    "files of a checkpoint": is_file_of_a_checkpoint,
    "the directory of a checkpoint": is_directory_of_a_checkpoint,
    "the directory of all checkpoints": lambda path: path == CHECKPOINTS,
    "the run directory": lambda path: path == ".",
    "the history": lambda path: path == METRICS,
    "files of a copy": is_file_of_a_copy,
    "the directory of copies": lambda path: path == f"{CHECKPOINTS}/{directory.SUPERSEDED}",
}


@pytest.mark.parametrize("name", NEEDED)
def test_without_any_one_kind_of_fsync_something_would_be_lost(
    name: str, traces: dict[str, Trace], place: Path
) -> None:
    """The proof can fail: taken out of the recorded calls, every kind of fsync is missed."""
    trace = traces["copied" if "cop" in name else "sync"]
    kept = [each for each in trace.operations if each.call.name != "fsync" or not NEEDED[name](each.call.path)]
    assert len(kept) < len(trace)
    weaker = dataclasses.replace(trace, operations=tuple(kept))
    states = list(power_loss_states(weaker, draws=1))
    random.Random(0).shuffle(states)
    with pytest.raises(AssertionError, match="power lost after call"):
        check_power_loss(weaker, states, place)


@pytest.mark.torture
@pytest.mark.parametrize("mode", MODES)
def test_ten_thousand_power_failures(mode: str, traces: dict[str, Trace], place: Path) -> None:
    states = list(itertools.islice(power_loss_states(traces[mode], DRAWS), None))
    print(f"{mode}: {len(traces[mode])} calls, {len(states)} states")
    assert len(states) >= 5_000
    check_power_loss(traces[mode], states, place)
