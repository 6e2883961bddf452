"""The promise: a run that was stopped, in any way, and resumed is bit for bit the run that never stopped.

Every run here is a process of its own, started by its command line. References are shared; every comparison covers
all tensors of the last checkpoint (weights, batch norm statistics, slots, EMA, counters, ledger of examples) and the
whole of metrics.jsonl.
"""

from __future__ import annotations

import random
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from made_once import made_once
from processes import NARROW, Trainer, assert_same_run, checkpoint_names, metrics, wait_for_step
from small_plugin import SMALL, install, paced

from trainer.checkpoint import manifest

STEPS = 12  # 2.4 epochs
EVERYTHING = (
    "schedule.decay_steps=12",
    "schedule.warmup_steps=3",
    "evaluation.every_steps=4",
    "checkpoint.every_steps=3",
)
AVERAGED = ("ema.decay=0.99", "evaluation.weights=ema")
AUGMENTED = (
    "preprocess.train=[decode,random_area_crop,resize,horizontal_flip,rand_augment,color_jitter,normalize,random_erasing]",
    "mixing=mixup_cutmix",
)
VARIANTS = {
    # optimizer: (overrides, where the clean stop is: mid-epoch, at an epoch's boundary, off the log cadence)
    "adam": (("optimizer=adam", *AVERAGED, "train.accumulate_steps=2"), 7),
    "adamw": (("optimizer=adamw", "optimizer.clip_norm=1.0", *AUGMENTED), 5),
    "sgd": (("optimizer=sgd", *AVERAGED, "ema.batch_norm=true"), 10),
    "rmsprop": (("optimizer=rmsprop", "train.accumulate_steps=4", "mixing=cutmix"), 8),
}


# The variants are of Inception V3, but for these: "small sgd" is the same of a small network. This one is for what
# happens to a run from outside, which no network changes. It has a pace, so that a signal still finds it there.
SMALL_RUN = "small adam"


def train_arguments(run_dir: Path, variant: str, *more: str) -> tuple[str, ...]:
    *is_small, optimizer = variant.split()
    network = (*(SMALL if is_small else NARROW), *(paced(0.2) if variant == SMALL_RUN else ()))
    return ("train", f"run_dir={run_dir}", *network, *VARIANTS[optimizer][0], *EVERYTHING, *more)


@pytest.fixture(scope="session")  # not of the module, whose tests would all go to one worker
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Undisturbed runs, made when first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, variant: str) -> Path:
            def make(trainer: Trainer) -> None:
                if variant.startswith("small"):
                    install(trainer.cwd)
                trainer.run(*train_arguments(trainer.cwd / "run", variant, f"train.steps={STEPS}"))

            self[variant] = made_once(tmp_path_factory, f"reference {variant}", make) / "run"
            return self[variant]

    return Made()


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("adam", marks=pytest.mark.fresh),
        "small adamw",
        "small sgd",
        "small rmsprop",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("adamw", "sgd", "rmsprop", "small adam")),
    ],
)
@pytest.mark.usefixtures("small")
def test_clean_stop_and_resume_equals_uninterrupted_run(
    variant: str, references: dict[str, Path], trainer: Trainer
) -> None:
    stop = VARIANTS[variant.rsplit(maxsplit=1)[-1]][1]
    run_dir = trainer.cwd / "run"
    trainer.run(*train_arguments(run_dir, variant, f"train.steps={stop}"))
    trainer.run("resume", f"run_dir={run_dir}", f"train.steps={STEPS}")
    assert_same_run(references[variant], run_dir)


