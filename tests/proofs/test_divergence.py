"""A run that diverges goes back and on by itself, and nothing shows in its bits that it did not know before.

The data are poisoned: at chosen positions a record makes the loss or the gradients what they never should be.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from made_once import made_once
from poisoned import Job, start
from processes import Trainer, assert_same_run, checkpoint_names, metrics
from small_plugin import SMALL, SMALL_SMOOTH, install
from worker_processes import cluster_of_two, finish

from trainer.checkpoint import manifest
from trainer.config import stored
from trainer.config.ranges import to_range

pytestmark = pytest.mark.usefixtures("small")

# 20 steps of 8 examples; checkpoints after 4, 5, 8, 10, 12 …
RUN = (
    *SMALL,
    "train.steps=20",
    "checkpoint.every_steps=4",
    "evaluation.every_steps=5",
    "train.on_divergence=rollback",
    "divergence.window=4",
    "divergence.learning_rate_factor=0.5",
)
# in the steps 2, 7 and 17; the last one, in step 22, is in whatever takes its place
POISON = {12: "nan", 50: "overflow", 130: "gradient", 170: "lasting nan"}
ENTRIES = ("8-15", "48-55", "128-135")
GIVEN = f"train.skip_examples=[{','.join(ENTRIES)}]"
# the examples of step 22 are left out twice, and then those of step 21 as well
LEFT_OUT = (*ENTRIES, "168-175", "160-175")
# ReLU makes 0 of a NaN in the kernels of some processors, so that an image of NaNs shows in the gradients alone
NAN = "the (training loss|gradient norm) is nan"
KILLED = ("history", "detected", "restored", "set aside", "record")  # where a rollback is killed


def job(run_dir: Path, *more: str, poison: Mapping[int, str] = POISON, status: int = 0) -> Job:
    return poison, status, ["train", f"run_dir={run_dir}", *RUN, *more]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs: one that diverges three times, one that was given the examples, one that was killed in a rollback and
    started again, and one that is longer and ends.
    """

    def make(trainer: Trainer) -> None:
        install(trainer.cwd)
        straight, given, killed, ends = (trainer.cwd / name for name in ("straight", "given", "killed", "ends"))
        assert start(trainer, job(killed), KILL=KILLED[0]).wait() == -9
        longer = job(ends, GIVEN, "train.steps=24", "divergence.max_rollbacks=5", "checkpoint.every_steps=1", status=1)
        finish([start(trainer, job(straight), job(given, GIVEN))])
        finish([start(trainer, job(killed, "on_existing=resume"), longer)])

    return made_once(tmp_path_factory, "diverging", make)


