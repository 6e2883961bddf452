"""Sweeps whose trials a launcher starts, and searches whose trials a sweeper chooses: stopped, they are finished by one
command, and no number changes.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import Process, Trainer, assert_same_run, checkpoint_names, wait_for_step
from small_plugin import SMALL
from sweep_runs import KILL_AT, STEPS, TRIAL, files, outcomes, starts

from trainer.sweeps import plan, trial

pytestmark = pytest.mark.usefixtures("small")

TINY = (*SMALL, "train.steps=2", "evaluation.every_steps=2", "checkpoint.every_steps=2")
SEARCH = (
    "hydra/sweeper=optuna",
    "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.direction=maximize",
    "optimizer.learning_rate=tag(log,interval(0.001,0.1))",
)


def need(plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}", reason="needs the extra resumable-trainer[sweeps]")


def children_of(process: Process) -> str:
    """What the process has started and is still there, for a message."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            group = (path.parent / "stat").read_text().rpartition(")")[2].split()[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text and int(group) == process.group:
            lines.append(text)
    return "\n".join(lines)


@pytest.mark.long
def test_trials_that_joblib_runs_two_at_a_time_are_stopped_and_finished_by_one_command(trainer: Trainer) -> None:
    need("joblib_launcher")
    sweep = trainer.cwd / "it's, a (sweep)"
    # keep_best changes no number, so all trials end in the same state; nothing disturbs the third
    command = ("train", "--multirun", *TRIAL, "checkpoint.keep_best=1,2,3", f'hydra.sweep.dir="{sweep}"')
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = trainer.start(*command, *launcher)
    for name in "01":
        wait_for_step(process, sweep / name, KILL_AT)
    process.signal(signal.SIGTERM)  # to the launching process alone
    assert process.wait() == 75, process.output
    assert outcomes(process.output) == {0: "stopped", 1: "stopped", 2: "not begun"}
    deadline = time.monotonic() + 120
    while children_of(process) and time.monotonic() < deadline:
        time.sleep(0.1)  # joblib's resource tracker sees the end of the others
    assert children_of(process) == ""
    assert list(sweep.glob(".launch-*")) == []
    for name in "01":
        assert KILL_AT <= int(checkpoint_names(sweep / name)[-1].removeprefix("step-")) < STEPS
    assert not (sweep / "2" / "checkpoints").exists()

    output = trainer.run("resume", f'sweep_dir="{sweep}"')
    assert outcomes(output) == dict.fromkeys(range(3), "finished")
    assert [len(starts(sweep / name)) for name in "012"] == [2, 2, 1]
    for name in "01":
        assert_same_run(sweep / "2", sweep / name)

    before = {name: files(sweep / name) for name in "012"}
    output = trainer.run(*command, *launcher, "on_existing=resume")
    assert outcomes(output) == dict.fromkeys(range(3), "finished before")
    assert {name: files(sweep / name) for name in "012"} == before


@pytest.mark.long
def test_trials_that_are_jobs_on_this_machine_end_like_others(trainer: Trainer) -> None:
    need("submitit_launcher")
    command = ("train", "--multirun", *TRIAL, "checkpoint.keep_best=-1,1,2", "hydra/launcher=submitit_local")
    process = trainer.start(*command, "hydra.sweep.dir=sweep")
    sweep = trainer.cwd / "sweep"
    wait_for_step(process, sweep / "1", KILL_AT)
    process.signal(signal.SIGTERM)
    assert process.wait() == 75, process.output
    assert outcomes(process.output)[1] == "stopped", process.output
    output = trainer.run(*command, "hydra.sweep.dir=sweep", "on_existing=resume", status=1)
    assert outcomes(output) == {0: "invalid", 1: "finished", 2: "finished"}
    trainer.run("train", *TRIAL, "run_dir=alone", "checkpoint.keep_best=1")
    for name in "12":
        assert_same_run(trainer.cwd / "alone", sweep / name)


