"""A sweep that was stopped, in any way, is finished by one command: no trial runs twice, no number changes."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Trainer, assert_same_run, checkpoint_names, wait_for_step
from sweep_runs import KILL_AT, STEPS, TRIAL, files, outcomes, starts
from writing import describe

from trainer.checkpoint import directory
from trainer.command_line import JOB_SCRIPT
from trainer.config import stored
from trainer.config.complete import with_leaves
from trainer.config.compose import compose_run
from trainer.config.multirun import Job
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory.layout import CHECKPOINTS, LOCK
from trainer.runtime.signals import StopRequest
from trainer.storage.lease import Fence
from trainer.sweeps import plan, trial


@pytest.mark.usefixtures("small")
def test_a_sweep_stopped_by_a_signal_is_finished_by_one_command(trainer: Trainer) -> None:
    sweep = trainer.cwd / "it's, a (sweep)"
    # keep_best changes no number, so the last trial, which nothing disturbs, shows what the one before should be. The
    # first is no configuration, as corners of a grid may be: it is reported, and the rest is run.
    swept = "checkpoint.keep_best=-1,1,2"
    process = trainer.start("train", "--multirun", *TRIAL, swept, f'hydra.sweep.dir="{sweep}"')
    wait_for_step(process, sweep / "1", KILL_AT)
    process.signal(signal.SIGTERM)  # to the sweep alone: it is the sweep that tells its trial
    assert process.wait() == 75, process.output
    assert outcomes(process.output) == {0: "invalid", 1: "stopped", 2: "not begun"}
    assert KILL_AT <= int(checkpoint_names(sweep / "1")[-1].removeprefix("step-")) < STEPS
    assert not (sweep / "2" / "checkpoints").exists()

    output = trainer.run("resume", f'sweep_dir="{sweep}"', status=1)
    assert outcomes(output) == {0: "invalid", 1: "finished", 2: "finished"}
    assert "trial 0 has no valid configuration: checkpoint.keep_best is -1" in output
    assert [len(starts(sweep / name)) for name in "12"] == [2, 1]
    assert_same_run(sweep / "2", sweep / "1")
    assert trial.read_note(sweep / "2") == trial.read_note(sweep / "1") is not None

    before = files(sweep / "1") | files(sweep / "2")
    output = trainer.run("resume", f'sweep_dir="{sweep}"', status=1)
    assert outcomes(output) == {0: "invalid", 1: "finished before", 2: "finished before"}
    assert files(sweep / "1") | files(sweep / "2") == before

    path = sweep / "1" / stored.FILE_NAME
    text = path.read_text()
    path.write_text(re.sub(r"^  epsilon: 1.0e-07$", "  epsilon: 0.5", text, flags=re.MULTILINE))
    assert path.read_text() != text
    output = trainer.run("resume", f'sweep_dir="{sweep}"', status=1)
    assert outcomes(output) == {0: "invalid", 1: "refused", 2: "finished before"}
    assert re.search(r"error: trial 1 in .* has another configuration", output)
    assert re.search(r"optimizer\.epsilon is 0\.5, in the sweep 1e-", output)
    assert files(sweep / "2").items() <= before.items()


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_six_trials_killed_in_the_middle_are_finished_as_if_undisturbed(trainer: Trainer) -> None:
    grid = ("train", "--multirun", *TRIAL, "optimizer=adam,sgd", "seed=1,2,3")
    sweep, reference = trainer.cwd / "sweep", trainer.cwd / "reference"
    trainer.run(*grid, f"hydra.sweep.dir={reference}")

    process = trainer.start(*grid, f"hydra.sweep.dir={sweep}")
    wait_for_step(process, sweep / "3", KILL_AT)
    process.signal_group(signal.SIGKILL)
    process.wait()
    assert sorted(path.name for path in sweep.iterdir() if (path / "checkpoints").exists()) == ["0", "1", "2", "3"]
    before = {name: files(sweep / name) for name in "012"}

    output = trainer.run("resume", f"sweep_dir={sweep}")
    assert outcomes(output) == {0: "finished before", 1: "finished before", 2: "finished before"} | dict.fromkeys(
        (3, 4, 5), "finished"
    )
    assert {name: files(sweep / name) for name in "012"} == before
    assert {name: len(starts(sweep / name)) for name in "012345"} == dict.fromkeys("012345", 1) | {"3": 2}
    assert starts(sweep / "3")[1] >= 5  # the last checkpoint before the kill
    for name in "012345":
        assert_same_run(reference / name, sweep / name)


# What a sweep says of itself


@pytest.fixture(scope="module")
def stored_sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep of three trials that was only planned: its directory holds sweep.yaml. What was said lies beside it."""
    trainer = Trainer(tmp_path_factory.mktemp("stored"))
    sweep = trainer.cwd / "sweep"
    arguments = ("hydra/launcher=none", "seed=1,2,-3", "model.width=0.5", f"hydra.sweep.dir={sweep}")
    (trainer.cwd / "said").write_text(trainer.run("train", "--multirun", *arguments))
    yield sweep
    trainer.close()


