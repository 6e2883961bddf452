"""With logical replicas, a run is a function of its configuration alone: it has the same bits on 1, 2 and 4 devices and
on two processes, moved while it trains. Real processes, on this machine.

The network is a small one with activations that have a kink: a difference in the last bit grows. For the table of
optimizers over Inception V3 see the long proofs below.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import pythons
from processes import Trainer, assert_same_run, metrics, wait_for_step
from small_plugin import SMALL, install, paced
from worker_processes import finish, start

from trainer.checkpoint.differences import differing_tensors

pytestmark = pytest.mark.usefixtures("small")

LOGICAL = (
    "train.logical_replicas=4",
    "model.batch_norm.synchronized=false",
    "model.batch_norm.group_size=4",
    "train.global_batch_size=16",
    "data.train_examples=160",
)
RUN = (
    *SMALL,
    *LOGICAL,
    "schedule.warmup_steps=0",
    "optimizer.learning_rate=0.01",
    "train.steps=12",
    "train.log_every_steps=1",
    "evaluation.every_steps=3",
    "checkpoint.every_steps=3",
)


def devices(count: int) -> str:
    return f"runtime.virtual_devices={count}"


@pytest.fixture(scope="module")
def never_moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one device from beginning to end."""
    trainer = Trainer(tmp_path_factory.mktemp("never_moved"))
    install(trainer.cwd)
    try:
        trainer.run("train", *RUN, "run_dir=run")
    finally:
        trainer.close()
    losses = {record["loss"] for record in metrics(trainer.cwd / "run")}
    assert len(losses) > 12, "the network learns something, so a wrong step would show"
    areas = {record["auroc"] for record in metrics(trainer.cwd / "run") if record["split"] == "val"}
    assert len(areas) > 1, "the metrics of classes are among what is compared"
    return trainer.cwd / "run"


def test_a_run_that_moves_from_1_to_2_to_4_devices_and_back_has_the_bits_of_one_that_never_moved(
    never_moved: Path, trainer: Trainer
) -> None:
    run_dir = shutil.copytree(never_moved, trainer.cwd / "run")
    before = 1
    for step, count in ((3, 2), (6, 4), (9, 1)):
        command = ("resume", "run_dir=run", f"checkpoint=step-{step}", f"train.steps={step + 3}", devices(count))
        output = trainer.run(*command)
        moved = f"replicas was {before} and is {count}: every bit stays the same, by train.logical_replicas=4"
        assert moved in output
        assert "not promised" not in output
        before = count
    assert_same_run(never_moved, run_dir)


def test_a_run_that_moves_to_two_processes_has_the_bits_of_one_that_never_moved(
    never_moved: Path, trainer: Trainer
) -> None:
    run_dir = shutil.copytree(never_moved, trainer.cwd / "run")
    chief, _ = finish(start(trainer, "resume", "run_dir=run", "checkpoint=step-3"))
    assert "replicas was 1 and is 2 in 2 processes: every bit stays the same" in chief
    assert_same_run(never_moved, run_dir)


@pytest.mark.long
def test_what_two_processes_made_is_replayed_on_one_device_and_goes_on_there(
    never_moved: Path, trainer: Trainer
) -> None:
    finish(start(trainer, "train", *RUN, "run_dir=run", "train.steps=9", "schedule.decay_steps=12"))
    assert "ends in step-00000009: bitwise equal" in trainer.run("verify", "run_dir=run", "replay=true")
    trainer.run("resume", "run_dir=run", "train.steps=12")
    assert_same_run(never_moved, trainer.cwd / "run")


