"""A job on a real Slurm goes on by itself after everything a scheduler does to it, and ends in the same state.

Every job is ``scripts/slurm/train.sbatch`` as a user submits it. What happened when is printed (``pytest -s``): the
table of times in docs/cluster.md comes from there.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import NARROW, Trainer, assert_same_run, checkpoint_names
from slurm import Slurm, missing

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
STEPS = 80
ARGUMENTS = (
    *NARROW,
    "model.aux_logits=false",
    f"train.steps={STEPS}",
    "train.log_every_steps=1",
    f"evaluation.every_steps={STEPS}",
    "checkpoint.every_steps=10",
)


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
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel test workers share it
        if not (place / "run").exists():
            launcher = Trainer(place)
            try:
                launcher.run("train", f"run_dir={place / 'run'}", *ARGUMENTS)
            finally:
                launcher.close()
    return place / "run"


class Submitted:
    """One job and its run directory, as they are seen from outside."""

    def __init__(self, cluster: Slurm, run_dir: Path, nodes: int, *options: str, **environment: str) -> None:
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
            *ARGUMENTS,
            cwd=run_dir.parent,
            environment={"RUN_DIR": str(run_dir), "PYTHON": sys.executable, **environment},
        )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def newest_step(self) -> int:
        """The step of the last training record that is complete."""
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)

    @property
    def committed_step(self) -> int:
        place = self.run_dir / "checkpoints"
        return int(checkpoint_names(self.run_dir)[-1][5:]) if place.is_dir() and checkpoint_names(self.run_dir) else 0

    def wait(self, condition: str, at_least: int) -> None:
        """Until ``newest_step`` or ``committed_step`` is ``at_least`` so much."""

        def reached() -> bool:
            assert self.cluster.job(self.number).state != "FAILED", self.output
            return getattr(self, condition) >= at_least

        self.cluster.wait(reached, f"{condition} {at_least} of job {self.number}")
        assert self.newest_step < STEPS, "too late to prove anything"

    def wait_for_start(self, number: int) -> None:
        self.cluster.wait(lambda: self.output.count("train.sbatch: job ") >= number, f"start {number}\n{self.output}")

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

    def end(self) -> None:
        job = self.cluster.wait_for_end(self.number)
        assert (job.state, job.exit_status) == ("COMPLETED", 0), self.output
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
        job.cluster.wait(lambda: "\nstep " in job.output.rpartition("train.sbatch: job ")[2], "a new step")
        print(
            f"{self._event}: {newest.name} committed {committed - self._began:+.1f} s, "
            f"restarted {restarted - self._began:+.1f} s, first new step {time.time() - self._began:+.1f} s"
        )


@pytest.mark.parametrize("nodes", [1])
def test_requeue_preemption_a_killed_task_and_a_second_job_change_nothing(
    nodes: int, cluster: Slurm, undisturbed: Path, tmp_path: Path
) -> None:
    job = Submitted(cluster, tmp_path / "run", nodes)
    job.wait("newest_step", 2)

    times = Times(job, "scontrol requeue", starts=1)
    cluster.client("scontrol", "requeue", str(job.number))
    times.follow()
    assert "train.sbatch: ended by Slurm" in job.output

    with job.held():
        second = Submitted(cluster, tmp_path / "run", nodes, ATTEMPTS="2", WAIT_FOR_OTHER="1")
        loser = cluster.wait_for_end(second.number)
    assert (loser.state, loser.exit_status, loser.restarts) == ("FAILED", 5, 0), second.output
    assert "is in use by process" in second.output
    assert "attempt 1 of 2" in second.output

    times = Times(job, "pre-emption", starts=2)
    everything = ("--partition=high", "--exclusive", f"--nodes={len(cluster.nodes)}", "--output=/dev/null")
    urgent = cluster.submit(*everything, "--wrap=sleep 1", cwd=tmp_path)
    times.follow()
    assert cluster.wait_for_end(urgent).state == "COMPLETED"

    times = Times(job, "task killed", starts=3)
    for task in job.tasks():
        os.kill(task, signal.SIGKILL)
    times.follow()
    assert "train.sbatch: srun ended with 137" in job.output

    job.end()
    assert cluster.job(job.number).restarts == 3
    assert_same_run(undisturbed, job.run_dir)


@pytest.mark.parametrize("nodes", [1])
def test_a_job_that_meets_its_time_limit_goes_on(nodes: int, cluster: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    job = Submitted(cluster, tmp_path / "run", nodes, "--time=30")
    job.wait("newest_step", 2)
    with job.held() as tasks:  # Slurm looks at its watch every 30 s; it sends SIGCONT with every signal
        cluster.client("scontrol", "update", f"JobId={job.number}", "TimeLimit=2")
        cluster.wait(lambda: not any(stopped(task) for task in tasks), "the signal ahead of the limit")
        times = Times(job, "time limit", starts=1)
    job.wait_for_start(2)
    cluster.client("scontrol", "update", f"JobId={job.number}", "TimeLimit=30")
    times.follow()
    assert "SIGUSR1 at step" in job.output
    assert "train.sbatch: requeued" in job.output
    job.end()
    assert_same_run(undisturbed, job.run_dir)


@pytest.mark.parametrize("nodes", [1])
def test_a_job_whose_node_loses_its_power_goes_on_elsewhere(
    nodes: int, cluster: Slurm, undisturbed: Path, tmp_path: Path
) -> None:
    if not cluster.machines:
        pytest.skip("needs root, for nodes that can be powered off")
    job = Submitted(cluster, tmp_path / "run", nodes)
    job.wait("committed_step", 10)
    lost = cluster.job(job.number).nodes
    times = Times(job, "node powered off", starts=1)
    cluster.power_off(lost)
    times.follow()
    assert cluster.job(job.number).nodes != lost
    cluster.power_on(lost)
    job.end()
    assert_same_run(undisturbed, job.run_dir)


def stopped(process: int) -> bool:
    """Whether a process is held by SIGSTOP; one that has ended is not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


@pytest.mark.long
@pytest.mark.parametrize("nodes", [1])
def test_five_requeues_in_a_row_need_nobody(nodes: int, cluster: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    job = Submitted(cluster, tmp_path / "run", nodes)
    for restart in range(1, 6):
        job.wait("newest_step", job.committed_step + 2)
        times = Times(job, f"scontrol requeue {restart}", starts=restart)
        cluster.client("scontrol", "requeue", str(job.number))
        times.follow()
    job.end()
    assert cluster.job(job.number).restarts == 5
    assert_same_run(undisturbed, job.run_dir)
