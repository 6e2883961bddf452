"""What is judged about places before anything is written: overlaps, checkpoints, lost histories, strangers."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import writing
from fsspec.implementations.memory import MemoryFileSystem

from trainer.__main__ import run
from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Start
from trainer.checkpoint.retention import Retention
from trainer.config import stored
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run import overlaps
from trainer.run_directory import commit_mark, layout, lock, occupancy, places, which_checkpoint
from trainer.run_directory import mirror as mirrors
from trainer.run_directory.mirror import Mirror
from trainer.run_directory.mirror_place import OWNER, Place
from trainer.storage import lease
from trainer.sweeps import plan, running

TEXT = stored.to_text(compose([]))
RECORD = '{"step": 40, "split": "train", "loss": 1.0}\n'
START = Start("2026-01-01T00:00:00.000001+00:00", "host", 0, None, ())
OTHER = dataclasses.replace(START, started="2026-01-01T00:00:00.000002+00:00")
KEEP_ONE = Retention(1, 0, None, "accuracy")


def checkpoint(run_dir: Path, step: int, start: Start | None = START) -> Path:
    """A whole checkpoint without tensors."""

    def fill(place: Path) -> None:
        (place / stored.FILE_NAME).write_text(TEXT)
        (place / "state.index").write_bytes(b"index")

    def describe(files: dict[str, str], sizes: dict[str, int]) -> Any:
        lineage = () if start is None else (start,)
        return dataclasses.replace(writing.describe(step, files, sizes), lineage=lineage)

    run_dir.mkdir(parents=True, exist_ok=True)
    fence = lease.Fence(run_dir / layout.LOCK)
    return directory.commit(run_dir / layout.CHECKPOINTS, step, fill, describe, fence)


def made(run_dir: Path, *steps: int) -> Path:
    """A run directory as a run leaves it."""
    for step in steps:
        checkpoint(run_dir, step)
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run_dir / stored.FILE_NAME).write_text(TEXT)
    (run_dir / layout.METRICS).write_text(RECORD)
    (run_dir / layout.LOG).write_text("step 40\n")
    (run_dir / "tensorboard" / "train").mkdir(parents=True)
    (run_dir / "tensorboard" / "train" / "events.out.tfevents.1").write_bytes(b"events")
    commit_mark.write(run_dir, committed=bool(steps))
    return run_dir


def content(place: Path) -> dict[str, bytes | None]:
    found = sorted(place.rglob("*"))
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in found}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return made(tmp_path / "outputs" / "mine", 2, 4)


def mounted(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    if os.geteuid() or subprocess.run(["mount", "--bind", source, target], capture_output=True, check=False).returncode:
        pytest.skip("a bind mount takes the right to mount")


# One place by two paths


def test_a_place_is_found_in_another_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert places.within(tmp_path / "a" / "b", tmp_path / "a")
    assert places.within(tmp_path / "link" / "b" / "not there yet", tmp_path / "a")
    assert places.within(tmp_path / "a" / "b", tmp_path / "link")
    assert places.within(tmp_path / "a" / "x" / ".." / "b", tmp_path / "a" / "b")
    assert places.within(tmp_path / "new" / "x", tmp_path / "new"), "neither is there"
    assert not places.within(tmp_path / "a", tmp_path / "a" / "b")
    assert not places.within(tmp_path / "ab", tmp_path / "a")


def test_a_bind_mount_is_the_place_it_shows(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    mounted(tmp_path / "a", tmp_path / "mount")
    try:
        assert places.within(tmp_path / "mount" / "b" / "new", tmp_path / "a")
        assert places.within(tmp_path / "a", tmp_path / "mount")
        assert not places.within(tmp_path / "mount", tmp_path / "a" / "b")
    finally:
        subprocess.run(["umount", tmp_path / "mount"], check=True)


# Nothing is written below a checkpoint

STEP = "checkpoints/step-00000004"
NEW = "resume run_dir={run}-continued checkpoint={run}/checkpoints/"
BELOW = {
    "the checkpoint": (STEP, "is a checkpoint of the run {run}", "resume run_dir={run} checkpoint=step-4"),
    "below it": (f"{STEP}/x/y", "lies in the checkpoint {run}/" + STEP, "resume run_dir={run} checkpoint=step-4"),
    "checkpoints/": ("checkpoints", "is the place for the checkpoints of the run {run}", "resume run_dir={run}"),
    "in checkpoints/": ("checkpoints/new", "lies in the place for the checkpoints", "resume run_dir={run}"),
    "quarantine/": ("checkpoints/quarantine", "is the place for the checkpoints of the run {run}", "run_dir={run}"),
    "one in quarantine": ("checkpoints/quarantine/step-00000002", "is a checkpoint of the run {run}", NEW),
    "one set aside": ("checkpoints/superseded/step-00000001", "is a checkpoint of the run {run}", NEW),
}


@pytest.mark.parametrize("case", BELOW)
@pytest.mark.parametrize("linked", [False, True])
def test_a_run_dir_in_a_checkpoint_is_refused_and_not_even_locked(case: str, linked: bool, run_dir: Path) -> None:
    checkpoint(run_dir, 1)
    directory.set_aside([run_dir / "checkpoints" / "step-00000001"])
    directory.quarantine(run_dir / "checkpoints" / "step-00000002", "damaged")
    below, what, command = BELOW[case]
    link = run_dir.parent.parent / "link"
    link.symlink_to(run_dir / below)
    before = content(run_dir)
    place = link if linked else run_dir / below
    for judge in (lambda: overlaps.refuse(place, compose([]), None), lambda: occupancy.refuse_foreign(place)):
        with pytest.raises(UsageError, match=r"nothing (else )?is written there"):
            judge()
    with pytest.raises(UsageError) as refused, lock.writing(place):
        pass
    assert what.format(run=run_dir) in str(refused.value)
    assert f"python -m trainer resume {command.format(run=run_dir).removeprefix('resume ')}" in str(refused.value)
    assert content(run_dir) == before


READ = {
    STEP: "is a checkpoint of the run {run}, and not a run; name it as run_dir={run} checkpoint=step-4",
    "checkpoints": "is the place for the checkpoints of the run {run}, and not the run; name it as run_dir={run}",
}


@pytest.mark.parametrize("below", READ)
def test_a_checkpoint_that_is_read_as_a_run_is_named_with_its_run(below: str, run_dir: Path) -> None:
    for name in ("latest", "best"):
        with pytest.raises(UsageError) as refused:
            which_checkpoint.find(run_dir / below, name, "full", print)
        assert str(refused.value) == f"run_dir={run_dir / below} {READ[below].format(run=run_dir)}"


def test_a_directory_of_runs_that_is_read_as_a_run_names_one(run_dir: Path) -> None:
    with pytest.raises(UsageError, match=f"is not a run, but has 1 in it; name one, such as run_dir={run_dir}$"):
        which_checkpoint.find(run_dir.parent, "latest", "full", print)


def test_a_resume_of_what_is_no_run_names_the_runs_in_it(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"is not a run; .*\n.*\n  python -m trainer resume run_dir={run_dir}$"):
        occupancy.refuse_foreign(run_dir.parent, continued=True)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").touch()
    with pytest.raises(UsageError, match="is not a run; there are cat/\nname the directory of a run"):
        occupancy.refuse_foreign(tmp_path / "photos", continued=True)


def test_a_checkpoint_that_was_copied_away_is_one_still(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / STEP).rename(tmp_path / "best")
    with pytest.raises(UsageError, match="best is a checkpoint; nothing is written there"):
        places.refuse_in_checkpoint(tmp_path / "best", "run_dir=best")


@pytest.mark.parametrize("place", ["checkpoints/mine", "checkpoints", "step-00000004", "quarantine/a", "outputs/mine"])
def test_names_alone_make_no_checkpoint(place: str, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    places.refuse_in_checkpoint(tmp_path / place, "run_dir=…")


WRITERS: dict[str, Callable[[Path], list[str]]] = {
    "report": lambda place: ["report", f"run_dir={place.parent.parent}", f"output={place}/page.html"],
    "report of a checkpoint": lambda place: ["report", f"run_dir={place}"],
    "report over the configuration": lambda place: [
        "report",
        f"run_dir={place.parent.parent}",
        f"output={place.parent.parent}/config.yaml",
    ],
    "export": lambda place: [
        "export",
        f"run_dir={place.parent.parent}",
        "format=keras",
        f"output={place}/model.keras",
    ],
    "export beside checkpoints": lambda place: [
        "export",
        f"run_dir={place.parent.parent}",
        "format=savedmodel",
        f"output={place.parent}/served",
    ],
    "check-data": lambda place: ["check-data", "data=digits", f"report={place}/manifest.json"],
    "prepare-data": lambda place: ["prepare-data", "data=digits", f"output={place}"],
    "check-data over metrics": lambda place: ["check-data", "data=digits", f"report={place.parents[1]}/metrics.jsonl"],
    "a fetch": lambda place: ["resume", f"run_dir=file://{place.parents[2]}/far", f"into={place}"],
    "a sweep": lambda place: ["train", "--multirun", "seed=1,2", f"hydra.sweep.dir={place}/sweep"],
    "a sweep in a run": lambda place: ["train", "--multirun", "seed=1,2", f"hydra.sweep.dir={place.parents[1]}/sweep"],
}


@pytest.mark.parametrize("writer", WRITERS)
def test_no_command_writes_below_a_checkpoint_or_over_the_files_of_a_run(
    writer: str, run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "run", lambda *sweep: 0)  # no trial, should a sweep get so far
    checkpoint(run_dir.parent / "far", 2)
    (run_dir.parent / "far" / stored.FILE_NAME).write_text(TEXT)
    before = content(run_dir)
    assert run(WRITERS[writer](run_dir / STEP)) == UsageError.exit_status
    error = capsys.readouterr().err
    assert str(run_dir) in error
    assert content(run_dir) == before


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("train data=digits train.steps=1", "run_dir=s3://bucket/run"),
        ("train --multirun data=digits train.steps=1 seed=1,2", "hydra.sweep.dir=GS://bucket/runs"),
        ("find-lr data=digits", "output=s3://bucket/curve.html"),
        ("check-data data=digits", "report=https://host/report.txt"),
        ("prepare-data data=digits", "output=s3://bucket/data"),
        ("predict run_dir=RUN images=RUN", "output=s3://bucket/predictions.csv"),
        ("export run_dir=RUN format=savedmodel", "output=s3://bucket/model"),
        ("report run_dir=RUN", "output=s3://bucket/report.html"),
    ],
)
def test_a_url_is_no_directory_of_that_name(
    command: str,
    given: str,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint(run_dir, 10)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run([*command.replace("RUN", str(run_dir)).split(), given]) == UsageError.exit_status
    assert f"error: {given.replace('//', '/')} is a URL, and must be a path of this machine" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_in_a_directory_that_is_called_like_a_url_goes_on(tmp_path: Path) -> None:
    there = made(tmp_path / "s3:" / "bucket" / "run", 10)
    places.refuse_in_checkpoint(there, "run_dir=…")
    with pytest.raises(UsageError, match="is a URL"):
        places.refuse_in_checkpoint(there.with_name("other"), "run_dir=…")


def test_a_report_in_the_run_and_an_export_beside_it_are_fine(run_dir: Path) -> None:
    for path in (run_dir / "report.html", run_dir / "model.keras", run_dir.parent / "mine.keras"):
        places.refuse_output(path, f"output={path}")


@pytest.mark.parametrize("command", ["report", "find-lr"])
def test_a_page_takes_the_place_of_no_device_pipe_or_link(
    command: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that root gave ``output=/dev/null`` put a file there, for all programs of the machine."""
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    target.write_text("kept")
    link.symlink_to(target)
    for place, what in ((pipe, "a device, a pipe or a socket"), (link, "a link")):
        assert run([command, f"run_dir={run_dir}", f"output={place}"]) == UsageError.exit_status
        assert f"output={place} is {what}, and would be replaced by a file" in capsys.readouterr().err
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert target.read_text() == "kept"