def test_a_launcher_that_fails_says_so_and_the_sweep_can_be_finished(trainer: Trainer) -> None:
    """Without srun there is no Slurm: submitit raises before anything has begun."""
    need("submitit_launcher")
    command = ("train", "--multirun", "seed=1,2", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=sweep")
    process = trainer.start(*command, PATH=str(Path(sys.executable).parent))
    assert process.wait() == 1, process.output
    assert "Traceback" not in process.output
    assert re.search(r'error: hydra/launcher=submitit_slurm failed: RuntimeError: .*"srun"', process.output)
    assert outcomes(process.output) == {0: "not begun", 1: "not begun"}
    assert len(plan.read(trainer.cwd / "sweep").trials) == 2


# Searches


def proposals(sweep_dir: Path) -> list[str]:
    """The overrides that distinguish the trials of a search, which must be different ones."""
    sweep = plan.read(sweep_dir)
    found = [plan.label(sweep, each) for each in sweep.trials]
    assert len(set(found)) == len(found)
    return found


def test_a_search_that_has_ended_is_left_alone_and_another_one_refused(trainer: Trainer) -> None:
    need("optuna_sweeper")
    sweep = trainer.cwd / "sweep"
    command = ("train", "--multirun", *TINY, *SEARCH, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=sweep")
    output = trainer.run(*command)
    assert outcomes(output) == {0: "finished"}
    before, first = files(sweep / "0"), proposals(sweep)
    assert re.fullmatch(r"optimizer\.learning_rate=0\.0\d+", first[0])
    note = trial.read_note(sweep / "0")
    assert note is not None
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert best["best_value"] == note.best, "what Optuna was told"

    output = trainer.run(*command, "on_existing=resume")
    assert outcomes(output) == {0: "finished before"}
    assert files(sweep / "0") == before
    assert proposals(sweep) == first

    seeded = [word.replace("seed=1", "seed=2") for word in command]
    output = trainer.run(*seeded, "on_existing=resume", status=2)
    assert re.search(r"has another search: trial 0: optimizer\.learning_rate: 0\.0\d+ -> 0\.0\d+", output)
    assert "train --multirun" in output


@pytest.mark.long
def test_a_sweeper_hears_of_failures_and_chooses_the_same_again_after_them(trainer: Trainer) -> None:
    """Every trial is a configuration that is none, which needs no TensorFlow to be found out."""
    need("optuna_sweeper")
    command = ("train", "--multirun", *SEARCH, "seed=-1", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=sweep")
    for again in ((), ("on_existing=resume",)):
        output = trainer.run(*command, *again, status=1)
        assert outcomes(output) == dict.fromkeys(range(2), "invalid")
        assert output.splitlines()[-1] == "0 of 2 trials are finished, 2 invalid"
        search = plan.read(trainer.cwd / "sweep").search
        assert search is not None
        assert (search.failed, search.ended) == ((0, 1), True)


@pytest.mark.long
def test_a_search_stopped_in_its_third_trial_goes_on_as_if_undisturbed(trainer: Trainer) -> None:
    need("optuna_sweeper")
    sweep, reference = trainer.cwd / "sweep", trainer.cwd / "reference"
    command = ("train", "--multirun", *TRIAL, *SEARCH, "optimizer=adam,sgd", "hydra.sweeper.n_trials=4")
    trainer.run(*command, f"hydra.sweep.dir={reference}")

    process = trainer.start(*command, f"hydra.sweep.dir={sweep}")
    wait_for_step(process, sweep / "2", KILL_AT)
    process.signal(signal.SIGTERM)
    assert process.wait() == 75, process.output
    assert outcomes(process.output) == {0: "finished", 1: "finished", 2: "stopped"}
    assert f"hydra.sweep.dir={sweep}" in process.output.replace("'", "").replace('"', "")
    assert proposals(sweep) == proposals(reference)[:3]
    before = {name: files(sweep / name) for name in "01"}

    output = trainer.run(*command, f"hydra.sweep.dir={sweep}", "on_existing=resume")
    assert outcomes(output) == {0: "finished before", 1: "finished before", 2: "finished", 3: "finished"}
    assert {name: files(sweep / name) for name in "01"} == before
    assert [len(starts(sweep / name)) for name in "0123"] == [1, 1, 2, 1]
    assert proposals(sweep) == proposals(reference)
    for name in "0123":
        assert_same_run(reference / name, sweep / name)
    assert "report.html" in trainer.run("report", f"sweep_dir={sweep}")
    best = [yaml.safe_load((place / "optimization_results.yaml").read_text()) for place in (reference, sweep)]
    assert best[0] == best[1]


@pytest.mark.long
def test_a_killed_search_is_finished_as_far_as_it_was_begun_and_says_how_it_goes_on(trainer: Trainer) -> None:
    need("optuna_sweeper")
    sweep = trainer.cwd / "sweep"
    command = ("train", "--multirun", *TRIAL, *SEARCH, "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={sweep}")
    process = trainer.start(*command)
    wait_for_step(process, sweep / "1", KILL_AT)
    process.signal_group(signal.SIGKILL)
    process.wait()
    output = trainer.run("resume", f"sweep_dir={sweep}")
    assert outcomes(output) == {0: "finished before", 1: "finished"}
    assert "2 of 2 trials are finished; to continue the search:\n  python -m trainer train --multirun" in output
    assert len(plan.read(sweep).trials) == 2
    for status in ("finished", "finished before"):
        output = trainer.run(*command, "on_existing=resume")
        assert outcomes(output) == {0: "finished before", 1: "finished before", 2: status}
    output = trainer.run(*command, "on_existing=resume", "hydra.sweeper.n_trials=4")
    assert outcomes(output) == dict.fromkeys(range(3), "finished before") | {3: "finished"}


REFUSED = {
    "no seed": ((*SEARCH[:1], *SEARCH[2:]), "add hydra.sweeper.sampler.seed=1"),
    "the worst trial": (
        (*SEARCH[:2], "hydra.sweeper.direction=minimize", "seed=1,2"),
        "add hydra.sweeper.direction=max",
    ),
    "a launcher, too": ((*SEARCH, "hydra/launcher=joblib"), "they run one after another; leave the launcher out"),
    "a database": ((*SEARCH, "hydra.sweeper.storage=sqlite:///a"), "hydra.sweeper.storage cannot be set"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_search_that_could_not_go_on_is_refused_before_it_begins(case: str, trainer: Trainer) -> None:
    need("optuna_sweeper")
    arguments, reason = REFUSED[case]
    assert reason in trainer.run("train", "--multirun", *arguments, "hydra.sweep.dir=sweep", status=2)
    assert not (trainer.cwd / "sweep" / plan.FILE_NAME).exists()


UNKNOWN = {
    "a launcher that is not there": ("hydra/launcher=nowhere", "hydra/launcher=nowhere is not installed"),
    "a setting of a launcher": ("hydra.launcher.jobs=2", "unknown key hydra.launcher.jobs=2"),
    "another sweeper": ("hydra/sweeper=ax", "hydra/sweeper=ax is not supported; allowed: basic, optuna"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_plugin_that_cannot_be_used_is_refused_before_anything_is_written(case: str, trainer: Trainer) -> None:
    argument, reason = UNKNOWN[case]
    assert reason in trainer.run("train", "--multirun", "seed=1,2", argument, "hydra.sweep.dir=sweep", status=2)
    assert not (trainer.cwd / "sweep" / plan.FILE_NAME).exists()
