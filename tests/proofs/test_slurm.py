"""A job on a real Slurm goes on by itself after everything a scheduler does to it, and ends in the same state.

Every job is ``scripts/slurm/train.sbatch`` as a user submits it. What happened when is printed (``pytest -s``): the
table of times in docs/cluster.md comes from there.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

import pytest
from elsewhere import build_elsewhere
from made_once import made_once
from processes import Trainer, assert_same_run, checkpoint_names
from slurm import ENDED, SECONDS_ALLOWED, Slurm, missing
from small_plugin import SMALL, SMALL_SMOOTH, install, paced
from worker_processes import assert_one_curve, finish
from worker_processes import start as start_workers

from trainer.distributed.cluster import discover
from trainer.sweeps import plan

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("small")]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
STEPS = 80
SECONDS_FOR_A_SWEEP = 300
CADENCE = (
    f"train.steps={STEPS}",
    "train.log_every_steps=1",
    f"evaluation.every_steps={STEPS}",
    "checkpoint.every_steps=10",
)
# what a scheduler does to a process does not depend on the network
UNDISTURBED = (*SMALL, *CADENCE)
ARGUMENTS = (*UNDISTURBED, *paced(0.1))
# on several nodes: larger batches to share out, and a network that does not magnify the order of a sum
UNDISTURBED_PAIR = (*SMALL, *CADENCE, *SMALL_SMOOTH, "model.batch_norm.synchronized=false")
SHARED = (*UNDISTURBED_PAIR, *paced(0.1))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"), nodes=3)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(slurm: Slurm) -> Iterator[Slurm]:
    """All nodes up and idle, before and after."""
    slurm.wait(lambda: slurm.idle == set(slurm.nodes), "all nodes idle")
    yield slurm
    slurm.cancel_all()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to, made when first asked for."""

    def make(trainer: Trainer) -> None:
        install(trainer.cwd)
        trainer.run("train", f"run_dir={trainer.cwd / 'run'}", *UNDISTURBED)

    return made_once(tmp_path_factory, "undisturbed", make) / "run"