# Overlaps


def mirrored(place: object, *more: str) -> Config:
    config = compose(list(more))
    return dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, mirror=str(place)))


@pytest.mark.parametrize(
    ("mirror", "how"),
    [
        ("{run}", "is the run directory"),
        ("file://{run}", "is the run directory"),
        ("local://{run}", "is the run directory"),
        ("{link}", "is the run directory"),
        ("{run}/../mine/.", "is the run directory"),
        ("{run}/mirror", "lies in the run directory"),
        ("{link}/checkpoints/mirror", "lies in the run directory"),
        ("{run}/..", "contains the run directory"),
    ],
)
@pytest.mark.parametrize("steps", [(), (2, 4)])
def test_a_mirror_that_overlaps_the_run_is_refused(
    mirror: str, how: str, steps: tuple[int, ...], tmp_path: Path
) -> None:
    run_dir, link = tmp_path / "outputs" / "mine", tmp_path / "link"
    link.symlink_to(run_dir)
    if steps:
        made(run_dir, *steps)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=how) as refused:
        overlaps.refuse(run_dir, mirrored(mirror.format(run=run_dir, link=link)), None)
    assert str(run_dir) in str(refused.value)
    assert content(tmp_path) == before


def test_a_mirror_that_is_the_run_directory_by_a_bind_mount_is_refused(run_dir: Path, tmp_path: Path) -> None:
    mounted(run_dir, tmp_path / "mount")
    try:
        with pytest.raises(UsageError, match="is the run directory"):
            overlaps.refuse(run_dir, mirrored(tmp_path / "mount"), None)
    finally:
        subprocess.run(["umount", tmp_path / "mount"], check=True)