def test_a_sweep_that_is_only_planned_starts_nothing_and_prints_what_runs_it(stored_sweep: Path) -> None:
    said = (stored_sweep.parent / "said").read_text()
    assert said == f"{plan.ways_to_run(stored_sweep, plan.read(stored_sweep))}\n"
    assert f"sbatch --array=0-2 {JOB_SCRIPT} sweep_dir={stored_sweep}\n" in said
    assert JOB_SCRIPT.is_file()
    assert [path for path in stored_sweep.rglob("*") if path.is_file() and path.suffix != ".yaml"] == []


def test_a_sweep_stores_every_configuration_before_its_first_trial(stored_sweep: Path) -> None:
    sweep = plan.read(stored_sweep)
    assert [plan.label(sweep, each) for each in sweep.trials] == ["seed=1", "seed=2", "seed=-3"]
    assert [each.overrides[1] for each in sweep.trials] == ["model.width=0.5"] * 3
    assert [plan.config_of(each).seed for each in sweep.trials[:2]] == [1, 2]
    assert plan.config_of(sweep.trials[0]).model.width == 0.5
    with pytest.raises(UsageError, match="trial 2 has no valid configuration: seed is -3"):
        plan.config_of(sweep.trials[2])


def test_a_sweep_of_format_1_is_read(stored_sweep: Path, tmp_path: Path) -> None:
    """As it was written before there were searches."""
    text = (stored_sweep / plan.FILE_NAME).read_text()
    old = text.replace("format_version: 2\nsearch: null\n", "format_version: 1\n")
    assert old != text
    (tmp_path / plan.FILE_NAME).write_text(old)
    assert plan.read(tmp_path) == plan.read(stored_sweep)


def job(number: int, *values: str) -> Job:
    """What Hydra composes for one proposal of a sweeper, in place of a sweeper."""
    invocation, config = compose_run(["on_existing=resume", *values])
    return Job(number, Path(), str(number), values, invocation, config, None)


def test_a_search_is_written_trial_by_trial_and_remembers_failures_that_others_follow(tmp_path: Path) -> None:
    words = ("--multirun", "seed=choice(1,2,3)", "hydra/sweeper=optuna")
    first = plan.propose(tmp_path, None, job(0, "seed=1"), words, ())
    second = plan.propose(tmp_path, first, job(1, "seed=2"), words, ())
    sweep = plan.propose(tmp_path, second, job(2, "seed=3"), words, (1,))
    assert plan.read(tmp_path) == sweep
    assert [plan.label(sweep, each) for each in sweep.trials] == ["seed=1", "seed=2", "seed=3"]
    assert sweep.search == plan.Search(words, (1,), ended=False)
    assert plan.propose(tmp_path, sweep, job(1, "seed=2"), words, ()) == sweep, "told again, and nothing is written"
    with pytest.raises(UsageError, match=r"another search: trial 1: seed: 2 -> 9"):
        plan.propose(tmp_path, sweep, job(1, "seed=9"), words, ())
    with pytest.raises(UsageError, match="has a sweep already"):
        plan.existing_search(tmp_path, "fail")
    assert plan.existing_search(tmp_path, "resume") == sweep
    ended = plan.end_search(tmp_path, sweep, (1, 2))
    assert plan.read(tmp_path) == ended
    assert ended.search == plan.Search(words, (1, 2), ended=True)


def test_the_same_command_continues_a_sweep_and_another_does_not(stored_sweep: Path, tmp_path: Path) -> None:
    sweep = plan.read(stored_sweep)
    plan.begin(tmp_path, sweep, "fail")
    words = [dataclasses.replace(each, overrides=(*each.overrides, "on_existing=resume")) for each in sweep.trials]
    plan.begin(tmp_path, dataclasses.replace(sweep, trials=tuple(words)), "resume")
    with pytest.raises(UsageError, match=r"has a sweep already; to finish it:\n.*resume sweep_dir="):
        plan.begin(tmp_path, sweep, "fail")
    config = plan.config_of(sweep.trials[1])
    other = stored.to_text(with_leaves(config, {"optimizer.learning_rate": 0.25}))
    changed = dataclasses.replace(sweep.trials[1], config=other)
    with pytest.raises(UsageError, match=r"has another sweep: trial 1: optimizer\.learning_rate: .* -> 0\.25"):
        plan.begin(tmp_path, dataclasses.replace(sweep, trials=(sweep.trials[0], changed, sweep.trials[2])), "resume")
    with pytest.raises(UsageError, match="has another sweep: it has 3 trials, and this command makes 2"):
        plan.begin(tmp_path, dataclasses.replace(sweep, trials=sweep.trials[:2]), "resume")
    assert plan.read(tmp_path) == sweep