def newest_step(run_dir: Path) -> int:
    """The step of the last training record that is complete."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


class Submitted:
    """One job and its run directory, as they are seen from outside."""

    def __init__(
        self,
        cluster: Slurm,
        run_dir: Path,
        nodes: int | str,
        *options: str,
        arguments: Sequence[str] = ARGUMENTS,
        **environment: str,
    ) -> None:
        self.cluster = cluster
        self.run_dir = run_dir
        numbers = (run_dir.with_name(f"{run_dir.name}-{number}.log") for number in itertools.count())
        self.log = next(path for path in numbers if not path.exists())
        self.log.touch()
        self.number = cluster.submit(
            f"--nodes={nodes}",
            f"--output={self.log}",
            *options,
            str(SCRIPT),
            *arguments,
            cwd=run_dir.parent,
            environment={"RUN_DIR": str(run_dir), "PYTHON": sys.executable, **environment},
        )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def newest_step(self) -> int:
        return newest_step(self.run_dir)

    @property
    def committed_step(self) -> int:
        place = self.run_dir / "checkpoints"
        return int(checkpoint_names(self.run_dir)[-1][5:]) if place.is_dir() and checkpoint_names(self.run_dir) else 0

    def wait(self, condition: str, at_least: int) -> None:
        """Until ``newest_step`` or ``committed_step`` is ``at_least`` so much."""
        self.wait_until(lambda: getattr(self, condition) >= at_least, f"{condition} {at_least}")
        assert self.newest_step < STEPS, "too late to prove anything"

    @property
    def starts(self) -> int:
        return self.output.count("train.sbatch: job ")

    def wait_for_start(self, number: int) -> None:
        self.wait_until(lambda: self.starts >= number, f"start {number}")

    def wait_for_new_step(self) -> None:
        """Until the latest start has made a step."""
        self.wait_until(lambda: "\nstep " in self.output.rpartition("train.sbatch: job ")[2], "new step", 400)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = SECONDS_ALLOWED) -> None:
        """Until ``condition`` holds, as long as the job has not failed."""

        def holds() -> bool:
            if condition():
                return True
            assert self.cluster.job(self.number).state != "FAILED", f"no {what}: the job has failed\n{self.output}"
            return False

        self.cluster.wait(holds, f"{what} of job {self.number}", seconds, lambda: self.output)

    def tasks(self) -> list[int]:
        """The processes that train, wherever they run."""
        wanted = f"run_dir={self.run_dir}"
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has just ended
                continue
            if words[0] == sys.executable and wanted in words:
                found.append(int(path.parent.name))
        return found

    def task(self, rank: int) -> int:
        """The process of this rank."""
        wanted = f"SLURM_PROCID={rank}".encode()
        (found,) = [each for each in self.tasks() if wanted in Path(f"/proc/{each}/environ").read_bytes().split(b"\0")]
        return found

    @contextmanager
    def held(self) -> Iterator[list[int]]:
        """Its tasks do nothing meanwhile, or they would be done before something slow has happened."""
        tasks = self.tasks()
        for task in tasks:
            os.kill(task, signal.SIGSTOP)
        yield tasks
        for task in tasks:
            with suppress(ProcessLookupError):
                os.kill(task, signal.SIGCONT)

    def end(self, state: str = "COMPLETED", status: int = 0) -> None:
        job = self.cluster.wait_for_end(self.number, lambda: self.output)
        assert (job.state, job.exit_status) == (state, status), self.output
        assert "Traceback" not in self.output, self.output


class Times:
    """Prints how long after ``began`` a job that was stopped has its checkpoint, starts again and makes a new step."""

    def __init__(self, job: Submitted, event: str, starts: int) -> None:
        self._job, self._event, self._starts = job, event, starts
        self._began = time.time()

    def follow(self) -> None:
        job = self._job
        job.wait_for_start(self._starts + 1)
        restarted = time.time()
        newest = job.run_dir / "checkpoints" / checkpoint_names(job.run_dir)[-1]
        committed = newest.stat().st_ctime  # of the rename
        job.wait_for_new_step()
        print(
            f"{self._event}: {newest.name} committed {committed - self._began:+.1f} s, "
            f"restarted {restarted - self._began:+.1f} s, first new step {time.time() - self._began:+.1f} s"
        )


def test_five_restarts_in_a_row_and_a_second_job_change_nothing(
    cluster: Slurm, undisturbed: Path, tmp_path: Path
) -> None:
    """Requeued, pre-empted, killed, out of time, requeued again: nobody does anything in between."""
    job = Submitted(cluster, tmp_path / "run", 1, "--time=60")
    job.wait("newest_step", 2)

    times = Times(job, "scontrol requeue", starts=1)
    cluster.client("scontrol", "requeue", str(job.number))
    times.follow()
    assert "train.sbatch: ended by Slurm" in job.output, job.output

    with job.held():
        second = Submitted(cluster, tmp_path / "run", 1, ATTEMPTS="2", WAIT_FOR_OTHER="1")
        loser = cluster.wait_for_end(second.number)
    assert (loser.state, loser.exit_status, loser.restarts) == ("FAILED", 5, 0), second.output
    assert "is in use by process" in second.output, second.output
    assert "attempt 1 of 2" in second.output, second.output

    times = Times(job, "pre-emption", starts=2)
    everything = ("--partition=high", "--exclusive", f"--nodes={len(cluster.nodes)}", "--output=/dev/null")
    urgent = cluster.submit(*everything, "--wrap=sleep 1", cwd=tmp_path)
    times.follow()
    assert cluster.wait_for_end(urgent).state == "COMPLETED"

    times = Times(job, "task killed", starts=3)
    for task in job.tasks():
        os.kill(task, signal.SIGKILL)
    times.follow()
    assert "train.sbatch: srun ended with 137" in job.output, job.output

    with job.held() as tasks:  # Slurm looks at its watch every 30 s; it sends SIGCONT with every signal
        cluster.limit_time(job.number, minutes_left=2)
        cluster.wait(lambda: not any(stopped(task) for task in tasks), "the signal ahead of the limit")
        times = Times(job, "time limit", starts=4)
    job.wait_for_start(5)
    cluster.limit_time(job.number, minutes_left=60)
    times.follow()
    assert "SIGUSR1 at step" in job.output, job.output
    assert job.output.count("train.sbatch: requeued") == 2, job.output

    times = Times(job, "scontrol requeue", starts=5)
    cluster.client("scontrol", "requeue", str(job.number))
    times.follow()

    job.end()
    assert cluster.job(job.number).restarts == 5
    assert_same_run(undisturbed, job.run_dir)


def test_every_task_of_a_step_finds_its_cluster(cluster: Slurm) -> None:
    """Five tasks on three nodes: as many addresses, the same for all, and every rank is its SLURM_PROCID."""
    program = (
        "import os; from trainer.distributed.cluster import discover; "
        "print(os.environ['SLURM_PROCID'], discover(os.environ))"
    )
    answer = cluster.client("srun", "--nodes=3", "--ntasks=5", "--distribution=block", sys.executable, "-c", program)
    found = sorted(line.split(maxsplit=1) for line in answer.splitlines())
    assert [rank for rank, _ in found] == ["0", "1", "2", "3", "4"]
    workers = {cluster_found.rpartition(", rank=")[0] for _, cluster_found in found}
    assert len(workers) == 1, workers
    assert all(cluster_found.endswith(f"rank={rank})") for rank, cluster_found in found)
    if cluster.machines:
        (text,) = workers
        assert [text.count(f"{node}:") for node in cluster.nodes] == [2, 2, 1]


@pytest.mark.long
def test_a_job_whose_node_loses_its_power_goes_on_elsewhere(cluster: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", 1)
    job.wait("committed_step", 10)
    lost = cluster.nodes_of(job.number)[0]
    times = Times(job, "node powered off", starts=1)
    cluster.power_off(lost)
    times.follow()
    assert lost not in cluster.nodes_of(job.number)
    assert "which may be alive where locks do not reach" in job.output, job.output
    cluster.power_on(lost)
    job.end()
    assert_same_run(undisturbed, job.run_dir)


@pytest.fixture(scope="session")
def undisturbed_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing happens to."""

    def make(trainer: Trainer) -> None:
        install(trainer.cwd)
        finish(start_workers(trainer, "train", *UNDISTURBED_PAIR, "run_dir=run"))

    return made_once(tmp_path_factory, "undisturbed-pair", make) / "run"


