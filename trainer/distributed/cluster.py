"""Which processes train together, and which of them this one is, according to the environment."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.distributed import indexed_job, skypilot
from trainer.distributed.addresses import Cluster
from trainer.distributed.slurm_step import from_slurm
from trainer.distributed.tf_config import from_tf_config

NAMING = ("TF_CONFIG", indexed_job.WORKERS, skypilot.ADDRESSES)  # variables that name all processes, in this order


def discover(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster this process belongs to, None when it works alone.

    ``TF_CONFIG`` comes first, then ``TRAINER_WORKERS`` with a Kubernetes Job's index, SkyPilot's variables, Slurm's.
    With ``TF_CONFIG`` the chief is rank 0 and the workers follow by index, or, without a chief, the workers alone. All
    processes of one cluster find the same ``workers``.

    Raises:
        UsageError: the variables do not add up; names them and their values.
    """
    if "TF_CONFIG" in environ:
        return from_tf_config(environ["TF_CONFIG"])
    if indexed_job.WORKERS in environ:
        return indexed_job.from_indexed_job(environ)
    if skypilot.ADDRESSES in environ:
        return skypilot.from_skypilot(environ)
    if "SLURM_STEP_ID" in environ:  # a batch script has none: it is not one of the tasks
        return from_slurm(environ)
    return None


def source(environ: Mapping[str, str]) -> str:
    """The variables that name the addresses that ``discover`` finds, for messages."""
    reserved = "SLURM_STEP_RESV_PORTS"
    for name in (*NAMING, reserved):
        if name in environ:
            return name
    return "SLURM_JOB_ID and SLURM_STEP_ID"


def names_come_late(environ: Mapping[str, str]) -> bool:
    """Whether the name of a process may be known only when the process is there, as that of a pod. Slurm's nodes have
    their names from the start.
    """
    return any(name in environ for name in ("TF_CONFIG", indexed_job.WORKERS))