FAULTS = {
    "sums of a library, whose order follows the ring": """
from trainer.distributed import replicas
from trainer.training import step
step.total_in_order = replicas.total
""",
    "statistics that move from one logical replica to the next": """
from trainer.training import step
step.assign = lambda variable, value: None
""",
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_with_another_order_or_other_beginnings_the_bits_differ(
    fault: str, never_moved: Path, trainer: Trainer
) -> None:
    """What the proofs above would find: they do not pass because nothing could differ."""
    run_dir = shutil.copytree(never_moved, trainer.cwd / "run")
    command = ("resume", "run_dir=run", "checkpoint=step-3", "train.steps=6", devices(4), "allow=[step]")
    program = f"{FAULTS[fault]}\nimport sys\nfrom trainer.__main__ import main\nmain(sys.argv[1:])"
    finish([trainer.start_python("-c", program, *command)])
    last = Path("checkpoints", "step-00000006")
    assert differing_tensors(never_moved / last, run_dir / last)


# The default network at half its width, where a difference in the last bit grows by ten at every step.
INCEPTION = (
    "model.width=0.125",
    "model.batch_norm.synchronized=false",
    "model.batch_norm.group_size=4",
    "data.train_examples=320",
    "data.validation_examples=32",
    "train.logical_replicas=4",
    "train.global_batch_size=16",
    "train.log_every_steps=1",
    "evaluation.batch_size=16",
    "schedule.warmup_steps=0",
    "runtime.threads=2",
)
STEPS = 20
PARTS = ("train.accumulate_steps=2", "model.batch_norm.group_size=2")
TABLE = {
    "adam, mixup, clipping, average": ("mixing=mixup", "optimizer.clip_norm=1", "ema.decay=0.9"),
    "sgd, two parts": ("optimizer=sgd", "optimizer.learning_rate=0.05", *PARTS),
    "rmsprop, cutmix, average of all": ("optimizer=rmsprop", "mixing=cutmix", "ema.decay=0.9", "ema.batch_norm=true"),
    "adamw, bfloat16": ("optimizer=adamw", "runtime.precision=mixed_bfloat16"),
    "adam, float16": ("runtime.precision=mixed_float16",),
}


@pytest.mark.long
@pytest.mark.parametrize("what", TABLE)
def test_inception_v3_has_the_same_bits_on_1_2_and_4_devices(what: str) -> None:
    program = str(Path(__file__).parents[1] / "support" / "bits.py")
    overrides = json.dumps([*INCEPTION, *TABLE[what]])
    printed = [pythons.run([program, str(STEPS), str(count), overrides], timeout=3000).stdout for count in (1, 2, 4)]
    one, two, four = (json.loads(text.splitlines()[-1]) for text in printed)
    for many in (two, four):
        assert [name for name in one if one[name] != many[name]] == []
        assert many.keys() == one.keys()


@pytest.mark.long
@pytest.mark.parametrize("what", TABLE)
def test_inception_v3_has_the_same_bits_in_two_processes(what: str, trainer: Trainer) -> None:
    run = (*INCEPTION, *TABLE[what], f"train.steps={STEPS}", f"evaluation.every_steps={STEPS}")
    run = (*run, f"schedule.decay_steps={STEPS}", f"checkpoint.every_steps={STEPS}")
    trainer.run("train", *run, "run_dir=one")
    finish(start(trainer, "train", *run, "run_dir=two"))
    assert_same_run(trainer.cwd / "one", trainer.cwd / "two")


MOVES = 40


@pytest.mark.long
def test_forty_moves_and_kills_at_random_change_nothing(trainer: Trainer) -> None:
    """Every start is on 1, 2 or 4 devices, drawn; it is killed after a random time, asked to stop, or ends."""
    run = (*RUN, *paced(0.02), "train.steps=200", "evaluation.every_steps=20", "checkpoint.every_steps=5")
    trainer.run("train", *run, "run_dir=straight")
    draw = random.Random(20)
    command = ("train", *run, "run_dir=moved", "on_existing=resume")
    made = trainer.cwd / "moved"
    layouts, counts = set(), [draw.choice((1, 2, 4)) for _ in range(MOVES)]
    for number, count in enumerate(counts):
        process = trainer.start(*command, devices(count))
        while process.running and "\nstep " not in process.output:  # one of its own: others may have made that step
            time.sleep(0.02)
        wait_for_step(process, made, (number + 1) * 190 // MOVES)
        time.sleep(draw.uniform(0.0, 0.5))
        process.signal(draw.choice((signal.SIGKILL, signal.SIGTERM)))
        assert process.wait() in (-signal.SIGKILL, 75, 0), process.output
        layouts.add(count)
    trainer.run(*command, devices(1))
    assert layouts == {1, 2, 4}
    assert_same_run(trainer.cwd / "straight", made)