def test_a_job_on_two_nodes_is_requeued_and_loses_one_of_them_and_ends_as_if_nothing_had_happened(
    cluster: Slurm, undisturbed_pair: Path, tmp_path: Path
) -> None:
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", 2, arguments=SHARED)
    job.wait("newest_step", 2)
    assert "2 replicas in 2 processes" in job.output, job.output
    times = Times(job, "scontrol requeue, two nodes", starts=1)
    cluster.client("scontrol", "requeue", str(job.number))
    times.follow()
    job.wait("committed_step", 10)
    _, lost = cluster.nodes_of(job.number)
    times = Times(job, "one of two nodes powered off", starts=2)
    cluster.power_off(lost)
    times.follow()
    assert len(cluster.nodes_of(job.number)) == 2
    assert lost not in cluster.nodes_of(job.number)
    cluster.power_on(lost)
    job.end()
    assert job.output.count("2 replicas in 2 processes") == 3, job.output
    assert_same_run(undisturbed_pair, job.run_dir)


def test_without_a_spare_a_job_on_two_nodes_goes_on_on_the_one_that_is_left(
    cluster: Slurm, undisturbed_pair: Path, tmp_path: Path
) -> None:
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", "1-2", "--exclusive", arguments=SHARED)
    job.wait("committed_step", 10)
    assert "2 replicas in 2 processes" in job.output, job.output
    blocking = cluster.submit("--exclusive", "--output=/dev/null", "--wrap=sleep 600", cwd=tmp_path)
    cluster.wait(lambda: not cluster.idle, "all nodes in use")
    _, lost = cluster.nodes_of(job.number)
    times = Times(job, "one of two nodes powered off, no spare", starts=1)
    cluster.power_off(lost)
    times.follow()
    assert len(cluster.nodes_of(job.number)) == 1
    job.end()
    cluster.client("scancel", str(blocking))
    cluster.power_on(lost)
    assert job.output.count("2 replicas in 2 processes") == 1, job.output
    assert (
        "replicas was 2 in 2 processes and is 1: training goes on, but bit-exactness is not promised" in job.output
    ), job.output
    assert_one_curve(undisturbed_pair, job.run_dir)


ELASTIC = (  # the kinked network: a difference in the last bit grows
    *UNDISTURBED,
    "train.logical_replicas=4",
    "train.global_batch_size=16",
    "data.train_examples=160",
    "model.batch_norm.synchronized=false",
    "model.batch_norm.group_size=4",
    "schedule.warmup_steps=0",
)


@pytest.mark.long
def test_with_logical_replicas_a_job_loses_a_node_and_gets_it_back_and_keeps_every_bit(
    cluster: Slurm, trainer: Trainer, tmp_path: Path
) -> None:
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", "1-2", "--exclusive", arguments=(*ELASTIC, *paced(0.1)))
    job.wait("committed_step", 10)
    blocking = cluster.submit("--exclusive", "--output=/dev/null", "--wrap=sleep 600", cwd=tmp_path)
    cluster.wait(lambda: not cluster.idle, "all nodes in use")
    _, lost = cluster.nodes_of(job.number)
    cluster.power_off(lost)
    job.wait_for_start(2)
    job.wait("committed_step", 20)
    assert len(cluster.nodes_of(job.number)) == 1
    cluster.client("scancel", str(blocking))
    cluster.power_on(lost)
    cluster.wait(lambda: len(cluster.idle) == 2, "the spare and the lost node to be free")
    cluster.client("scontrol", "requeue", str(job.number))
    job.wait_for_start(3)
    job.end()
    assert job.output.count("2 replicas in 2 processes") == 2, job.output
    assert "every bit stays the same, by train.logical_replicas=4" in job.output, job.output
    trainer.run("train", *ELASTIC, "run_dir=alone")
    assert_same_run(trainer.cwd / "alone", job.run_dir)


IS_ASKED = '[ "$1" != -c ] || exit 0'  # in a program in the trainer's place: the script asks whether it can import it


def test_the_script_requeues_what_may_help_and_nothing_else(cluster: Slurm, tmp_path: Path) -> None:
    """With a program in the trainer's place that ends as its last argument says."""
    program = tmp_path / "program"
    waiting = "trap 'exit 75' TERM; echo waiting; sleep 600 & wait"
    program.write_text(f'#!/bin/bash\n{IS_ASKED}\n[ "${{!#}}" = wait ] || exit "${{!#}}"\n{waiting}\n')
    program.chmod(0o755)

    def submit(ending: str) -> int:
        environment = {"RUN_DIR": str(tmp_path / ending), "PYTHON": str(program), "IDLE_RESTARTS": "1"}
        log = tmp_path / f"{ending}.log"
        log.touch()
        return cluster.submit(f"--output={log}", str(SCRIPT), ending, cwd=tmp_path, environment=environment)

    waits, refused, killed = submit("wait"), submit("3"), submit("137")
    cluster.wait(lambda: "waiting" in (tmp_path / "wait.log").read_text(), "the job that waits")
    cluster.client("scancel", str(waits))
    job = cluster.wait_for_end(refused)
    assert (job.state, job.exit_status, job.restarts) == ("FAILED", 3, 0)
    job = cluster.wait_for_end(waits)
    assert (job.state, job.restarts) == ("CANCELLED", 0)
    job = cluster.wait_for_end(killed)
    assert (job.state, job.exit_status, job.restarts) == ("FAILED", 1, 2)
    assert "2 restarts in a row made no checkpoint; giving up" in (tmp_path / "137.log").read_text()
    assert cluster.job(waits).state == "CANCELLED", "still, after the others were requeued twice"


