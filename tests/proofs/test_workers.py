"""Several processes that train one run together: real processes, on this machine, with TF_CONFIG.

The network is a small one, because nothing depends on it but one claim, which has a test of its own: that the sum over
processes is exact for Inception V3 too. For replicas see tests/distributed/test_replicas.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from processes import NARROW, SMOOTH, Process, Trainer, assert_same_run, checkpoint_names
from small_plugin import SMALL, SMALL_SMOOTH, install, paced
from worker_processes import assert_one_curve, cluster_of_two, finish, start

import trainer as trainer_package
from trainer.config.compose import configuration_directory
from trainer.report import contents as report_contents
from trainer.report import page
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
    log = run_dir / "metrics.jsonl"
    logged = f'{{"step": {step}, "split": "train"'
    wait_until(lambda: log.exists() and logged in log.read_text(), processes, f"step {step}")


def wait_until(is_so: Callable[[], bool], processes: Sequence[Process], what: str) -> None:
    """Until ``is_so``, as long as all processes run."""
    for _ in range(10_000):
        if is_so():
            return
        assert all(process.running for process in processes), "\n====\n".join(each.output for each in processes)
        time.sleep(0.03)
    raise AssertionError(f"{what} did not come")


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


# each process has an opinion of its own about when a save is due; the chief alone writes
BY_TIME = """
import os, sys
from trainer.__main__ import main
from trainer.training import save_interval
save_interval.SHORTEST, save_interval.LONGEST = 0.1, 0.2
save_interval.FIRST_SECONDS = 0.1 if '"index": 0' in os.environ["TF_CONFIG"] else 0.05
main(sys.argv[1:])
"""


def test_a_signal_to_any_process_stops_all_at_one_step_and_the_resumed_run_equals_one_that_never_stopped(
    undisturbed: Path, trainer: Trainer
) -> None:
    command = ("train", *RUN, *paced(0.15), "run_dir=run", "on_existing=resume", "checkpoint.every_steps=auto")
    run_dir = trainer.cwd / "run"
    processes = [trainer.start_python("-c", BY_TIME, *command, TF_CONFIG=place) for place in cluster_of_two()]
    wait_for(run_dir, 3, processes)
    wait_until(lambda: bool(checkpoint_names(run_dir)), processes, "a save by time")
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


def test_a_process_too_many_idles_and_the_run_is_that_of_the_others(undisturbed: Path, trainer: Trainer) -> None:
    """Three processes, and a batch of 32. A signal to the idle one stops all, and the other two go on exactly."""
    command = ("train", *DISTURBED, "run_dir=run", "on_existing=resume")
    run_dir = trainer.cwd / "run"
    processes = start(trainer, *command, count=3)
    wait_for(run_dir, 2, processes)
    processes[2].signal(signal.SIGTERM)
    chief, _, idle = finish(processes, 75)
    reason = "train.global_batch_size=32 cannot be divided equally among 3 replicas x groups of model.batch_norm."
    assert "2 replicas in 2 processes" in chief
    assert f"idles: {reason}" in chief
    assert "worker 2 at 127.0.0.1:" in chief
    assert "numbers of processes of which none idles: 1, 2, 4\n" in chief
    assert f"warning: worker 2 idles, and ends with the run: {reason}" in idle
    assert idle.splitlines()[-1] == chief.splitlines()[-1]
    assert f"checkpoint {checkpoint_names(run_dir)[-1]} is committed" in idle

    chief, _ = finish(start(trainer, *command))
    assert "bit-exactness is not promised" not in chief
    assert_same_run(undisturbed, run_dir)


def test_the_loss_of_an_idle_process_loses_no_step(trainer: Trainer) -> None:
    """Two processes cannot share a batch of 9 at all, so the chief computes alone."""
    run = (*DISTURBED, "train.global_batch_size=9", "evaluation.batch_size=9", "model.batch_norm.group_size=3")
    chief, idle = start(trainer, "train", *run, "checkpoint.every_steps=100", "run_dir=run")
    wait_for(trainer.cwd / "run", 2, [chief, idle])
    idle.signal(signal.SIGKILL)
    (output,) = finish([chief], 75)
    assert "replicas in" not in output
    assert "worker 1 at 127.0.0.1:" in output
    assert "was lost: its connection ended; all processes stop" in output
    assert f"checkpoint {checkpoint_names(trainer.cwd / 'run')[-1]} is committed" in output


def test_inception_v3_on_two_processes_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(trainer: Trainer) -> None:
    command = (
        *("train", *NARROW, *SMOOTH, "model.aux_logits=false", "model.batch_norm.synchronized=false"),
        *("train.steps=6", "train.log_every_steps=1", "evaluation.every_steps=6", "checkpoint.every_steps=3"),
    )
    straight, run = trainer.cwd / "straight", trainer.cwd / "run"
    finish(start(trainer, *command, "run_dir=straight"))
    shutil.copytree(straight, run)
    chief, _ = finish(start(trainer, "resume", "run_dir=run", "checkpoint=step-3"))
    assert "step 4/" in chief
    assert_same_run(straight, run)


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
    first, second = cluster_of_two()
    chief = trainer.start(*command, TF_CONFIG=first)
    other = trainer.start_python("-c", WITHOUT_DATA, *command, TF_CONFIG=second, TF_CPP_MIN_LOG_LEVEL="3")
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


def test_a_process_with_another_program_command_and_environment_is_refused_when_the_processes_meet(
    trainer: Trainer,
) -> None:
    """As when one node has an older installation. Without smoothing, the edit changes no fact about a step."""
    other = trainer.cwd / "other" / "trainer"
    program = Path(trainer_package.__file__).parent
    shutil.copytree(program, other)
    file = other / Path(losses.__file__).relative_to(program)
    before = "config.train.label_smoothing)"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, "config.train.label_smoothing * 2)"))
    shutil.copytree(configuration_directory(), other.with_name("conf"))
    path = f"{other.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    first, second = cluster_of_two()
    command = ("train", *RUN, "train.label_smoothing=0")
    chief = trainer.start(*command, "run_dir=run", TF_CONFIG=first)
    refused = trainer.start(
        *(*command, "run_dir=elsewhere", "seed=2"), TF_CONFIG=second, PYTHONPATH=path, ONEDNN_MAX_CPU_ISA="SSE41"
    )
    for output in finish([chief, refused], 3):
        assert "the processes of this run were not started alike" in output
        odd = re.search(rf"odd: (worker 1, process \d+ on {re.escape(socket.gethostname())})$", output, re.MULTILINE)
        assert odd is not None, output
        assert f"{odd[1]} has seed: 2; the others have: 0" in output
        assert f"{odd[1]} has ONEDNN_MAX_CPU_ISA: SSE41; the others have: not set" in output
        assert f"{odd[1]} has code of trainer/{file.relative_to(other)}: " in output
        assert "run_dir" not in output, "places may differ"
    assert not (trainer.cwd / "run").exists()


# other pixels, in this process alone
OTHER_DATA = """
import sys
from trainer.__main__ import main
from trainer.data.sources.digits import DigitsSplit
read = DigitsSplit.read
DigitsSplit.read = lambda self, records: (read(self, records)[0], 9 - read(self, records)[1])
main(sys.argv[1:])
"""


def test_a_process_that_sees_other_data_is_refused_before_it_computes_anything(trainer: Trainer) -> None:
    first, second = cluster_of_two()
    chief = trainer.start("train", *RUN, "run_dir=run", TF_CONFIG=first)
    other = trainer.start_python("-c", OTHER_DATA, "train", *RUN, TF_CONFIG=second)
    for output in finish([chief, other], 3):
        assert f"on {socket.gethostname()}, computes something else than the chief" in output
        assert "look at the data; give all processes the same program, environment and data" in output
    assert "step 1/" not in chief.output


@pytest.mark.parametrize("odd", [0, 1])
def test_a_wrong_configuration_of_one_process_ends_all_with_2(odd: int, trainer: Trainer) -> None:
    begun = time.monotonic()
    commands = [
        ("train", *RUN, "run_dir=run", "train.steps=none") if rank == odd else ("train", *RUN) for rank in (0, 1)
    ]
    processes = [
        trainer.start(*command, TF_CONFIG=place) for command, place in zip(commands, cluster_of_two(), strict=True)
    ]
    outputs = finish(processes, 2)
    assert time.monotonic() - begun < 200, "nobody waits as long as for one that boots"
    for output in outputs:
        assert "train.steps" in output
    assert f"worker {odd}" in outputs[1 - odd]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_processes_at_ipv6_addresses_train_the_same_run(undisturbed: Path, trainer: Trainer) -> None:
    places = cluster_of_two("[::1]")
    finish([trainer.start("train", *RUN, "run_dir=run", TF_CONFIG=place) for place in places])
    assert_same_run(undisturbed, trainer.cwd / "run")


# the second process does something else for a third of a second in each step; ten steps stand for a hundred
UNEVEN = """
import sys, time
from trainer.__main__ import main
from trainer.distributed import stragglers
from trainer.run import worker
stragglers.STEPS = 10
worker._Views.before = lambda self, step, batch: time.sleep(0.3)
main(sys.argv[1:])
"""


def test_a_process_whose_own_work_is_slow_is_named_in_the_log_and_in_the_report(trainer: Trainer) -> None:
    command = ("-c", UNEVEN, "train", *RUN, "run_dir=run", "train.steps=24", "evaluation.every_steps=24")
    chief, other = finish([trainer.start_python(*command, TF_CONFIG=place) for place in cluster_of_two()])
    line = re.search(r"^warning: (worker 1 at 127\.0\.0\.1:\d+) is slow: its own work takes .* s a step", chief, re.M)
    assert line is not None, chief
    assert line[0] in (trainer.cwd / "run" / "train.log").read_text()
    assert "is slow" not in other, "the chief tells it for all"
    contents = report_contents.read(trainer.cwd / "run", "run", print)
    assert page._facts(contents)["Slow process"].startswith(f"{line[1]}: its own work took ")


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
