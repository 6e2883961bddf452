"""Sweeps whose trials a launcher starts: stopped, they are finished by one command, and no number changes."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Process, Trainer, assert_same_run, checkpoint_names, wait_for_step
from sweep_runs import KILL_AT, STEPS, TRIAL, files, outcomes, starts

from trainer.sweeps import plan

pytestmark = pytest.mark.usefixtures("small")


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