def test_a_job_of_two_nodes_that_uses_no_srun_is_noticed_and_a_task_of_srun_is_not(
    cluster: Slurm, tmp_path: Path
) -> None:
    program = "import os; from trainer.distributed.unshared import unshared; print(unshared(os.environ))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    steps = f"{command}; echo ----; srun --nodes=1 --ntasks=1 {command}"
    job = cluster.submit("--nodes=2", f"--output={tmp_path}/log", f"--wrap={steps}", cwd=tmp_path)
    assert cluster.wait_for_end(job).state == "COMPLETED"
    alone, task = (tmp_path / "log").read_text().split("----\n")
    assert "the job has 2 nodes (SLURM_JOB_NUM_NODES=2), and this process uses one of them" in alone
    assert task == "None\n"


class Stubs:
    """Jobs of the script with a program in the trainer's place: what the script does needs no training."""

    def __init__(self, cluster: Slurm, place: Path, program: str, asked: str = IS_ASKED) -> None:
        self._cluster = cluster
        self._place = place
        self._python = place / "program"
        self._python.write_text(f"#!/bin/bash\n{asked}\n{program}\n")
        self._python.chmod(0o755)

    def submit(self, *words: str, options: Sequence[str] = (), **environment: str) -> int:
        variables = {"RUN_DIR": str(self._place / "run"), "PYTHON": str(self._python), **environment}
        given = {name: value for name, value in variables.items() if value}
        log = f"--output={self._place}/%A-%a.log"
        return self._cluster.submit(log, *options, str(SCRIPT), *words, cwd=self._place, environment=given)

    def output(self, number: int, task: int = 4294967294) -> str:
        path = self._place / f"{number}-{task}.log"
        return path.read_text() if path.exists() else ""

    def wait_for_output(self, number: int, text: str) -> None:
        self._cluster.wait(
            lambda: text in self.output(number), f"{text!r} of job {number}", printed=lambda: self.output(number)
        )

    def ends(self, number: int, state: str, status: int, restarts: int) -> str:
        """Wait for the end, which must be as given; returns the output."""
        job = self._cluster.wait_for_end(number, lambda: self.output(number))
        assert (job.state, job.exit_status, job.restarts) == (state, status, restarts), self.output(number)
        return self.output(number)


def test_a_task_that_hangs_does_not_keep_the_job(cluster: Slurm, tmp_path: Path) -> None:
    """The other task has noticed it and ended with 75. Stopped, in a read that blocks, and before it has done anything
    at all, the one that hangs is ended, and the job starts again.
    """
    os.mkfifo(tmp_path / "never")
    stubs = Stubs(
        cluster,
        tmp_path,
        f"""\
[ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || exit 0
[ "$SLURM_PROCID" -eq 1 ] || exit 75
case ${{!#}} in
    stopped) kill -STOP $$ ;;
    read) read -r line <{tmp_path}/never ;;
    deaf) trap '' TERM INT USR1; while :; do sleep 1; done ;;
esac""",
    )
    hanging = [
        stubs.submit(kind, options=["--nodes=2"], RUN_DIR=str(tmp_path / kind), WAIT_FOR_TASKS="1")
        for kind in ("stopped", "read", "deaf")
    ]
    for job in hanging:
        output = stubs.ends(job, "COMPLETED", 0, restarts=1)
        assert "srun ended with 137" in output, output
        assert output.count("train.sbatch: requeued") == 1


def test_an_interpreter_that_a_node_lacks_ends_the_job_with_the_way_to_name_one(cluster: Slurm, tmp_path: Path) -> None:
    """Where one of two nodes lacks it, the other waits for the task that does not come, and srun kills it."""
    lacking = '[ "$SLURM_PROCID" -eq 0 ] || exit 1'
    stubs = Stubs(cluster, tmp_path, f"{lacking}\nsleep 600", asked=f"{lacking}\n{IS_ASKED}")
    absent = tmp_path / "absent" / "python"
    nowhere = stubs.submit(PYTHON=str(absent), RUN_DIR=str(tmp_path / "nowhere"))
    on_one = stubs.submit(options=["--nodes=2"], WAIT_FOR_TASKS="1")
    for job, lack in (nowhere, f"has no interpreter {absent}"), (on_one, "cannot import trainer"):
        output = stubs.ends(job, "FAILED", 2, restarts=0)
        assert output.count(lack) == 1, output
        assert "name it with PYTHON=/path/of/python sbatch" in output, output
    assert "srun ended with 137" in stubs.output(on_one)