@pytest.mark.parametrize(
    ("number", "status", "after", "variant"),
    [
        (signal.SIGTERM, 75, 4, SMALL_RUN),
        (signal.SIGHUP, 75, 6, SMALL_RUN),
        (signal.SIGINT, 130, 2, SMALL_RUN),
        pytest.param(signal.SIGTERM, 75, 4, "adam", marks=[pytest.mark.fresh, pytest.mark.long]),
        pytest.param(signal.SIGUSR1, 75, 6, SMALL_RUN, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR2, 75, 8, "adam", marks=pytest.mark.long),
    ],
)
@pytest.mark.usefixtures("small")
def test_resume_after_a_signal_equals_uninterrupted_run(
    number: signal.Signals, status: int, after: int, variant: str, references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    often = "checkpoint.every_minutes=0.000001"  # is over at every step; the run that it must equal has no such key
    process = trainer.start(*train_arguments(run_dir, variant, f"train.steps={STEPS}"), often)
    wait_for_step(process, run_dir, after)
    process.signal(number)
    assert process.wait() == status, process.output
    stopped_at = checkpoint_names(run_dir)[-1]
    assert f"checkpoint {stopped_at} is committed" in process.output
    made = [int(name.removeprefix("step-")) for name in checkpoint_names(run_dir)]
    assert made == [*range(1, made[-1] + 1)]
    assert "Traceback" not in process.output
    assert stopped_at < f"step-{STEPS:08d}", "the signal came too late to prove anything"
    *_, goes_on = process.output.splitlines()
    trainer.run(*shlex.split(goes_on)[3:])
    assert_same_run(references[variant], run_dir)


ASKED_WHILE_VALIDATING = """
import os, signal, sys
from trainer.__main__ import main
from trainer.training import loop
validate = loop.validate
def asked(run, standing, *arguments, **named):
    if standing.step == 12:
        os.kill(os.getpid(), signal.SIGTERM)
    return validate(run, standing, *arguments, **named)
loop.validate = asked
main(sys.argv[1:])
"""


@pytest.mark.usefixtures("small")
def test_a_stop_before_the_last_validation_leaves_it_to_the_resumed_run_whose_checkpoint_has_it(
    references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    command = train_arguments(run_dir, SMALL_RUN, f"train.steps={STEPS}")
    process = trainer.start_python("-c", ASKED_WHILE_VALIDATING, *command)
    assert process.wait() == 75, process.output
    last = run_dir / "checkpoints" / f"step-{STEPS:08d}"
    assert manifest.read(last / manifest.FILE_NAME).validation is None
    trainer.run("resume", f"run_dir={run_dir}")
    assert_same_run(references[SMALL_RUN], run_dir)
    assert manifest.read(last / manifest.FILE_NAME).validation is not None
    assert list((run_dir / "checkpoints" / "superseded").iterdir()) == []


# no time between saves that block, so that the second one, which is measured, comes on every machine before step 7
EAGER = """
import sys
from trainer.__main__ import main
from trainer.training import save_interval
save_interval.FIRST_SECONDS, save_interval.SHORTEST, save_interval.LONGEST = 0, 0, 0
main(sys.argv[1:])
"""


@pytest.mark.usefixtures("small")
def test_a_run_that_saves_by_time_and_is_killed_equals_one_that_saves_by_steps(
    references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    arguments = train_arguments(run_dir, SMALL_RUN, f"train.steps={STEPS}", "on_existing=resume")
    command = ("-c", EAGER, *arguments, "checkpoint.every_steps=auto", "checkpoint.async_save=false")
    process = trainer.start_python(*command)
    wait_for_step(process, run_dir, 8)
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.output
    made = [int(name.removeprefix("step-")) for name in checkpoint_names(run_dir)]
    assert made
    assert made != [3, 6], "as the reference"
    output = trainer.start_python(*command)
    assert output.wait() == 0, output.output
    assert "\ncheckpoint.every_steps=auto: a checkpoint every " in output.output
    assert "; seen: 1 failure in " in output.output
    assert_same_run(references[SMALL_RUN], run_dir)


def test_every_example_came_exactly_once(references: dict[str, Path]) -> None:
    """The ledger of a run, in records and manifest, is the one that its configuration alone implies."""
    from trainer.data.order.ledger import expected_ledger
    from trainer.data.order.permutation import records_at

    last = references["small sgd"] / "checkpoints" / checkpoint_names(references["small sgd"])[-1]
    expected = {
        examples: f"{expected_ledger(lambda positions: records_at(positions, 40, seed=0), examples, 8):016x}"
        for examples in range(0, 8 * STEPS + 1, 8)
    }
    assert manifest.read(last / manifest.FILE_NAME).ledger == expected[8 * STEPS]
    records = [record for record in metrics(references["small sgd"]) if record["split"] == "train"]
    assert len(records) == STEPS / 2
    assert all(record["ledger"] == expected[record["examples"]] for record in records)


@pytest.mark.usefixtures("small")
def test_a_signal_before_the_first_step_commits_step_zero_and_resumes_exactly(
    references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    process = trainer.start(*train_arguments(run_dir, SMALL_RUN, f"train.steps={STEPS}"))
    deadline = time.monotonic() + 240
    while process.running and not (run_dir / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.signal(signal.SIGTERM)
    assert process.wait() == 75, process.output
    assert checkpoint_names(run_dir) == ["step-00000000"]
    trainer.run(*train_arguments(run_dir, SMALL_RUN, f"train.steps={STEPS}", "on_existing=resume"))
    assert_same_run(references[SMALL_RUN], run_dir)


def kill_until_done(
    trainer: Trainer, run_dir: Path, command: tuple[str, ...], kills: int, seed: int, longest: float
) -> int:
    """Run ``command`` over and over, killing it at random moments; the kills that hit a living process."""
    moments = random.Random(seed)
    landed = 0
    for _ in range(kills):
        process = trainer.start(*command)
        deadline = time.monotonic() + moments.uniform(0.0, longest)
        while process.running and time.monotonic() < deadline:
            time.sleep(0.005)
        landed += process.running
        process.signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL), process.output
    trainer.run(*command)
    return landed


def kill_in_training(trainer: Trainer, run_dir: Path, command: tuple[str, ...], seed: int) -> int:
    """Kill a run at random moments after its first checkpoints, until it has half of its steps; the kills."""
    moments = random.Random(seed)
    kills = newest = 0
    while newest < STEPS // 2:
        process = trainer.start(*command)
        wait_for_step(process, run_dir, newest + 4)
        time.sleep(moments.uniform(0.0, 0.3))
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.output
        newest = int(checkpoint_names(run_dir)[-1].removeprefix("step-")) if (run_dir / "checkpoints").exists() else 0
        kills += 1
    return kills


def lifetime(trainer: Trainer, variant: str) -> float:
    """Seconds that a process takes, here and now, from its start to the end of the whole run."""
    began = time.monotonic()
    trainer.run(*train_arguments(trainer.cwd / "measured", variant, f"train.steps={STEPS}"))
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("variant", "seed"), [(SMALL_RUN, 1), pytest.param("sgd", 2, marks=[pytest.mark.long, pytest.mark.fresh])]
)
@pytest.mark.usefixtures("small")
def test_resume_after_sigkill_at_random_moments_equals_uninterrupted_run(
    variant: str, seed: int, references: dict[str, Path], trainer: Trainer
) -> None:
    reference = references[variant]
    longest, landed = lifetime(trainer, variant), 0
    for attempt in range(3):  # a machine that was busy while the lifetime was measured may be idle now
        run_dir = trainer.cwd / f"run-{attempt}"
        command = train_arguments(run_dir, variant, f"train.steps={STEPS}", "on_existing=resume")
        landed = kill_in_training(trainer, run_dir, command, seed)
        landed += kill_until_done(trainer, run_dir, command, kills=6, seed=seed, longest=longest / 2**attempt)
        if landed >= 4:
            break
    assert landed >= 4, "most of the kills came after the run was done"
    assert_same_run(reference, run_dir)
    lineage = manifest.read(run_dir / "checkpoints" / checkpoint_names(run_dir)[-1] / manifest.FILE_NAME).lineage
    assert lineage[-1].from_step > 0, "no kill came after a checkpoint"
    leftovers = [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
    assert leftovers == []


@pytest.mark.fresh
@pytest.mark.long
@pytest.mark.parametrize("optimizer", VARIANTS)
def test_resume_after_many_sigkills_equals_uninterrupted_run(
    optimizer: str, references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    command = train_arguments(run_dir, optimizer, f"train.steps={STEPS}", "on_existing=resume")
    kill_until_done(trainer, run_dir, command, kills=40, seed=40, longest=lifetime(trainer, optimizer))
    assert_same_run(references[optimizer], run_dir)


@pytest.mark.usefixtures("small")
def test_a_copied_checkpoint_directory_resumes_elsewhere(references: dict[str, Path], trainer: Trainer) -> None:
    copied = trainer.cwd / "elsewhere" / "step-00000006"
    shutil.copytree(references[SMALL_RUN] / "checkpoints" / "step-00000006", copied)
    run_dir = trainer.cwd / "new"
    trainer.run("resume", f"run_dir={run_dir}", f"checkpoint={copied}")
    from trainer.checkpoint.differences import differing_tensors

    last = f"checkpoints/step-{STEPS:08d}"
    assert differing_tensors(references[SMALL_RUN] / last, run_dir / last) == []
    expected = [record for record in metrics(references[SMALL_RUN]) if record["step"] > 6]
    assert metrics(run_dir) == expected


@pytest.mark.usefixtures("small")
def test_a_copied_run_directory_resumes_and_reports_completion(references: dict[str, Path], trainer: Trainer) -> None:
    run_dir = trainer.cwd / "copied run"
    shutil.copytree(references[SMALL_RUN], run_dir)
    assert "is complete at step 12" in trainer.run("resume", f"run_dir={run_dir}")
    trainer.run("resume", f"run_dir={run_dir}", "checkpoint=step-3")
    assert_same_run(references[SMALL_RUN], run_dir)


@pytest.mark.usefixtures("small")
def test_diff_exits_0_exactly_for_equal_states(references: dict[str, Path], trainer: Trainer) -> None:
    left = references[SMALL_RUN]
    same = trainer.run("diff", f"left={left}", f"right={left / 'checkpoints' / 'step-00000012'}")
    assert "bitwise equal" in same
    other = trainer.run("diff", f"left={left}", f"right={left / 'checkpoints' / 'step-00000009'}", status=3)
    assert "tensors differ" in other
    assert "  model/" in other
    assert "first at [" in other


@pytest.mark.usefixtures("small")
def test_a_damaged_checkpoint_is_skipped_loudly_and_the_result_is_the_same(
    references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    shutil.copytree(references[SMALL_RUN], run_dir)
    newest = run_dir / "checkpoints" / "step-00000012" / "state.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    output = trainer.run("resume", f"run_dir={run_dir}")
    assert "warning: skipping step-00000012" in output
    assert "state.data-00000-of-00001 is damaged" in output
    assert "damaged tensor: " in output
    assert_same_run(references[SMALL_RUN], run_dir)
    evidence = run_dir / "checkpoints" / "quarantine" / "step-00000012"
    assert (evidence / newest.name).read_bytes() == content
    assert "is damaged" in evidence.with_name("step-00000012.reason.txt").read_text()


@pytest.mark.usefixtures("small")
def test_replaying_a_stretch_finds_the_one_tensor_that_was_changed_together_with_its_digests(
    references: dict[str, Path], trainer: Trainer
) -> None:
    """That one alone differs: so training again reproduces every other, bit for bit."""
    run_dir = trainer.cwd / "run"
    shutil.copytree(references[SMALL_RUN], run_dir)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    from diagnosing import forge

    newest = run_dir / "checkpoints" / f"step-{STEPS:08d}"
    forge(newest, "model/conv_0/kernel")
    before |= {path: path.stat().st_mtime_ns for path in (newest, *newest.iterdir())}
    output = trainer.run("verify", f"run_dir={run_dir}", "replay=true", status=3)
    assert "does not end in step-00000012: 1 tensors differ" in output
    assert "  model/conv_0/kernel: 1 of 108 values differ, first at [0, 0, 0, 0]" in output
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


@pytest.mark.usefixtures("small")
def test_no_valid_checkpoint_exits_4_and_never_starts_afresh(references: dict[str, Path], trainer: Trainer) -> None:
    run_dir = trainer.cwd / "run"
    shutil.copytree(references[SMALL_RUN], run_dir)
    for name in checkpoint_names(run_dir):
        (run_dir / "checkpoints" / name / "state.index").write_bytes(b"")
    before = sorted((path, path.stat().st_size) for path in run_dir.rglob("*"))
    output = trainer.run("resume", f"run_dir={run_dir}", status=4)
    assert f"none of the {len(checkpoint_names(run_dir))} checkpoints" in output
    trainer.run(*train_arguments(run_dir, SMALL_RUN, f"train.steps={STEPS}", "on_existing=resume"), status=4)
    after = sorted((path, path.stat().st_size) for path in run_dir.rglob("*"))
    assert [entry for entry in after if entry[0].name != ".lock"] == [
        entry for entry in before if entry[0].name != ".lock"
    ]


@pytest.mark.usefixtures("small")
def test_train_refuses_a_directory_with_checkpoints_and_prints_the_resume_command(
    references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    shutil.copytree(references[SMALL_RUN], run_dir)  # who is refused has locked the directory, which others read
    output = trainer.run(*train_arguments(run_dir, SMALL_RUN), status=2)
    assert f"python -m trainer resume run_dir={run_dir}" in output


@pytest.mark.usefixtures("small")
def test_resuming_with_a_key_that_changes_the_result_is_refused_with_both_values(
    references: dict[str, Path], trainer: Trainer
) -> None:
    run_dir = trainer.cwd / "run"
    shutil.copytree(references[SMALL_RUN], run_dir)
    output = trainer.run("resume", f"run_dir={run_dir}", "optimizer.learning_rate=0.5", status=3)
    assert "optimizer.learning_rate: 0.003 -> 0.5" in output
    output = trainer.run(*train_arguments(run_dir, SMALL_RUN, "optimizer=sgd", "on_existing=resume"), status=3)
    assert "optimizer.name: adam -> sgd" in output
    output = trainer.run("resume", f"run_dir={run_dir}", "train.stesp=3", status=2)
    assert "did you mean train.steps?" in output


@pytest.mark.usefixtures("small")
def test_a_second_writer_exits_5_and_names_the_first(references: dict[str, Path], trainer: Trainer) -> None:
    run_dir = trainer.cwd / "run"
    shutil.copytree(references[SMALL_RUN], run_dir)
    longer = ("train.steps=100000", "schedule.decay_steps=100000", "allow=[schedule]")
    first = trainer.start("resume", f"run_dir={run_dir}", *longer)
    wait_for_step(first, run_dir, 14)
    assert first.running, first.output
    output = trainer.run("resume", f"run_dir={run_dir}", *longer, status=5)
    assert f"process {first._popen.pid}" in output
    first.signal(signal.SIGTERM)
    assert first.wait() == 75
