"""A process that trains alone although its environment speaks of more nodes or processes says so."""

from __future__ import annotations

import pytest

from trainer.distributed.membership import joined
from trainer.distributed.unshared import unshared
from trainer.runtime.signals import StopRequest

WRAPPED = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}  # sbatch --nodes=2 --wrap='python -m trainer …'


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (WRAPPED, "the job has 2 nodes (SLURM_JOB_NUM_NODES=2), and this process uses one of them"),
        # salloc's shell on the first node, which is a step of Slurm's own
        ({**WRAPPED, "SLURM_STEP_ID": "4294967290"}, "the job has 2 nodes"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "torchrun has started 2 processes (WORLD_SIZE=2), and each trains alone"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun has started 4 processes (OMPI_COMM_WORLD_SIZE=4)"),
        ({"PMI_SIZE": "4"}, "mpirun has started 4 processes (PMI_SIZE=4)"),
        # mpirun's daemon on the second node of a job is a step of one task
        ({**WRAPPED, "SLURM_STEP_ID": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "mpirun has started 2 processes"),
    ],
)
def test_what_a_process_leaves_unused_is_said_with_the_way_to_use_it(environ: dict[str, str], said: str) -> None:
    text = unshared(environ)
    assert text is not None
    first, way = text.splitlines()
    assert said in first
    assert "srun --ntasks-per-node=1" in way
    assert "scripts/slurm/train.sbatch" in way
    assert "TF_CONFIG" in way


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"},
        {**WRAPPED, "SLURM_STEP_ID": "3"},  # srun --ntasks=1, one of several runs that share the job
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "two"},
        {**WRAPPED, "TF_CONFIG": "{}"},
    ],
)
def test_a_process_that_is_meant_to_be_alone_says_nothing(environ: dict[str, str]) -> None:
    assert unshared(environ) is None


def test_it_is_said_when_a_run_begins_unless_the_run_is_for_one_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for strategy, times in (("auto", 1), ("one", 0)):
        with joined(strategy, StopRequest(), dict) as process:
            assert process.is_chief
        assert capsys.readouterr().err.count("warning: the job has 2 nodes") == times