def test_a_task_that_is_wrong_ends_the_job_with_its_status_and_the_job_does_not_come_back(
    cluster: Slurm, tmp_path: Path
) -> None:
    """One of two has a configuration that cannot be, or another seed. Nobody waits, and nothing is tried again."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\n[ "$SLURM_PROCID" -eq 0 ] || set -- "$@" "$ODD"\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    jobs = {
        odd: Submitted(cluster, tmp_path / odd.partition("=")[0], 2, arguments=SHARED, PYTHON=str(python), ODD=odd)
        for odd in ("train.steps=none", "seed=2")
    }
    for odd, status, said in ("train.steps=none", 2, "worker 1"), ("seed=2", 3, "has seed: 2; the others have: 0"):
        jobs[odd].end("FAILED", status)
        assert jobs[odd].output.count("train.sbatch: job ") == 1, jobs[odd].output
        assert said in jobs[odd].output, jobs[odd].output


def test_a_task_of_an_array_is_requeued_alone_and_has_arguments_and_a_directory_of_its_own(
    cluster: Slurm, tmp_path: Path
) -> None:
    """The last task has the array's own number. It is requeued when the others have ended, and they stay ended."""
    stubs = Stubs(
        cluster,
        tmp_path,
        f"""\
echo "$@" >>{tmp_path}/started-$SLURM_ARRAY_TASK_ID
[ "$SLURM_ARRAY_TASK_ID" -eq 2 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || exit 0
while [ -n "$(squeue --noheader --jobs=${{SLURM_ARRAY_JOB_ID}}_1 --states=RUNNING 2>/dev/null)" ]; do sleep 0.2; done
exit 137""",
    )
    sweep = tmp_path / "sweep"
    directories = ("0", "lr=0.1,it's", "a/b: c")
    trials = [plan.Trial(number, name, (), None, (), None, "none") for number, name in enumerate(directories)]
    plan.begin(sweep, plan.Sweep(plan.FORMAT_VERSION, tuple(trials), None), "fail")
    array = stubs.submit("seed=$SLURM_ARRAY_TASK_ID", "data.root=a/${SLURM_ARRAY_TASK_ID}/b", options=["--array=1-2"])
    for task in (1, 2):
        cluster.wait(lambda task=task: "srun ended with 0" in stubs.output(array, task), f"the end of task {task}")  # type: ignore[misc]
    for task in (1, 2):
        expected = f"-m trainer train on_existing=resume run_dir={tmp_path}/run/{task} seed={task} data.root=a/{task}/b"
        assert (tmp_path / f"started-{task}").read_text().splitlines() == [expected] * task
        assert f" Restarts={task - 1} " in cluster.client("scontrol", "--oneliner", "show", "job", f"{array}_{task}")
    assert "all tasks of this array have the same arguments" not in stubs.output(array, 1)
    trials_of = stubs.submit(f"sweep_dir={sweep}", options=["--array=0-2"], RUN_DIR="")
    for task in (0, 1, 2):
        cluster.wait(
            lambda task=task: "srun ended with 0" in stubs.output(trials_of, task),  # type: ignore[misc]
            f"the end of trial {task}",
        )
        last = (tmp_path / f"started-{task}").read_text().splitlines()[-1]
        assert last == f"-m trainer resume sweep_dir={sweep} trial={task}"
    records = {str(path.relative_to(sweep)) for path in sweep.rglob("*.restarts")}
    assert records == {f"{name}.restarts" for name in directories}


def test_what_an_array_cannot_give_is_refused(cluster: Slurm, tmp_path: Path) -> None:
    stubs = Stubs(cluster, tmp_path, "exit 0")
    (tmp_path / "sweep.yaml").write_text("trials:\n- number: 0\n  directory: '0'\n  overrides: []\n")
    refused = {
        stubs.submit("seed=$SLURM_ARRAY_TASK_ID"): "this job is not an array; add --array=1-5",
        stubs.submit(f"sweep_dir={tmp_path}", RUN_DIR=""): "add --array=0-3 to sbatch, or trial=0",
        stubs.submit(f"sweep_dir={tmp_path}", "trial=1", RUN_DIR=""): f"{tmp_path} has no trial 1",
        stubs.submit(f"sweep_dir={tmp_path}/x", "trial=0", RUN_DIR=""): f"{tmp_path}/x has no sweep",
        stubs.submit(f"sweep_dir={tmp_path}", "trial=0"): f"RUN_DIR={tmp_path}/run has no meaning",
    }
    for job, reason in refused.items():
        assert reason in stubs.ends(job, "FAILED", 2, restarts=0)
    same = stubs.submit("seed=1", options=["--array=1-2"])
    cluster.wait(lambda: "srun ended with 0" in stubs.output(same, 2), "the end of the array")
    assert "all tasks of this array have the same arguments" in stubs.output(same, 2)


