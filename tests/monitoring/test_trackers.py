"""What a tracker is told of a run: all that is committed, once, and nothing that could be taken back."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from composing import compose
from tracked_runs import MemoryTracker, Series, Server, TrackedDirectory, wanted

from trainer.checkpoint.manifest import Start
from trainer.commands import track
from trainer.config.contracts import How, Point
from trainer.config.schema.tracking import TrackingConfig
from trainer.errors import UsageError
from trainer.monitoring.trackers import committed, ending, facts, feed, noted, registry
from trainer.monitoring.trackers.feed import Feed

NAME = "memory"
CONFIG = TrackingConfig((NAME,), True, None, 1.0)


class Killed(BaseException):
    """The process ends here: nothing more of it runs."""


def nothing(event: str) -> None:
    pass


class Telling:
    """The processes that tell one server of one run directory, one after the other."""

    def __init__(self, directory: TrackedDirectory, buffers: bool = False, server: Server | None = None) -> None:
        self.directory, self.buffers = directory, buffers
        self.server = Server() if server is None else server
        self.before: Callable[[str], None] = nothing
        self.begin()

    def begin(self, sweep: str | None = None) -> None:
        """Another process."""
        make = lambda: MemoryTracker(self.server, self.buffers, self.before)  # noqa: E731
        self.feed = Feed(self.directory.path, NAME, make, sweep)

    def bring(self) -> None:
        found = committed.newest(self.directory.path, finished=False)
        assert found is not None
        self.feed.bring(found)

    def finish(self, how: How = "finished") -> None:
        found = committed.newest(self.directory.path, finished=how == "finished")
        assert found is not None
        self.feed.finish(found, how, CONFIG)

    @property
    def note(self) -> noted.Noted:
        found = noted.read(self.directory.path, NAME)
        assert found is not None
        return found

    @property
    def series(self) -> Series:
        return self.server.series(self.note.key)


@pytest.fixture
def directory(tmp_path: Path) -> TrackedDirectory:
    return TrackedDirectory(tmp_path / "run")


def test_records_are_sent_when_they_are_committed_and_no_sooner(directory: TrackedDirectory) -> None:
    telling = Telling(directory)
    directory.record(2)
    directory.commit(2)
    there = wanted(directory.path / "metrics.jsonl")
    directory.record(4)
    telling.bring()
    assert telling.series == there
    directory.record(4, "val", loss=float("nan"))
    directory.commit(4)
    telling.bring()
    assert telling.series == wanted(directory.path / "metrics.jsonl")
    run = telling.server.runs[telling.note.key]
    assert run.params["seed"] == "2"
    assert run.tags["trainer.digest.config.model"] == "1" * 64
    telling.begin("grid")
    telling.finish()
    run = telling.server.runs[telling.note.key]
    assert (run.name, run.group, run.tags["trainer.sweep"], run.params["seed"]) == ("grid/run", "grid", "grid", "4")
    assert telling.server.ended == {run.key: "finished"}
    telling.finish()
    assert telling.server.uploads == ["step-00000004"]


@pytest.mark.parametrize("buffers", [False, True])
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    buffers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(facts.stored, "read", lambda path: compose("experiment=digits"))  # or YAML takes the time
    moments: list[str] = []

    def life(telling: Telling, at: int) -> None:
        """A process that is killed at its moment number ``at``, if it comes to it."""
        passed = 0

        def before(event: str) -> None:
            nonlocal passed
            moments.append(event)
            if passed == at:
                raise Killed
            passed += 1

        def write(run_dir: Path, name: str, note: noted.Noted) -> None:
            before("write")
            really_write(run_dir, name, note)
            before("written")

        telling.before = before
        with monkeypatch.context() as patch:
            patch.setattr(noted, "write", write)
            telling.begin()
            telling.bring()
            telling.finish("stopped")

    really_write = noted.write
    kill = 0
    while True:
        directory = TrackedDirectory(tmp_path / f"run-{kill}")
        telling = Telling(directory, buffers)
        for step in (1, 2, 3):
            directory.record(step)
        directory.commit(3)
        before = len(moments)
        try:
            life(telling, kill)
        except Killed:
            pass
        else:
            break
        directory.record(4)  # and the next life is at a later commit
        directory.commit(4)
        life(telling, -1)
        assert telling.series == wanted(directory.path / "metrics.jsonl"), moments[before:]
        assert len(telling.server.runs) == 1
        kill += 1
    assert kill > 15
    assert {"open", "opened", "send", "sent", "write", "written", "close", "closed"} <= set(moments)


def test_a_run_that_goes_back_behind_what_was_sent_goes_on_in_a_run_of_its_own(directory: TrackedDirectory) -> None:
    telling = Telling(directory)
    for step in (2, 4, 6):
        directory.record(step)
        directory.commit(step)
    telling.bring()
    first, there = telling.note, telling.series
    directory.cut(2)
    directory.record(4, loss=9.0)
    directory.record(6, loss=9.0)
    directory.commit(6)
    telling.begin()
    telling.bring()
    assert telling.note.key != first.key
    assert telling.server.series(first.key) == there
    assert telling.series == wanted(directory.path / "metrics.jsonl")
    assert telling.server.runs[telling.note.key].parent == first.id


def test_a_copied_directory_gets_a_run_of_its_own_and_a_moved_one_keeps_its_run(
    directory: TrackedDirectory, tmp_path: Path
) -> None:
    telling = Telling(directory)
    directory.record(2)
    directory.commit(2)
    telling.bring()
    copy = TrackedDirectory(tmp_path / "copy")
    shutil.copytree(directory.path, copy.path)
    other = Telling(copy, server=telling.server)
    other.bring()
    assert other.note.key != telling.note.key
    assert telling.server.runs[other.note.key].parent == telling.note.id
    assert other.series == telling.series
    key = telling.note.key
    directory.path = directory.path.rename(tmp_path / "moved")
    telling.begin()
    telling.bring()
    assert telling.note.key == key
    assert telling.note.path == str(directory.path)


def test_a_run_that_began_from_a_checkpoint_of_another_names_the_run_of_that(
    directory: TrackedDirectory, tmp_path: Path
) -> None:
    telling = Telling(directory)
    directory.record(2)
    directory.commit(2)
    telling.bring()
    came_from = str(directory.path / "checkpoints" / "step-00000002")
    branch = TrackedDirectory(tmp_path / "branch", (Start("2026-11-30", "here", 2, came_from, ()),))
    branch.record(4)
    branch.commit(4)
    other = Telling(branch)
    other.bring()
    assert other.server.runs[other.note.key].parent == telling.note.id


def test_a_closing_validation_behind_the_last_commit_is_sent_when_the_run_has_ended(
    directory: TrackedDirectory,
) -> None:
    telling = Telling(directory)
    directory.record(3)
    directory.commit(3)
    directory.record(3, "val", closing=True)
    telling.bring()
    assert {name for _, name, _ in telling.series} == {"train/loss", "train/accuracy", "train/skipped"}
    telling.finish()
    key = telling.note.key
    assert telling.series == wanted(directory.path / "metrics.jsonl")
    telling.begin()  # the run goes on
    directory.record(6)
    telling.bring()
    directory.commit(6)
    telling.bring()
    assert telling.note.key == key
    assert telling.series == wanted(directory.path / "metrics.jsonl")


def test_a_history_that_is_not_that_of_the_checkpoint_is_not_sent(directory: TrackedDirectory) -> None:
    directory.record(2)
    directory.commit(2)
    text = (directory.path / "metrics.jsonl").read_text()
    (directory.path / "metrics.jsonl").write_text(text.replace("0.2", "0.3"))
    telling = Telling(directory)
    with pytest.raises(UsageError, match=r"does not begin with the .* bytes that step-00000002 stands for"):
        telling.bring()
    assert telling.server.points == {}


def test_after_an_error_of_the_tracker_the_next_pass_sends_what_is_missing(directory: TrackedDirectory) -> None:
    telling = Telling(directory)
    directory.record(2)
    directory.record(3)
    directory.commit(3)
    broken = iter([OSError("no server"), None])

    class Broken(MemoryTracker):
        def send(self, points: Sequence[Point]) -> bool:
            super().send(points[:1])
            error = next(broken)
            if error is not None:
                raise error
            return super().send(points)

    telling.feed = Feed(directory.path, NAME, lambda: Broken(telling.server, False, nothing), None)
    with pytest.raises(OSError, match="no server"):
        telling.bring()
    telling.bring()
    assert telling.series == wanted(directory.path / "metrics.jsonl")


def test_a_tracker_that_cannot_be_used_is_refused_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"has mlfow, which no installed plug-in has; .*; did you mean mlflow\?"):
        registry.refuse_unusable(["mlfow"])
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"(?s)has wandb, whose package.*pip install 'resumable-trainer\[wandb\]'"):
        registry.refuse_unusable(["wandb"])
    with pytest.raises(UsageError, match="makes a version of a model in MLflow's registry"):
        registry.refuse_unregistered(dataclasses.replace(CONFIG, trackers=("wandb",), register="digits"))


def test_a_trial_is_told_with_its_sweep(tmp_path: Path) -> None:
    run_dir = tmp_path / "grid" / "seed" / "1"
    run_dir.mkdir(parents=True)
    assert track._sweep(run_dir) is None
    (tmp_path / "grid" / "sweep.yaml").touch()
    assert track._sweep(run_dir) == "grid"


def test_how_a_run_has_ended_is_read_as_it_was_written_and_anything_else_is_unknown(tmp_path: Path) -> None:
    assert ending.read(tmp_path) is None
    ending.write(tmp_path, "stopped")
    assert ending.read(tmp_path) == "stopped"
    (tmp_path / "tracking" / "ended.json").write_text(json.dumps({"how": ["finished"]}))
    assert ending.read(tmp_path) is None
    ending.remove(tmp_path)
    ending.remove(tmp_path)
    assert facts.branched_off(tmp_path, NAME, committed_of(tmp_path).manifest) is None


def committed_of(place: Path) -> committed.Committed:
    directory = TrackedDirectory(place)
    directory.record(1)
    directory.commit(1)
    found = committed.newest(place, finished=False)
    assert found is not None
    return found
