"""What to say to a process that trains alone although its environment speaks of more nodes or processes.

A job script that calls the trainer without srun, and launchers whose variables the trainer does not read, look as if
they trained together. Each process would train alone, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer.distributed.cluster import NAMING

LARGEST_STEP = 0xFFFF_FFF0  # Slurm numbers the steps that a user starts below it: above are batch and interactive steps

# launcher -> variables that have the number of its processes
LAUNCHERS = {
    "torchrun": ("WORLD_SIZE",),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
}
HOW = (
    "start one process on each node with srun --ntasks-per-node=1, or submit scripts/slurm/train.sbatch; elsewhere, "
    "give each its TF_CONFIG or TRAINER_WORKERS (docs/cluster.md)"
)


def unshared(environ: Mapping[str, str]) -> str | None:
    """What a process that has found no cluster in ``environ`` leaves unused, and how to use it; None where it leaves
    nothing. A task of a step that was asked for with one task is meant to be alone.
    """
    if any(name in environ for name in NAMING):
        return None
    for launcher, names in LAUNCHERS.items():  # before Slurm: mpirun starts its daemons as steps
        for name in names:
            count = _number(environ, name)
            if count > 1:
                return (
                    f"{launcher} has started {count} processes ({name}={count}), and each trains alone: this program "
                    f"does not read its variables\n{HOW}"
                )
    nodes = _number(environ, "SLURM_JOB_NUM_NODES")
    if nodes > 1 and not _is_task(environ):
        return (
            f"the job has {nodes} nodes (SLURM_JOB_NUM_NODES={nodes}), and this process uses one of them, because srun "
            f"has not started it\n{HOW}"
        )
    return None


def _is_task(environ: Mapping[str, str]) -> bool:
    return "SLURM_STEP_ID" in environ and _number(environ, "SLURM_STEP_ID") < LARGEST_STEP


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name] if name in environ else ""
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else 0