HOSTILE = {
    "a trial elsewhere": ("directory: '1'", "directory: /tmp/elsewhere", "outside of the sweep's"),
    "a trial above": ("directory: '1'", "directory: ../../other", "outside of the sweep's"),
    "the sweep itself as a trial": ("directory: '1'", "directory: .", "outside of the sweep's"),
    "two trials in one place": ("directory: '1'", "directory: '0'", "trials 0 and 1 share a directory"),
    "a trial in a trial": ("directory: '1'", "directory: 0/checkpoints", "trials 0 and 1 share a directory"),
    "a number twice": ("number: 1", "number: 0", "trial 0 is at the place of trial 1"),
    "another version": ("format_version: 2", "format_version: 3", "format_version is 3"),
    "an object": ("directory: '1'", "directory: !!python/object:os.system 1", "tags"),
    "a failure of no trial": ("search: null", "search: {arguments: [], failed: [7], ended: false}", "trial 7 failed"),
    "a search that runs something": ("search: null", "search: {command: rm}", "the sweep.search lacks arguments"),
    "an unknown key": ("  allow: []", "  allow: []\n  command: rm", "command"),
    "an interpolation": ("name: digits", "name: ${oc.env:HOME}", "data.name"),
    "a number for a text": ("directory: '1'", "directory: 1", "directory is 1, but must be a text"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_foreign_sweep_file_is_refused(case: str, stored_sweep: Path, tmp_path: Path) -> None:
    old, new, reason = HOSTILE[case]
    text = (stored_sweep / plan.FILE_NAME).read_text()
    assert old in text
    (tmp_path / plan.FILE_NAME).write_text(text.replace(old, new, 1))
    with pytest.raises(NoValidCheckpoint, match=f"is not a sweep of this version: .*{re.escape(reason)}"):
        plan.read(tmp_path)


def test_a_trial_directory_that_leads_elsewhere_is_refused(stored_sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sweep" / "0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"trial 0 cannot be run: .* is a symbolic link"):
        trial.run(tmp_path / "sweep", plan.read(stored_sweep).trials[0], StopRequest())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def commit(run_dir: Path, step: int) -> Path:
    """A checkpoint of one file, which verifies."""

    def fill(place: Path) -> None:
        (place / "data").write_bytes(b"weights")

    fence = Fence(run_dir / LOCK)
    return directory.commit(run_dir / CHECKPOINTS, step, fill, lambda *found: describe(step, *found), fence)


def test_a_finished_trial_whose_last_checkpoint_is_damaged_is_not_finished(stored_sweep: Path, tmp_path: Path) -> None:
    run_dir, first = tmp_path / "0", plan.read(stored_sweep).trials[0]
    run_dir.mkdir()
    for step in (2, 4):
        newest = commit(run_dir, step)
    (run_dir / trial.FINISHED).write_text('{"step": 4, "metric": "accuracy", "best": 0.5}')
    assert trial.is_finished(tmp_path, first)
    (newest / "data").write_bytes(b"changed")
    assert not trial.is_finished(tmp_path, first)


REFUSED = {
    "one run_dir for all": (("seed=1,2", "run_dir=one"), "a sweep needs one for each trial"),
    "one subdir for all": (("seed=1,2", "hydra.sweep.subdir=one"), "trials 0 and 1 share a directory"),
    "nothing valid": (("seed=-1,-2",), "no trial of this sweep has a valid configuration; of the first: seed is -1"),
    "a key that is none": (("sede=1,2",), "unknown key sede=1,2; did you mean seed?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sweep_that_cannot_be_is_refused_before_it_begins(case: str, trainer: Trainer) -> None:
    arguments, reason = REFUSED[case]
    assert reason in trainer.run("train", "--multirun", *arguments, "hydra.sweep.dir=sweep", status=2)
    assert not (trainer.cwd / "sweep" / plan.FILE_NAME).exists()


def test_resume_of_a_sweep_says_what_it_takes(stored_sweep: Path, trainer: Trainer) -> None:
    assert "sweep.yaml does not exist" in trainer.run("resume", f"sweep_dir={trainer.cwd}", status=2)
    assert "has the trials 0 to 2" in trainer.run("resume", f"sweep_dir={stored_sweep}", "trial=3", status=2)
    output = trainer.run("resume", f"sweep_dir={stored_sweep}", "train.steps=9", status=2)
    assert "resume of a sweep does not know train.steps=9" in output
