"""A JobSet's pods that are deleted again and again, under a loop that does what Kubernetes' controller does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from job_controller import Job
from processes import Trainer, assert_same_run
from small_plugin import SMALL, SMALL_SMOOTH, paced
from worker_processes import finish, start

pytestmark = pytest.mark.usefixtures("small")

JOBSET = Path(__file__).resolve().parents[2] / "docs" / "cluster" / "jobset.yaml"
RUN = (
    *SMALL,
    *SMALL_SMOOTH,
    "model.batch_norm.synchronized=false",
    "train.steps=120",
    "evaluation.every_steps=40",
    "checkpoint.every_steps=20",
    "train.log_every_steps=1",
)
SLOW = paced(0.025)  # the same run, slowly enough for what is done to it
LONGEST = 600  # seconds between a deletion and the next step


def spec() -> dict[str, Any]:
    (group,) = yaml.safe_load(JOBSET.read_text())["spec"]["replicatedJobs"]
    found = group["template"]["spec"]
    assert isinstance(found, dict)
    return found


def logged(run_dir: Path) -> int:
    """How many records the run has; a run that is killed repeats what it has not committed."""
    log = run_dir / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def until_it_trains(job: Job, run_dir: Path) -> float:
    """Let the controller work until a record is written or the job is done; the seconds that it took."""
    began, before = time.monotonic(), logged(run_dir)
    while not job.done and logged(run_dir) <= before:
        assert time.monotonic() - began < LONGEST, "\n====\n".join(pod.output for pod in job.pods.values())
        before = min(before, logged(run_dir))  # what was not committed is cut off
        job.reconcile()
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.long
def test_fifty_deletions_of_one_of_two_pods_need_no_hand_and_change_no_bit(trainer: Trainer) -> None:
    """As many jobs as that takes, one after the other; each ends as the one that was left alone."""
    finish(start(trainer, "train", *RUN, "run_dir=undisturbed"))
    random = np.random.default_rng(0)
    command = spec()["template"]["spec"]["containers"][0]["command"]
    assert command[:4] == ["python", "-m", "trainer", "train"]
    arguments = ("train", *(key for key in command[4:] if not key.startswith("run_dir=")), *RUN, *SLOW)
    wanted, deletions, jobs, waits, seen = int(os.environ.get("DELETIONS", "50")), 0, 0, [], []
    while deletions < wanted:
        name = f"job-{jobs}"
        run_dir, job = trainer.cwd / name, Job(trainer, spec(), (*arguments, f"run_dir={name}"))
        jobs += 1
        until_it_trains(job, run_dir)
        while not job.done:
            end = time.monotonic() + random.exponential(4)  # in steps, saves, evaluation
            while not job.done and time.monotonic() < end:
                job.reconcile()
                time.sleep(0.05)
            if job.done or deletions == wanted:
                continue
            victim, asked = int(random.integers(2)), bool(random.integers(2))
            job.delete(victim, asked=asked)
            deletions += 1
            if random.random() < 0.2:  # again, while all start
                time.sleep(random.exponential(3))
                job.reconcile()
                job.delete(int(random.integers(2)), asked=bool(random.integers(2)))
                deletions += 1
            waits.append(until_it_trains(job, run_dir))
        job.end()
        seen += job.seen
        assert_same_run(trainer.cwd / "undisturbed", run_dir)
        print(f"{deletions} deletions so far, {jobs} jobs as if undisturbed", flush=True)
    by_action = {each: sum(action == each for _, _, action in seen) for each in ("Ignore", "Count")}
    statuses = {
        each: sum(status == each for _, status, _ in seen) for each in sorted({status for _, status, _ in seen})
    }
    print(f"{deletions} deletions in {jobs} jobs; pods that were replaced, by status: {statuses}, by rule: {by_action}")
    print(f"seconds until training went on: median {np.median(waits):.1f}, longest {max(waits):.1f}")
