"""Searches: stopped in any way, they go on with the trials that were chosen, and choose what they would have chosen."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from processes import Process, Trainer, assert_same_run, checkpoint_names, wait_for_step
from small_plugin import SMALL, paced
from sweep_runs import KILL_AT, STEPS, TRIAL, files, outcomes, starts

from trainer.run_directory.metrics import VALIDATION, Record
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan, searching, trial

optuna = pytest.importorskip("optuna", minversion="4.9", reason="needs the extra resumable-trainer[sweeps]")
pytestmark = pytest.mark.usefixtures("small")

TINY = (*SMALL, "train.steps=2", "evaluation.every_steps=2", "checkpoint.every_steps=2")
SEARCH = (
    "hydra/sweeper=optuna",
    "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.direction=maximize",
    "optimizer.learning_rate=tag(log,interval(0.001,0.1))",
)


def proposals(sweep_dir: Path) -> list[str]:
    """The overrides that distinguish the trials of a search, which must be different ones."""
    sweep = plan.read(sweep_dir)
    found = [plan.label(sweep, each) for each in sweep.trials]
    assert len(set(found)) == len(found)
    return found


def test_a_search_that_has_ended_is_left_alone_and_another_one_refused(trainer: Trainer) -> None:
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
    assert "has another search: hydra.sweeper.sampler.seed: 1 -> 2" in output
    longer = [*command, "optimizer.epsilon=0.5"]
    output = trainer.run(*longer, "on_existing=resume", status=2)
    assert re.search(r"has another search: trial 0: optimizer\.epsilon: 1e-07 -> 0\.5", output)
    assert "train --multirun" in output


@pytest.mark.long
def test_a_sweeper_hears_of_failures_and_chooses_the_same_again_after_them(trainer: Trainer) -> None:
    """Every trial is a configuration that is none, which needs no TensorFlow to be found out."""
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
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_search_that_could_not_go_on_is_refused_before_it_begins(case: str, trainer: Trainer) -> None:
    arguments, reason = REFUSED[case]
    assert reason in trainer.run("train", "--multirun", *arguments, "hydra.sweep.dir=sweep", status=2)
    assert not (trainer.cwd / "sweep" / plan.FILE_NAME).exists()


PRUNER = (
    "hydra.sweeper.sampler.n_startup_trials=1",
    "hydra/sweeper/pruner=median",
    "hydra.sweeper.pruner.n_startup_trials=1",
)
PRUNING = (
    *PRUNER,
    *SMALL,
    *paced(0.02),
    "train.steps=40",
    "evaluation.every_steps=10",
    "checkpoint.every_steps=5",
    "hydra.sweeper.n_trials=4",
    "on_existing=resume",
)
KILLS = 6
PATIENCE = 1800.0  # seconds for a whole search, on a machine that does other things, too


def finished(trainer: Trainer, *arguments: str) -> str:
    process = trainer.start(*arguments)
    end(process)
    assert process.wait() == 0, process.output
    return process.output


def end(process: Process) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.running and time.monotonic() < deadline:
        time.sleep(0.1)


def written(sweep_dir: Path) -> int:
    """The records of all trials together."""
    return sum(path.read_bytes().count(b"\n") for path in sweep_dir.glob("*/metrics.jsonl"))


def told(sweep_dir: Path) -> list[tuple[str, float | None, dict[int, float]]]:
    """What the study knows: of each trial its state, its value and the validations that the pruner saw."""
    known = optuna.load_study(study_name="search", storage=f"sqlite:///{sweep_dir}/study.db")
    return [(each.state.name, each.value, each.intermediate_values) for each in known.trials]


@pytest.mark.long
def test_a_search_that_prunes_and_is_killed_again_and_again_ends_as_one_that_nobody_killed(trainer: Trainer) -> None:
    sweep, reference = trainer.cwd / "sweep", trainer.cwd / "reference"
    command = ("train", "--multirun", *SEARCH, *PRUNING)
    said = finished(trainer, *command, f"hydra.sweep.dir={reference}")
    ends = outcomes(said)
    assert set(ends.values()) == {"finished", "pruned"}, said
    for number in (number for number, end in ends.items() if end == "pruned"):
        note = json.loads((reference / str(number) / trial.PRUNED).read_text())
        assert checkpoint_names(reference / str(number))[-1] == f"step-{note['step']:08d}"
        assert re.fullmatch(r"median: accuracy 0\.\d+ at step \d0", note["reason"])

    moments, killed = random.Random(1), 0
    while killed < KILLS:
        process = trainer.start(*command, f"hydra.sweep.dir={sweep}")
        # after some records more, however slow the machine is, or while it starts
        wanted = written(sweep) + (moments.randint(1, 9) if moments.random() < 0.7 else STEPS * KILLS)
        until = time.monotonic() + (240 if wanted < STEPS * KILLS else moments.uniform(0, 12))
        while process.running and written(sweep) < wanted and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        if not process.running:
            break
        process.signal_group(signal.SIGKILL)
        process.wait()
        killed += 1
    output = finished(trainer, *command, f"hydra.sweep.dir={sweep}")
    print(f"{killed} kills; starts of the trials: {[len(starts(sweep / str(number))) for number in ends]}")
    assert killed > 2
    assert {number: end.removesuffix(" before") for number, end in outcomes(output).items()} == ends
    assert proposals(sweep) == proposals(reference)
    assert told(sweep) == told(reference)
    for number in (number for number, end in ends.items() if end == "finished"):
        assert_same_run(reference / str(number), sweep / str(number))

    before = {number: files(sweep / str(number)) for number in ends}
    output = trainer.run("resume", f"sweep_dir={sweep}")
    assert outcomes(output) == {number: f"{end} before" for number, end in ends.items()}
    assert {number: files(sweep / str(number)) for number in ends} == before


@pytest.mark.long
def test_two_processes_on_one_storage_share_the_trials(trainer: Trainer) -> None:
    sweep, database = trainer.cwd / "sweep", trainer.cwd / "studies.db"
    storage = (f"hydra.sweeper.storage=sqlite:///{database}", "hydra.sweeper.study_name=rates")
    command = ("train", "--multirun", *TRIAL, *SEARCH, *storage, "hydra.sweeper.n_trials=4", "on_existing=resume")
    workers = [trainer.start(*command, "hydra.sweep.dir=sweep") for _ in range(2)]
    for worker in workers:
        end(worker)
    statuses = [worker.wait() for worker in workers]
    assert set(statuses) <= {0, 5}, [worker.output for worker in workers]
    assert 0 in statuses, "the one that ends last has nobody to leave a trial to"
    begun = [set(re.findall(r"^trial (\d)  ", worker.output, re.MULTILINE)) for worker in workers]
    print(f"trials of each process: {begun}")
    assert begun[0] & begun[1] == set()
    assert begun[0] | begun[1] == set("0123")
    assert min(map(len, begun)) > 0
    assert len(proposals(sweep)) == 4
    assert [len(starts(sweep / name)) for name in "0123"] == [1] * 4
    output = trainer.run(*command, "hydra.sweep.dir=sweep")
    assert outcomes(output) == dict.fromkeys(range(4), "finished before")
    known = optuna.load_study(study_name="rates", storage=f"sqlite:///{database}")
    notes = [trial.read_note(sweep / name) for name in "0123"]
    assert [each.value for each in known.trials] == [note.best for note in notes if note is not None]

    output = trainer.run(*command, "hydra.sweep.dir=another", status=2)
    assert "the study rates in sqlite:///" in output
    assert "belongs to another sweep directory" in output


def short_trial(sweep_dir: Path, number: int, stopping: Callable[[], bool]) -> int:
    """In the place of a trial's process: as much as a search sees of one, and it goes on from where it was killed."""
    run_dir = sweep_dir / str(number)
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    rate = float(plan.read(sweep_dir).trials[number].overrides[0].partition("=")[2])
    for step in range(1, 6):
        accuracy = round(step / 10 - abs(math.log10(rate) + 2) / 5, 6)
        record = Record(step, VALIDATION, {"loss": 1.0, "accuracy": accuracy, "skipped": 0}, {})
        if not (run_dir / "checkpoints" / f"step-{step:08d}").exists():
            with (run_dir / "metrics.jsonl").open("a") as file:
                file.write(record.line())
            (run_dir / "checkpoints" / f"step-{step:08d}").mkdir()
        time.sleep(0.02)
        if stopping():
            return 75
    (run_dir / trial.FINISHED).write_text(json.dumps({"step": 5, "metric": "accuracy", "best": accuracy}))
    return 0