def test_a_mirror_never_changes_its_own_source(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where no guard before it has seen that they are one place."""
    monkeypatch.setattr(mirrors, "SETTLED", 0.0)
    monkeypatch.setattr(mirrors, "DELAYS", ())
    before = content(run_dir)
    for place in (Place(str(run_dir)), Place(f"file://{run_dir}")):
        mirror = Mirror.__new__(Mirror)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mirror, "_require_free", lambda self: None)
            mirror.__init__(place, run_dir, KEEP_ONE, START, 4)  # type: ignore[misc]
        (notice,) = brought(mirror)
        assert "is in the run directory" in notice
        assert {name: data for name, data in content(run_dir).items() if name != OWNER} == before


def test_a_mirror_that_is_the_run_directory_on_another_filesystem_is_known_by_its_lock(run_dir: Path) -> None:
    """As through a server that exports this machine's own disk."""

    place = Place(f"file://{run_dir}")
    place.local = None  # nothing says that it is on this machine
    with lock.writing(run_dir), pytest.raises(UsageError, match="itself, by another path"):
        Mirror(place, run_dir, KEEP_ONE, START, 4)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(mirrors, "SETTLED", 0.0)
    monkeypatch.setattr(mirrors, "DELAYS", ())
    yield "memory://bucket/mine"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def brought(mirror: Mirror) -> list[str]:
    mirror.follow({})
    mirror.finish()
    return [mirror.notices.get() for _ in range(mirror.notices.qsize())]


def test_of_two_runs_that_begin_with_one_empty_mirror_at_one_moment_one_gets_it(
    memory: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_dir = tmp_path / "second"
    checkpoint(second_dir, 4, OTHER)
    (second_dir / stored.FILE_NAME).write_text(TEXT)
    first, second = (
        Mirror(Place(memory), place, KEEP_ONE, start, 0) for place, start in ((run_dir, START), (second_dir, OTHER))
    )  # neither finds an owner
    waited = iter([lambda: Place(memory).write_owner(OTHER)])  # the second had looked before the first wrote

    def sleep(seconds: float) -> None:
        next(waited)()

    monkeypatch.setattr(mirrors.time, "sleep", sleep)
    (notice,) = brought(first)
    assert f"holds another run, begun {OTHER.started} on host" in notice
    assert Place(memory).described() == [], "the first has copied nothing"
    assert brought(second) == []
    assert [manifest.lineage[0] for _, manifest in Place(memory).described()] == [OTHER]


def test_a_mirror_is_its_owners_before_the_first_copy_and_after_a_resume(memory: str, run_dir: Path) -> None:
    Place(memory).write_owner(OTHER)
    with pytest.raises(UsageError, match="holds another run, begun"):
        Mirror(Place(memory), run_dir, KEEP_ONE, START, 0)
    Place(memory).write_owner(START)
    assert brought(Mirror(Place(memory), run_dir, KEEP_ONE, START, 4)) == []


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", OWNER])
def test_a_mirror_that_holds_somebody_elses_files_is_refused(name: str, memory: str, run_dir: Path) -> None:
    MemoryFileSystem().pipe_file(f"/bucket/mine/{name}", b"my: own")
    with pytest.raises(UsageError, match=r"this (run|program)"):
        Mirror(Place(memory), run_dir, KEEP_ONE, START, 4)
    assert MemoryFileSystem().cat_file(f"/bucket/mine/{name}") == b"my: own"


def test_a_sweep_with_one_mirror_for_all_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "run", lambda *sweep: 0)  # no trial, should it get so far
    command = ["train", "--multirun", "seed=1,2", f"checkpoint.mirror={tmp_path}/far", f"hydra.sweep.dir={tmp_path}/s"]
    assert run(command) == UsageError.exit_status
    assert "trials 0 and 1 share checkpoint.mirror=" in capsys.readouterr().err
    assert not (tmp_path / "s" / plan.FILE_NAME).exists()


@pytest.mark.parametrize("root", ["{run}", "{run}/data", "{link}/data"])
def test_data_in_a_new_run_directory_are_refused(root: str, tmp_path: Path) -> None:
    run_dir, link = tmp_path / "run", tmp_path / "link"
    link.symlink_to(run_dir)
    config = compose(["data=image_folder", f"data.root={root.format(run=run_dir, link=link)}"])
    with pytest.raises(UsageError, match=r"data\.root=.* lies in run_dir="):
        overlaps.refuse(run_dir, config, None)
    made(run_dir, 2)
    overlaps.refuse(run_dir, config, None)  # as it went on before


@pytest.mark.parametrize(
    ("folders", "run", "refused"),
    [
        (("cat/a", "dog/b"), "images/run", True),
        (("cat/a", "dog/b"), "images/outputs/run", True),
        (("cat/a", "dog/b"), "images", True),
        (("cat/a", "dog/b"), "images/.runs/mine", False),
        (("train/cat", "val/cat"), "images/train/run", True),
        (("train/cat", "validation/cat"), "images/validation/run", True),
        (("train/cat", "val/cat"), "images/runs/mine", False),
        (("cat/a", "dog/b"), "run", False),
    ],
)
def test_a_run_that_would_become_a_class_of_its_data_is_refused(
    folders: tuple[str, str], run: str, refused: bool, tmp_path: Path
) -> None:
    for folder in folders:
        (tmp_path / "images" / folder).mkdir(parents=True)
    config = compose(["data=image_folder", f"data.root={tmp_path}/images"])
    if not refused:
        overlaps.refuse(tmp_path / run, config, None)
        return
    with pytest.raises(UsageError, match=r"data\.root="):
        overlaps.refuse(tmp_path / run, config, None)
    if run != "images":
        with pytest.raises(UsageError, match=r"checkpoint\.mirror=.* it would become one"):
            overlaps.refuse(tmp_path / "elsewhere", mirrored(tmp_path / run, *overrides_of(config)), None)


def overrides_of(config: Config) -> list[str]:
    return ["data=image_folder", f"data.root={config.data.root}"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("init_from", "new"),
    [("{run}", "{run}"), ("{run}/" + STEP, "{run}"), ("{run}", "{run}/again"), ("{far}", "{far}/x")],
)
def test_a_run_in_the_place_of_its_first_weights_is_refused(
    init_from: str, new: str, run_dir: Path, tmp_path: Path
) -> None:
    far = tmp_path / "weights"
    far.mkdir()
    with pytest.raises(UsageError, match="overlap: a run cannot start from its own directory"):
        overlaps.refuse(Path(new.format(run=run_dir, far=far)), compose([]), init_from.format(run=run_dir, far=far))
    overlaps.refuse(tmp_path / "new", compose([]), init_from.format(run=run_dir, far=far))


def test_runs_do_not_lie_in_each_other(run_dir: Path) -> None:
    with pytest.raises(UsageError, match="lies in the directory of another run") as refused:
        overlaps.refuse(run_dir / "deeper" / "new", compose([]), None)
    assert str(run_dir) in str(refused.value)
    with pytest.raises(UsageError, match="lies in the directory of another run"):
        overlaps.refuse(run_dir.parent / "new", mirrored(run_dir / "mirror"), None)
    with pytest.raises(UsageError, match=r"contains other runs \(mine\); there are mine/"):
        overlaps.refuse(run_dir.parent, compose([]), None)
    overlaps.refuse(run_dir.parent / "new", mirrored(run_dir.parent / "far"), None)
    made(run_dir / "before-1", 2)
    overlaps.refuse(run_dir / "before-1", compose([]), None)  # a run that is there goes on


def test_a_fetch_into_the_mirror_itself_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(run_dir)
    for into in (run_dir, run_dir / "in", run_dir.parent):
        assert run(["resume", f"run_dir=file://{run_dir}", f"into={into}"]) == UsageError.exit_status
        assert f"into={into} overlap" in capsys.readouterr().err
    assert content(run_dir) == before


# Somebody else's files

STRANGERS = {
    "a configuration": {"config.yaml": "my: own\n"},
    "a log": {"train.log": "epoch 1\n"},
    "metrics": {"metrics.jsonl": '{"epoch": 1}\n'},
    "events": {"tensorboard/train/events.out.tfevents.1": "x"},
    "predictions": {"predictions/a.csv": "1"},
    "another trainer's checkpoints": {"checkpoints/ckpt-1.index": "x"},
    "a project": {"src/main.py": "", "README.md": ""},
    "one unknown file": {"thesis.tex": ""},
    "a report": {"report.html": ""},
}
BYSTANDERS = {
    "nothing": {},
    "what editors and filesystems leave": {".DS_Store": "", ".nfs000": "", ".config.yaml.swp": "", "Thumbs.db": ""},
    "the top of a volume": {"lost+found/x": "", "checkpoints/lost+found/x": ""},
    "output of a scheduler": {"slurm-123.out": "", "trainer-12.log": "", "nohup.out": "", "job.e12": ""},
    "the script that starts it": {"job.sbatch": "", "run.sh": ""},
    "Hydra's": {".hydra/config.yaml": "my: own\n", ".submitit/1/x": "", "multirun.yaml": ""},
    "a fetch that was killed": {"checkpoints/.writing-step-00000002/state.index": ""},
    "an earlier run that was kept": {"before-1/config.yaml": TEXT},
}


def filled(place: Path, files: dict[str, str]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.mark.parametrize("case", STRANGERS)
@pytest.mark.parametrize("command", ["train", "resume", "fetch"])
def test_a_directory_of_somebody_else_is_refused_and_left_alone(
    case: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = filled(tmp_path / "theirs", STRANGERS[case])
    before = content(place)
    if command == "train":
        with pytest.raises(UsageError, match="not empty") as refused:
            overlaps.refuse(place, compose([]), None)
        error = str(refused.value)
    else:
        filled(tmp_path / "far", {stored.FILE_NAME: TEXT})
        url = place if command == "resume" else f"file://{tmp_path}/far"
        more = [] if command == "resume" else [f"into={place}"]
        recognized = command == "resume" and case == "another trainer's checkpoints"  # which says what they are
        status = NoValidCheckpoint.exit_status if recognized else UsageError.exit_status
        assert run(["resume", f"run_dir={url}", *more]) == status
        error = capsys.readouterr().err
    assert next(iter(STRANGERS[case])).partition("/")[0] in error
    assert content(place) == before


@pytest.mark.parametrize("case", BYSTANDERS)
def test_what_is_nobodys_work_does_not_keep_a_run_out(case: str, tmp_path: Path) -> None:
    place = filled(tmp_path / "run", BYSTANDERS[case])
    overlaps.refuse(place, compose([]), None)
    assert occupancy.is_vacant(place, "")


def test_a_configuration_of_another_version_is_named_with_the_reason(tmp_path: Path) -> None:
    place = filled(tmp_path / "run", {stored.FILE_NAME: TEXT.replace("seed: 0", "sede: 0")})
    with pytest.raises(UsageError, match=r"config\.yaml is not a stored configuration of this version: .*sede"):
        overlaps.refuse(place, compose([]), None)


# A run whose checkpoints are gone


def without_checkpoints(run_dir: Path) -> Path:
    (run_dir / "checkpoints").rename(run_dir.parent / "elsewhere")
    return run_dir


def test_a_run_that_had_committed_never_begins_at_step_0_unasked(run_dir: Path) -> None:
    assert not occupancy.is_vacant(run_dir, "advice")
    without_checkpoints(run_dir)
    before = content(run_dir)
    for _ in range(2):
        with pytest.raises(NoValidCheckpoint, match="had committed checkpoints") as refused:
            occupancy.is_vacant(run_dir, "ADVICE")
        for word in ("config.yaml", "metrics.jsonl (up to step 40)", "train.log", "tensorboard/", "ADVICE", "before-1"):
            assert word in str(refused.value)
        (run_dir / "checkpoints").mkdir(exist_ok=True)  # as an empty volume in its place
    (run_dir / "checkpoints").rmdir()
    assert content(run_dir) == before


@pytest.mark.parametrize("left", ["config.yaml", "metrics.jsonl", commit_mark.FILE_NAME])
def test_one_trace_of_a_run_is_enough(left: str, run_dir: Path) -> None:
    without_checkpoints(run_dir)
    shutil.rmtree(run_dir / "tensorboard")
    for path in run_dir.iterdir():
        if path.name != left:
            path.unlink()
    with pytest.raises(NoValidCheckpoint, match=left.replace(".", r"\.")):
        occupancy.is_vacant(run_dir, "")


@pytest.mark.parametrize("mark", [None, "perhaps\n", "yes\nyes\n"])
def test_where_no_version_noted_a_commit_nothing_is_assumed(mark: str | None, run_dir: Path) -> None:
    without_checkpoints(run_dir)
    (run_dir / commit_mark.FILE_NAME).unlink()
    if mark is not None:
        (run_dir / commit_mark.FILE_NAME).write_text(mark)
    with pytest.raises(NoValidCheckpoint, match="of a version that did not note"):
        occupancy.is_vacant(run_dir, "")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_and_says_so(tmp_path: Path) -> None:
    run_dir = made(tmp_path / "run")
    overlaps.refuse(run_dir, compose([]), None)
    assert occupancy.is_vacant(run_dir, "")
    (said,) = occupancy.begin(run_dir, continues=False, restart=False)
    assert "stopped before its first checkpoint: starting at step 0" in said
    assert commit_mark.read(run_dir) is False


def test_a_run_that_goes_on_from_a_checkpoint_elsewhere_is_no_new_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert occupancy.begin(tmp_path / "run", continues=True, restart=False) == []
    with pytest.raises(NoValidCheckpoint):
        occupancy.is_vacant(tmp_path / "run", "")


def test_beginning_again_keeps_everything_of_the_run_and_moves_nothing_else(run_dir: Path) -> None:
    notes = dict.fromkeys(("finished.json", "failed.json", "pruned.json"), "{}")
    filled(run_dir, {"slurm-1.out": "", **notes, "metrics.jsonl.damaged.0": "", ".hydra/x": ""})
    before = content(run_dir)
    (said,) = occupancy.begin(run_dir, continues=False, restart=True)
    assert said.endswith(f"are in {run_dir / 'before-1'}")
    theirs = {name: data for name, data in before.items() if not name.startswith((".hydra", "slurm"))}
    assert content(run_dir / "before-1") == theirs
    assert sorted(path.name for path in run_dir.iterdir()) == [".committed", ".hydra", "before-1", "slurm-1.out"]
    assert commit_mark.read(run_dir) is False
    overlaps.refuse(run_dir, compose([]), None)
    assert occupancy.is_vacant(run_dir, "")
    checkpoint(run_dir, 2)
    (said,) = occupancy.begin(run_dir, continues=False, restart=True)
    assert said.endswith("before-2")
    assert content(run_dir / "before-1") == theirs


def test_an_interrupted_beginning_again_is_no_fresh_start(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever of its moves the process dies, the next start refuses until it is asked again."""
    before = content(run_dir)
    real = Path.rename
    for moves in range(6):
        made_again = made(run_dir.parent / f"copy-{moves}", 2, 4)
        left = iter(range(moves))

        def rename(path: Path, target: Path, left: Iterator[int] = left) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                occupancy.begin(made_again, continues=False, restart=True)
        if moves == 0:
            assert occupancy.has_checkpoints(made_again)
        else:
            with pytest.raises(NoValidCheckpoint):
                occupancy.is_vacant(made_again, "")
        occupancy.begin(made_again, continues=False, restart=True)
        kept: dict[str, bytes | None] = {}
        for aside in made_again.glob("before-*"):
            kept |= content(aside)
        assert kept == before


def test_beginning_again_copies_what_cannot_be_renamed_and_finishes_when_it_is_asked_again(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run_dir)
    rename, delete = Path.rename, shutil.rmtree

    def refuse(path: Path, target: Path) -> Path:
        if path.is_dir() and not path.name.startswith("."):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
        return rename(path, target)

    def half(path: Path) -> None:
        delete(path.parent / STEP)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            occupancy.begin(run_dir, continues=False, restart=True)
    assert len(list((run_dir / "checkpoints").iterdir())) == 1
    with pytest.raises(NoValidCheckpoint):
        occupancy.is_vacant(run_dir, "")
    occupancy.begin(run_dir, continues=False, restart=True)
    assert content(run_dir / "before-1") | content(run_dir / "before-2") == before
    assert not (run_dir / "before-2" / "checkpoints").exists(), "the rest was deleted, not moved"
    assert not (run_dir / "checkpoints").exists()
    assert directory.committed(run_dir / "checkpoints") == []
    assert [checkpoint(run_dir, 2)] == directory.committed(run_dir / "checkpoints")


def test_what_was_copied_and_cannot_be_deleted_keeps_a_new_run_out(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *target: Path) -> None:
        raise OSError(errno.EBUSY if not target else errno.EXDEV, "it stays", str(path))

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: (rename if path.name[0] == "." else refuse)(path, target))
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(UsageError, match=r"checkpoints cannot be moved to .*before-1: it was copied there"):
        occupancy.begin(run_dir, continues=False, restart=True)
    assert len(directory.committed(run_dir / "before-1" / "checkpoints")) == 2
    assert commit_mark.read(run_dir)


def test_what_cannot_be_moved_stays_and_is_named(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(16, "Device or resource busy")

    before = content(run_dir)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UsageError, match=r"checkpoints cannot be moved to .*before-1: Device or resource busy"):
        occupancy.begin(run_dir, continues=False, restart=True)
    assert content(run_dir) == before


def test_resume_gives_the_command_that_begins_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_checkpoints(run_dir)
    assert run(["resume", f"run_dir={run_dir}"]) == NoValidCheckpoint.exit_status
    error = capsys.readouterr().err
    assert f"python -m trainer train run_dir={run_dir} on_existing=restart experiment=digits\n" in error
    commit_mark.write(run_dir, committed=False)
    assert run(["resume", f"run_dir={run_dir}"]) == NoValidCheckpoint.exit_status
    assert "holds no checkpoint; start the run with train" in capsys.readouterr().err


# The commands themselves


@pytest.fixture
def steps_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All of ``train`` but its steps: the state it begins with is committed as of step ``[0]``; at 0, nothing is."""
    import step_facts_once
    from stored_runs import built_once

    from trainer.run import assembly, session

    steps = [2]

    def loop(loop: Any) -> None:
        if steps[0]:
            loop.state.progress.step.assign(steps[0])
            loop.checkpointer.save()
            loop.checkpointer.finish()

    monkeypatch.setattr(assembly.execution, "configure", lambda config: None)
    monkeypatch.setattr(session, "run_loop", loop)
    monkeypatch.setattr(assembly, "build_state", built_once)
    step_facts_once.install(monkeypatch)
    return steps


def test_a_requeued_command_begins_refuses_to_lose_a_history_and_begins_again_when_asked(
    steps_made: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from processes import NARROW

    run_dir = tmp_path / "run"
    command = ["train", f"run_dir={run_dir}", *NARROW, "train.steps=2"]
    requeued = [*command, "on_existing=resume"]

    steps_made[0] = 0  # killed before the first checkpoint
    assert run(requeued) == 0
    assert commit_mark.read(run_dir) is False
    steps_made[0] = 2
    capsys.readouterr()
    assert run(requeued) == 0
    assert "stopped before its first checkpoint: starting at step 0" in capsys.readouterr().out
    assert commit_mark.read(run_dir) is True
    without_checkpoints(run_dir)
    before = content(run_dir)
    for again in (requeued, command):
        assert run(again) == NoValidCheckpoint.exit_status
        error = capsys.readouterr().err
        assert "had committed checkpoints" in error
        assert "add on_existing=restart" in error
        assert content(run_dir) == before
    assert run([*command, "on_existing=restart"]) == 0
    assert f"the files of an earlier run are in {run_dir}/before-1" in capsys.readouterr().out
    assert f"the files of an earlier run are in {run_dir}/before-1" in (run_dir / "train.log").read_text()
    kept = content(run_dir / "before-1")
    assert kept == {name: data for name, data in before.items() if name != layout.LOCK}
    assert commit_mark.read(run_dir) is True
    assert run(command) == UsageError.exit_status
    assert "on_existing=restart moves that run aside" in capsys.readouterr().err


def test_what_cannot_begin_moves_nothing_away(
    steps_made: list[int], run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from processes import NARROW

    before = content(run_dir)
    restart = ["train", f"run_dir={run_dir}", *NARROW, "on_existing=restart"]
    checkpoint(tmp_path / "far", 2, OTHER)
    for more in (
        ["data=image_folder", "data.root=/nowhere"],
        [f"checkpoint.mirror={tmp_path}/far"],
        [f"checkpoint.mirror={run_dir}"],
        [f"init_from={run_dir}"],
    ):
        assert run([*restart, *more]) == UsageError.exit_status
        assert "Traceback" not in capsys.readouterr().err
        assert {name: data for name, data in content(run_dir).items() if name != layout.LOCK} == before


def test_a_mirror_that_is_the_run_is_refused_by_resume(
    steps_made: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from processes import NARROW

    run_dir = tmp_path / "run"
    assert run(["train", f"run_dir={run_dir}", *NARROW]) == 0
    before = content(run_dir)
    assert run(["resume", f"run_dir={run_dir}", f"checkpoint.mirror={run_dir}"]) == UsageError.exit_status
    assert "is the run directory" in capsys.readouterr().err
    assert content(run_dir) == before