def last(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / checkpoint_names(run_dir)[-1]


def entries(run_dir: Path) -> tuple[str, ...]:
    return stored.read(last(run_dir) / stored.FILE_NAME).train.skip_examples


def test_a_run_that_diverges_equals_one_that_was_given_the_examples_to_skip_from_the_start(runs: Path) -> None:
    straight, given = runs / "straight", runs / "given"
    assert_same_run(straight, given)
    assert stored.read(last(straight) / stored.FILE_NAME) == stored.read(last(given) / stored.FILE_NAME)
    assert metrics(straight)[-2]["substituted"] == 8 * len(ENTRIES)
    rates = [record["learning_rate"] for record in metrics(straight) if record["split"] == "train"]
    assert rates[0] == pytest.approx(0.5 * 0.003 * 2 / 5), "lower from step 2 on, in a warm-up of 5 steps"


def test_the_lineage_has_each_rollback_with_its_cause(runs: Path) -> None:
    starts = manifest.read(last(runs / "straight") / manifest.FILE_NAME).lineage
    assert [each.from_step for each in starts] == [0, 0, 5, 16]
    changes, _, reason = starts[1].changes[0].partition(" (")
    assert changes == "train.skip_examples: [] -> ['8-15']"
    assert re.fullmatch(rf"{NAN} at step 2, of training examples 8 to 15\)", reason), reason
    assert " (the gradient norm is " in starts[3].changes[0]


def test_a_rollback_that_is_killed_goes_on_as_if_it_had_not_been(runs: Path) -> None:
    assert_same_run(runs / "straight", runs / "killed")


@pytest.mark.long
@pytest.mark.parametrize("at", KILLED[1:])
def test_so_it_does_wherever_it_is_killed(at: str, runs: Path, trainer: Trainer) -> None:
    killed = trainer.cwd / "killed"
    assert start(trainer, job(killed), KILL=at).wait() == -9
    finish([start(trainer, job(killed, "on_existing=resume"))])
    assert_same_run(runs / "straight", killed)


def test_examples_that_diverge_again_take_others_with_them_and_in_the_end_the_run_stops(runs: Path) -> None:
    ends = runs / "ends"
    log = (ends / "train.log").read_text()
    assert re.search(rf"TrainingFailed: {NAN} at step 22, of training examples 168 to 175, after 5", log)
    assert f"train.skip_examples={list(LEFT_OUT)}, divergence.max_rollbacks=5" in log
    assert f"the last good checkpoint is {ends}/checkpoints/step-00000021" in log
    away = [path.name for path in (ends / "checkpoints" / "superseded").iterdir()]
    assert away == ["step-00000021"], "the first one of that step had examples that are left out"
    steps = [record["step"] for record in metrics(ends) if record["split"] == "train"]
    assert steps == list(range(2, 21, 2)), "those that were taken back are gone, and step 22 has none"
    assert stored.read(ends / stored.FILE_NAME).train.skip_examples == LEFT_OUT


def test_two_processes_go_back_together(trainer: Trainer) -> None:
    run_dir = trainer.cwd / "run"
    shared = job(
        run_dir,
        *SMALL_SMOOTH,
        "model.batch_norm.synchronized=false",
        "train.log_every_steps=1",
        "train.steps=8",
        "evaluation.every_steps=8",
        poison={100: "nan", 220: "spike"},  # one in the share of each
    )
    finish([start(trainer, shared, TF_CONFIG=cluster) for cluster in cluster_of_two()])
    assert entries(run_dir) == ("96-127", "192-223")
    assert [record["step"] for record in metrics(run_dir) if record["split"] == "train"] == list(range(1, 9))


@pytest.mark.long
def test_of_96_divergences_that_can_be_left_out_all_are(trainer: Trainer) -> None:
    """Twelve runs of eight divergences each, of all kinds, at random places."""
    draw, runs = random.Random(25), {}
    more = ("train.steps=60", "divergence.max_rollbacks=40")
    for number in range(12):
        places = sorted(draw.sample(range(5 * 8, 60 * 8), 8))  # where there is something to compare with
        runs[trainer.cwd / f"run-{number}"] = {
            place: draw.choice(["nan", "inf", "overflow", "spike", "gradient"]) for place in places
        }
    for run_dir, poison in runs.items():
        finish([start(trainer, job(run_dir, *more, poison=poison))])
    recovered = 0
    for run_dir, poison in runs.items():
        assert last(run_dir).name == "step-00000060"
        skipped = [to_range("train.skip_examples", entry) for entry in entries(run_dir)]
        recovered += sum(any(place in each for each in skipped) for place in poison)
    assert recovered == 96
    run_dir, poison = next(iter(runs.items()))
    given = trainer.cwd / "given"
    list_of_them = f"train.skip_examples=[{','.join(entries(run_dir))}]"
    finish([start(trainer, job(given, *more, list_of_them, poison=poison))])
    assert_same_run(run_dir, given)


@pytest.mark.long
@pytest.mark.parametrize("number", range(4))
def test_a_divergence_that_no_other_record_helps_stops_the_run_with_its_cause(number: int, trainer: Trainer) -> None:
    lasting = {90 + 8 * number: "lasting nan"}
    run_dir = trainer.cwd / "ends"
    ends = job(run_dir, "divergence.max_rollbacks=3", poison=lasting, status=1)
    (output,) = finish([start(trainer, ends)])
    assert re.search(rf"error: {NAN} at step {12 + number}, of training examples .*, after 3 rollbacks", output), output