def forked_search(sweep_dir: Path) -> int:
    """The process of a search, which has nothing to import; its trials are ``short_trial``."""
    process = os.fork()
    if process != 0:
        return process
    try:
        os.setsid()
        searching.run_in_process = short_trial
        searching.is_finished = lambda place, each: trial.read_note(place / each.directory) is not None
        with (sweep_dir.parent / f"{sweep_dir.name}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        words = (*SEARCH, *PRUNER, "hydra.sweeper.n_trials=5", f"hydra.sweep.dir={sweep_dir}", "on_existing=resume")
        status = searching.run(["--multirun", *words], StopRequest())
        sys.stdout.flush()
        os._exit(status)
    finally:
        os._exit(1)


@pytest.mark.long
def test_the_process_of_a_search_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    sweep, reference = tmp_path / "sweep", tmp_path / "reference"
    begun = time.monotonic()
    assert os.waitpid(forked_search(reference), 0)[1] == 0, (tmp_path / "reference.log").read_text()
    whole = time.monotonic() - begun
    moments, kills = random.Random(1), 0
    while kills < 40:
        process, until = forked_search(sweep), time.monotonic() + moments.uniform(0, whole / 2)
        ended = (0, 0)
        while ended[0] == 0 and time.monotonic() < until:
            time.sleep(0.001)
            ended = os.waitpid(process, os.WNOHANG)
        if ended[0] == 0:
            os.kill(process, signal.SIGKILL)
            ended = os.waitpid(process, 0)
        if not os.WIFSIGNALED(ended[1]):
            break
        kills += 1
    print(f"{kills} kills of a search of 5 trials")
    if os.WIFSIGNALED(ended[1]):  # on a machine that is slower now, it is left to itself in the end
        ended = os.waitpid(forked_search(sweep), 0)
    assert ended[1] == 0, (tmp_path / "sweep.log").read_text()
    assert kills > 5
    assert {state for state, _, _ in told(reference)} == {"COMPLETE", "PRUNED"}
    assert told(sweep) == told(reference)
    assert proposals(sweep) == proposals(reference)
    assert (sweep / searching.BEST).read_text() == (reference / searching.BEST).read_text()