def test_signals_that_reach_only_the_script_stop_the_tasks_and_the_job_is_requeued(
    cluster: Slurm, tmp_path: Path
) -> None:
    """As with sbatch --signal=B:USR1@120. Slurm's own SIGTERM, which also ends a job, ends no scontrol. After SIGINT,
    a person's, the job does not come back.
    """
    stubs = Stubs(
        cluster,
        tmp_path,
        """\
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || exit 0
[ "${!#}" = wait ] || exit 75
trap 'exit 75' USR1
trap 'exit 130' INT
echo waiting
sleep 600 >/dev/null 2>&1 &
wait""",
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    scontrol = shutil.which("scontrol")
    slow = tools / "scontrol"  # its answer comes after Slurm has begun to end the job, or it comes after Slurm
    slow.write_text(f"""\
#!/bin/bash
{scontrol} "$@"
status=$?
sleep 2
[ "${{SECOND:-no}}" = no ] || exec {scontrol} "$@"
exit $status
""")
    slow.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    signalled = {
        name: stubs.submit("wait", options=["--time=5"], RUN_DIR=str(tmp_path / name))
        for name in ("USR1", "TERM", "INT")
    }
    requeued = stubs.submit("now", RUN_DIR=str(tmp_path / "now"), PATH=path)
    late = stubs.submit("now", RUN_DIR=str(tmp_path / "late"), PATH=path, SECOND="yes")
    for name, job in signalled.items():
        stubs.wait_for_output(job, "waiting")
        cluster.client("scancel", "--batch", f"--signal={name}", str(job))
    stubs.ends(signalled.pop("INT"), "FAILED", 130, restarts=0)
    for job in (*signalled.values(), requeued):
        output = stubs.ends(job, "COMPLETED", 0, restarts=1)
        assert "train.sbatch: srun ended with 75\n" in output, output
        assert "train.sbatch: requeued\n" in output, output
        assert "could not be requeued" not in output, output
    output = stubs.ends(late, "COMPLETED", 0, restarts=1)
    assert "train.sbatch: srun ended with 75\n" in output, output
    assert "train.sbatch: ended by Slurm\n" in output, output
    assert "could not be requeued" not in output, output


@pytest.mark.long
@pytest.mark.parametrize("rank", [1, 0], ids=["worker", "chief"])
def test_a_job_whose_task_is_stopped_goes_on_as_if_nothing_had_happened(
    cluster: Slurm, undisturbed_pair: Path, tmp_path: Path, rank: int
) -> None:
    """With the waits that the script has by itself."""
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", 2, arguments=SHARED)
    job.wait("committed_step", 10)
    times = Times(job, f"two nodes: rank {rank} stopped", starts=1)
    os.kill(job.task(rank), signal.SIGSTOP)
    times.follow()
    assert "has given no sign of life for 20 seconds" in job.output, job.output
    assert "train.sbatch: srun ended with 137" in job.output, job.output
    job.end()
    assert_same_run(undisturbed_pair, job.run_dir)


@pytest.mark.long
def test_a_job_whose_task_blocks_in_a_read_before_the_exchange_goes_on(
    cluster: Slurm, undisturbed_pair: Path, tmp_path: Path
) -> None:
    """It never comes: the other gives up after five minutes, and the job starts again."""
    need_machines(cluster)
    os.mkfifo(tmp_path / "never")
    python = tmp_path / "python"
    blocks = '[ "$SLURM_PROCID" -eq 1 ] && [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]'
    python.write_text(f'#!/bin/bash\n{blocks} && read -r line <{tmp_path}/never\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    job = Submitted(cluster, tmp_path / "run", 2, arguments=SHARED, PYTHON=str(python))
    began = time.time()
    job.wait_until(lambda: cluster.job(job.number).restarts == 1, "requeue", seconds=500)
    print(f"two nodes: one blocked before the exchange: requeued after {time.time() - began:.1f} s")
    assert "the chief waited in vain for worker 1" in job.output, job.output
    assert "task 0: Exited with exit code 75" in job.output, job.output
    job.end()
    assert_same_run(undisturbed_pair, job.run_dir)


@pytest.mark.long
def test_a_job_on_three_nodes_that_two_can_share_loses_one_and_ends_as_if_on_two_from_the_start(
    cluster: Slurm, undisturbed_pair: Path, tmp_path: Path
) -> None:
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", "1-3", "--exclusive", arguments=SHARED)
    job.wait("committed_step", 10)
    assert len(cluster.nodes_of(job.number)) == 3
    assert "2 replicas in 2 processes" in job.output, job.output
    assert "worker 2 idles, and ends with the run" in job.output, job.output
    assert "numbers of processes of which none idles: 1, 2, 4" in job.output, job.output
    _, lost, _ = cluster.nodes_of(job.number)
    times = Times(job, "three nodes: one of two that compute powered off", starts=1)
    cluster.power_off(lost)
    times.follow()
    assert len(cluster.nodes_of(job.number)) == 2
    job.end()
    cluster.power_on(lost)
    assert job.output.count("2 replicas in 2 processes") == 2, job.output
    assert "bit-exactness is not promised" not in job.output, job.output
    assert_same_run(undisturbed_pair, job.run_dir)


@pytest.mark.long
def test_ctrl_c_twice_in_a_plain_srun_kills_and_scancel_commits(
    cluster: Slurm, undisturbed: Path, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = ("srun", sys.executable, "-m", "trainer", "train", "on_existing=resume", f"run_dir={run_dir}", *ARGUMENTS)

    def started() -> Popen[bytes]:
        process = cluster.spawn(*command, cwd=tmp_path, log=log)
        cluster.wait(lambda: "\nstep " in log.read_text(), "a step")
        return process

    process = started()
    cluster.wait((run_dir / "checkpoints" / "step-00000010").is_dir, "the checkpoint of step 10")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert process.wait(240) == 137
    assert "forcing job termination" in log.read_text(), log.read_text()
    assert int(checkpoint_names(run_dir)[-1][5:]) % 10 == 0, "what is committed stands, the steps since are lost"
    assert "stopped: " not in log.read_text(), log.read_text()

    process = started()
    before = int(checkpoint_names(run_dir)[-1][5:])
    cluster.client("scancel", "--signal=INT", cluster.client("squeue", "--noheader", "--format=%A"))
    assert process.wait(240) == 130
    assert f"stopped: SIGINT at step {int(checkpoint_names(run_dir)[-1][5:])}" in log.read_text(), log.read_text()
    assert int(checkpoint_names(run_dir)[-1][5:]) > before

    assert cluster.spawn(*command, cwd=tmp_path, log=log).wait(SECONDS_FOR_A_SWEEP) == 0
    assert_same_run(undisturbed, run_dir)


@pytest.mark.long
def test_a_node_that_was_cut_off_and_comes_back_does_not_write(
    cluster: Slurm, undisturbed: Path, tmp_path: Path, no_locks: Path
) -> None:
    """Cut off from the network and from the filesystem, which has no locks between hosts: its task hangs."""
    need_machines(cluster)
    job = Submitted(cluster, tmp_path / "run", 1, LD_PRELOAD=str(no_locks))
    job.wait("committed_step", 10)
    lost = cluster.nodes_of(job.number)[0]
    with job.held():
        times = Times(job, "node cut off", starts=1)
        cluster.pull_cable(lost)
        times.follow()
        assert lost not in cluster.nodes_of(job.number)
    job.wait_until(lambda: "was taken over by process" in job.output, "word of the former holder")
    job.wait_until(lambda: "train.sbatch: srun ended with 5" in job.output, "end of the former holder")
    cluster.plug_cable(lost)
    job.end()
    assert_same_run(undisturbed, job.run_dir)


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library under which a process does not see the locks of others."""
    return build_elsewhere(tmp_path_factory.mktemp("elsewhere"))


def need_machines(cluster: Slurm) -> None:
    if not cluster.machines:
        pytest.skip("needs root, for nodes that can lose power and network")


def stopped(process: int) -> bool:
    """Whether a process is held by SIGSTOP; one that has ended is not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


def test_host_names_are_those_that_scontrol_prints(cluster: Slurm) -> None:
    text = "gpu1,node[08-10,3],x,a[1-2]b[08-09,3],n-1"
    expected = cluster.client("scontrol", "show", "hostnames", text).splitlines()
    environ = {
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": text,
        "SLURM_STEP_NUM_TASKS": str(len(expected)),
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{len(expected)})",
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_LOCALID": "0",
    }
    found = discover(environ)
    assert found is not None
    assert [worker.rpartition(":")[0] for worker in found.workers] == expected


# A month

EVENTS = 100
MONTH_SEED = 19
MONTH_STEPS = 60 * EVENTS
MONTH = (
    *SMALL,
    *SMALL_SMOOTH,
    "model.batch_norm.synchronized=false",
    f"train.steps={MONTH_STEPS}",
    "train.log_every_steps=5",
    f"evaluation.every_steps={MONTH_STEPS}",
    "checkpoint.every_steps=10",
    "checkpoint.keep_last=3",
)
PACE = 0.1  # seconds a step, as of a larger network; each of two processes reads half of a batch


@pytest.mark.long
def test_a_month_of_events_at_random_changes_nothing(
    cluster: Slurm, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pre-emption, power-off, hang, drain, time limit, requeue, a killed task, in the proportions of a shared cluster:
    the job is a task of an array on two nodes, and nobody looks after it.
    """
    need_machines(cluster)
    draw = random.Random(MONTH_SEED)
    run_dir = tmp_path / "7"
    arguments = (*MONTH, "data=paced", f"data.seconds={PACE / 16}")
    job = Submitted(
        cluster, run_dir, 2, "--array=7", "--time=600", arguments=arguments, RUN_DIR=str(tmp_path), WAIT_FOR_TASKS="10"
    )
    job.wait_for_new_step()
    began = time.time()
    seconds: dict[str, list[float]] = {}
    lost: dict[str, list[int]] = {}
    events = draw.choices([*MONTHLY], [often for often, _ in MONTHLY.values()], k=EVENTS)
    for number, event in enumerate(events, 1):
        time.sleep(draw.uniform(0, 4))
        last, starts = newest_step(run_dir), job.starts
        assert last < MONTH_STEPS, f"complete after {number - 1} events"
        happened = time.time()
        undo = MONTHLY[event][1](cluster, job, draw)
        job.wait_for_start(starts + 1)
        undo()
        job.wait_for_new_step()
        seconds.setdefault(event, []).append(time.time() - happened)
        resumed = re.findall(r"resuming .* at step (\d+) of", job.output)[-1]
        lost.setdefault(event, []).append(max(0, last - int(resumed)))
        print(f"{time.time() - began:5.0f} s: {event} at {last}, resumed at {resumed}", flush=True)
    wall = time.time() - began
    goodput = newest_step(run_dir) * PACE / wall
    cluster.wait(lambda: cluster.job(job.number).state in ENDED, "the end of the month", MONTH_STEPS * PACE + 400)
    job.end()
    assert "could not be requeued" not in job.output, job.output
    undisturbed = Trainer(tmp_path_factory.mktemp("undisturbed-month"))
    install(undisturbed.cwd)
    try:
        finish(start_workers(undisturbed, "train", *MONTH, "run_dir=run"))
    finally:
        undisturbed.close()
    for event, found in sorted(seconds.items()):
        print(
            f"{event}: {len(found)} times, a new step after {min(found):.0f} to {max(found):.0f} s, "
            f"median {statistics.median(found):.0f}; at most {max(lost[event])} steps made again"
        )
    print(f"{EVENTS} events in {wall:.0f} s, goodput {goodput:.2f}")
    assert_same_run(undisturbed.cwd / "run", run_dir)


def _pre_empted(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    everything = ("--partition=high", "--exclusive", f"--nodes={len(cluster.nodes)}", "--output=/dev/null")
    cluster.submit(*everything, "--wrap=sleep 1", cwd=job.run_dir.parent)
    return lambda: None


def _powered_off(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    lost = draw.choice(cluster.nodes_of(job.number))
    cluster.power_off(lost)

    def undo() -> None:
        cluster.power_on(lost)
        cluster.wait(lambda: lost in cluster.idle, f"{lost} to be back")

    return undo


def _stopped(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    os.kill(draw.choice(job.tasks()), signal.SIGSTOP)
    return lambda: None


def _killed(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    os.kill(draw.choice(job.tasks()), signal.SIGKILL)
    return lambda: None


def _drained(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    """A node is taken for maintenance: its job is moved to the others."""
    node = draw.choice(cluster.nodes_of(job.number))
    cluster.client("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    cluster.client("scontrol", "requeue", f"{job.number}_7")

    def undo() -> None:
        assert node not in cluster.nodes_of(job.number)
        cluster.client("scontrol", "update", f"NodeName={node}", "State=RESUME")

    return undo


def _out_of_time(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    cluster.limit_time(job.number, minutes_left=2)
    return lambda: cluster.limit_time(job.number, minutes_left=600)


def _requeued(cluster: Slurm, job: Submitted, draw: random.Random) -> Callable[[], None]:
    cluster.client("scontrol", "requeue", f"{job.number}_7")
    return lambda: None


# how often each is drawn, and what it does; that returns what undoes it, once the job is back
MONTHLY: dict[str, tuple[int, Callable[[Slurm, Submitted, random.Random], Callable[[], None]]]] = {
    "pre-empted": (6, _pre_empted),
    "powered off": (1, _powered_off),
    "stopped": (1, _stopped),
    "killed": (3, _killed),
    "drained": (3, _drained),
    "out of time": (2, _out_of_time),
    "requeued": (4, _requeued),
}


# Sweeps whose trials are jobs


class LaunchedSweep:
    """``train --multirun hydra/launcher=submitit_slurm`` in the controller's place, with one trial."""

    def __init__(self, cluster: Slurm, sweep_dir: Path, *arguments: str) -> None:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        self.cluster = cluster
        self.sweep_dir = sweep_dir
        self.run_dir = sweep_dir / "0"
        self.log = sweep_dir.with_suffix(".log")
        launcher = (
            "hydra/launcher=submitit_slurm",
            "hydra.launcher.timeout_min=30",
            "hydra.launcher.max_num_timeout=3",
        )
        command = (sys.executable, "-m", "trainer", "train", "--multirun", *launcher, f"hydra.sweep.dir={sweep_dir}")
        self.process = cluster.spawn(*command, *arguments, cwd=sweep_dir.parent, log=self.log)

    @property
    def newest_step(self) -> int:
        return newest_step(self.run_dir)

    @property
    def job_output(self) -> str:
        logs = self.sweep_dir.glob(".submitit/*/*_log.*")
        return "\n".join(path.read_text(errors="replace") for path in sorted(logs))

    def wait_for_step(self, step: int) -> int:
        """Returns the number of the job."""

        def reached() -> bool:
            assert self.process.poll() is None, self.log.read_text() + self.job_output
            return self.newest_step >= step

        self.cluster.wait(reached, f"step {step}", printed=lambda: self.job_output)
        return int(self.cluster.client("squeue", "--noheader", "--format=%A").splitlines()[0])

    def end(self) -> None:
        status = self.process.wait(SECONDS_FOR_A_SWEEP)
        assert status == 0, self.log.read_text() + self.job_output
        assert "1 of 1 trials are finished" in self.log.read_text()
        assert list(self.sweep_dir.glob(".launch-*")) == []


@pytest.mark.long
def test_a_trial_that_is_a_job_is_requeued_by_submitit_and_by_slurm_and_ends_as_if_undisturbed(
    cluster: Slurm, undisturbed: Path, tmp_path: Path
) -> None:
    sweep = LaunchedSweep(cluster, tmp_path / "sweep", *ARGUMENTS)
    job = sweep.wait_for_step(4)
    cluster.client("scancel", "--signal=USR2", str(job))  # as ahead of a time limit: submitit asks for its job again
    cluster.wait(lambda: cluster.job(job).restarts == 1, "submitit's requeue", printed=lambda: sweep.job_output)
    committed = int(checkpoint_names(sweep.run_dir)[-1][5:])
    assert 4 <= committed < STEPS
    assert sweep.wait_for_step(committed + 4) == job
    cluster.client("scontrol", "requeue", str(job))
    sweep.end()
    assert cluster.job(job).restarts == 2
    assert sweep.job_output.count("resuming") == 2
    assert "Caught signal SIGUSR2" in sweep.job_output, sweep.job_output
    assert_same_run(undisturbed, sweep.run_dir)


@pytest.mark.long
def test_the_tasks_of_a_job_on_two_nodes_run_one_trial_together(
    cluster: Slurm, undisturbed_pair: Path, tmp_path: Path
) -> None:
    need_machines(cluster)
    nodes = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1")
    sweep = LaunchedSweep(cluster, tmp_path / "sweep", *SHARED, *nodes)
    sweep.end()
    assert "2 replicas in 2 processes" in sweep.job_output, sweep.job_output
    assert_same_run(undisturbed_pair, sweep.run_dir)


@pytest.mark.long
def test_jobs_go_on_without_the_process_that_launched_them(cluster: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    sweep = LaunchedSweep(cluster, tmp_path / "sweep", *ARGUMENTS)
    job = sweep.wait_for_step(4)
    sweep.process.terminate()
    assert sweep.process.wait(SECONDS_FOR_A_SWEEP) == 75
    assert "the jobs that submitit_slurm has started continue by themselves" in sweep.log.read_text(), (
        sweep.log.read_text()
    )
    assert cluster.wait_for_end(job).state == "COMPLETED"
    assert_same_run(undisturbed, sweep.run_dir)
