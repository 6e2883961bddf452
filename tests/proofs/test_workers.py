"""Several processes that train one run together: real processes, on this machine, with TF_CONFIG.

The network is a small one, because nothing here depends on it: that the sum over processes is exact for Inception V3
too is proven on nodes of a Slurm, in test_slurm.py, and for replicas in tests/distributed/test_replicas.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from processes import Process, Trainer, assert_same_run, checkpoint_names
from small_plugin import SMALL, SMALL_SMOOTH, install, paced
from worker_processes import assert_one_curve, finish, free_ports, start

import trainer as trainer_package
from trainer.config.compose import configuration_directory
from trainer.training import losses

pytestmark = pytest.mark.usefixtures("small")

RUN = (
    *SMALL,
    *SMALL_SMOOTH,
    "model.batch_norm.synchronized=false",
    "train.steps=12",
    "evaluation.every_steps=6",
    "checkpoint.every_steps=4",
    "train.log_every_steps=1",
)
DISTURBED = (*RUN, *paced(0.05))  # the same run, slowly enough for what is done to it


def wait_for(run_dir: Path, step: int, processes: Sequence[Process]) -> None:
    """Until the run has logged a step."""
    for _ in range(10_000):
        log = run_dir / "metrics.jsonl"
        if log.exists() and f'{{"step": {step}, "split": "train"' in log.read_text():
            return
        assert all(process.running for process in processes), "\n====\n".join(each.output for each in processes)
        time.sleep(0.03)
    raise AssertionError(f"step {step} was not reached")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes from beginning to end."""
    trainer = Trainer(tmp_path_factory.mktemp("undisturbed"))
    install(trainer.cwd)
    try:
        chief, other = finish(start(trainer, "train", *RUN, "run_dir=run"))
    finally:
        trainer.close()
    assert "2 replicas in 2 processes" in chief
    assert "done at step 12" in chief
    assert "step 12" not in other, "the chief alone shows the run"
    return trainer.cwd / "run"


def test_a_signal_to_any_process_stops_all_at_one_step_and_the_resumed_run_equals_one_that_never_stopped(
    undisturbed: Path, trainer: Trainer
) -> None:
    command = ("train", *DISTURBED, "run_dir=run", "on_existing=resume")
    run_dir = trainer.cwd / "run"
    processes = start(trainer, *command)
    wait_for(run_dir, 3, processes)
    processes[1].signal(signal.SIGTERM)
    outputs = finish(processes, 75)
    said = {line for output in outputs for line in output.splitlines() if line.startswith("stopped: ")}
    assert len(said) == 1, said
    assert "python -m trainer resume run_dir=" in outputs[0].splitlines()[-1], "the chief names the command"
    step = int(checkpoint_names(run_dir)[-1].removeprefix("step-"))
    assert f"SIGTERM at step {step}; checkpoint step-{step:08d} is committed" in said.pop()
    assert 3 <= step < 12
    shutil.copytree(run_dir, trainer.cwd / "elsewhere")
    finish(start(trainer, *command))
    assert_same_run(undisturbed, run_dir)

    # the same checkpoint on another layout: one process with one device
    trainer.run("resume", "run_dir=elsewhere")
    assert_one_curve(undisturbed, trainer.cwd / "elsewhere")


# from its seventh batch on, this process cannot read the data
WITHOUT_DATA = """
import sys
from trainer.__main__ import main
from trainer.data.sources.digits import DigitsSplit
from trainer.errors import BadRecord
read, batches = DigitsSplit.read, []
def failing(self, records):
    batches.append(len(records))
    if sum(count > 1 for count in batches) > 6:
        raise BadRecord("/data/digits record 7 cannot be read: Input/output error")
    return read(self, records)
DigitsSplit.read = failing
main(sys.argv[1:])
"""


def test_when_one_process_loses_its_data_all_stop_at_one_step_that_is_committed(
    undisturbed: Path, trainer: Trainer
) -> None:
    command = ("train", *RUN, "run_dir=run", "on_existing=resume", "checkpoint.every_steps=100")
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cluster = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}} for rank in range(2)]
    chief = trainer.start(*command, TF_CONFIG=json.dumps(cluster[0]))
    other = trainer.start_python(
        "-c", WITHOUT_DATA, *command, TF_CONFIG=json.dumps(cluster[1]), TF_CPP_MIN_LOG_LEVEL="3"
    )
    outputs = finish([chief, other], 2)
    (name,) = checkpoint_names(trainer.cwd / "run")
    assert 1 <= int(name.removeprefix("step-")) <= 6
    assert "worker 1 cannot read the data; what and why is in the output of that process" in outputs[0]
    assert f"every step until here is committed: the last good checkpoint is run/checkpoints/{name}" in outputs[0]
    assert "/data/digits record 7 cannot be read: Input/output error" in outputs[1]
    assert "the chief names the checkpoint" in outputs[1]
    finish(start(trainer, *command, "checkpoint.every_steps=4"))
    assert_same_run(undisturbed, trainer.cwd / "run")


@pytest.mark.long
def test_what_one_process_has_begun_two_go_on_with(undisturbed: Path, trainer: Trainer) -> None:
    trainer.run("train", *RUN, "run_dir=run", "train.steps=5")
    resumed, _ = finish(start(trainer, "resume", "run_dir=run", "train.steps=12"))
    assert "replicas was 1 and is 2 in 2 processes: training goes on, but bit-exactness is not promised" in resumed
    assert_one_curve(undisturbed, trainer.cwd / "run")
    replayed = trainer.run("verify", "run_dir=run", "replay=true", status=2)
    assert "step-00000012 was made by replicas: 2 in 2 processes, and here there are: 1" in replayed


@pytest.mark.fresh
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.long)])
def test_when_a_process_is_killed_the_others_name_it_and_ask_to_be_run_again(
    victim: int, undisturbed: Path, trainer: Trainer
) -> None:
    processes = start(trainer, "train", *DISTURBED, "run_dir=run")
    wait_for(trainer.cwd / "run", 9, processes)  # the save of step 4 has ended, that of step 8 has begun
    processes[victim].signal(signal.SIGKILL)
    survivor = processes[1 - victim]
    began = time.monotonic()
    assert survivor.wait() == 75, survivor.output
    assert time.monotonic() - began < 60
    assert f"worker {victim} at 127.0.0.1:" in survivor.output.strip().splitlines()[-1]
    assert "was lost" in survivor.output
    assert "Traceback" not in survivor.output
    finish(start(trainer, "resume", "run_dir=run"))
    assert_same_run(undisturbed, trainer.cwd / "run")


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_hangs_the_others_do_not_wait_for_it_longer_than_a_minute(victim: int, trainer: Trainer) -> None:
    processes = start(trainer, "train", *DISTURBED, "run_dir=run", "train.steps=100000")
    wait_for(trainer.cwd / "run", 5, processes)
    processes[victim].signal(signal.SIGSTOP)
    survivor = processes[1 - victim]
    began = time.monotonic()
    assert survivor.wait() == 75, survivor.output
    assert time.monotonic() - began < 60
    assert f"worker {victim} at 127.0.0.1:" in survivor.output
    assert "no sign of life" in survivor.output


def test_what_the_chief_refuses_ends_all_with_its_status_and_reason(undisturbed: Path, trainer: Trainer) -> None:
    shutil.copytree(undisturbed, trainer.cwd / "run")
    outputs = finish(start(trainer, "resume", "run_dir=run", "model.activation=relu"), 3)
    for output in outputs:
        assert "model.activation: silu -> relu" in output
    outputs = finish(start(trainer, "resume", "run_dir=absent"), 2)
    assert "worker 0" in outputs[1]
    for output in outputs:
        assert "run_dir=absent does not exist" in output
    assert "is complete at step 12" in finish(start(trainer, "resume", "run_dir=run"))[0]


def test_a_process_with_another_program_is_refused_before_it_computes_anything(trainer: Trainer) -> None:
    """As when one node has an older installation, whose loss is another, and an older processor."""
    other = trainer.cwd / "other" / "trainer"
    program = Path(trainer_package.__file__).parent
    shutil.copytree(program, other)
    file = other / Path(losses.__file__).relative_to(program)
    before = "config.train.label_smoothing)"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, "config.train.label_smoothing * 1.01)"))
    shutil.copytree(configuration_directory(), other.with_name("conf"))
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cluster = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}} for rank in range(2)]
    chief = trainer.start("train", *RUN, "run_dir=run", TF_CONFIG=json.dumps(cluster[0]))
    path = f"{other.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    refused = trainer.start(
        "train", *RUN, "run_dir=run", TF_CONFIG=json.dumps(cluster[1]), PYTHONPATH=path, ONEDNN_MAX_CPU_ISA="SSE41"
    )
    for output in finish([chief, refused], 2):
        assert "worker 1 computes something else than the chief" in output
        assert "step objective: loss [" in output
        assert f"look at trainer/{file.relative_to(other)}" in output
    assert "warning: instruction set is SSE41 in worker 1 and " in refused.output
    assert "step 1/" not in chief.output


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2])
def test_a_hundred_signals_at_random_moments_change_nothing(count: int, undisturbed: Path, trainer: Trainer) -> None:
    """During imports, the meeting of the processes, tracing, steps, evaluation and saves; some of them twice."""
    random = np.random.default_rng(count)
    run_dir = trainer.cwd / "run"
    command = ("train", *DISTURBED, "run_dir=run", "on_existing=resume")
    clean = 0
    while clean < int(os.environ.get("SIGNALS", "100")):
        if run_dir.exists() and random.random() < 0.2:
            shutil.rmtree(run_dir)  # from the beginning again, or it would soon be complete
        processes = start(trainer, *command, count=count) if count > 1 else [trainer.start(*command)]
        time.sleep(1 + random.exponential(12))
        victim = processes[random.integers(count)]
        for _ in range(random.integers(1, 3)):
            victim.signal([signal.SIGTERM, signal.SIGUSR1][random.integers(2)])
            time.sleep(random.exponential(0.5))
        victim.wait()
        for process in processes:  # before they have met, the others would wait for another in its place
            process.signal(signal.SIGTERM)
        statuses = {process.wait() for process in processes}
        outputs = "\n====\n".join(process.output for process in processes)
        assert statuses in ({75}, {0}), outputs
        assert "Traceback" not in outputs, outputs
        clean += 1
    finish(start(trainer, *command, count=count) if count > 1 else [trainer.start(*command)])
    if count == 2:
        assert_same_run(undisturbed, run_dir)
    else:
        assert_one_curve(undisturbed, run_dir)
