"""The processes that one ``srun`` has started, from Slurm's variables (``man srun``, OUTPUT ENVIRONMENT VARIABLES).

No daemon and no ``scontrol`` is asked: a container may have neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from trainer.distributed.addresses import HIGHEST_PORT, Cluster, expanded, numbers
from trainer.errors import UsageError

# For when srun reserved no ports: 16 for each of 8 steps of 156 jobs, all below the ephemeral ports (32768 on Linux)
FIRST_PORT = 12000
PORTS_A_STEP = 16
STEPS_A_JOB = 8
JOBS_APART = 156

COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")  # 2(x3): two on each of three nodes

ADVICE = "start all tasks with one srun; unset SLURM_STEP_ID for a process that trains alone"


def from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    """None for a step of one task: ``srun --pty bash`` and the like."""
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS")
    if tasks == 1:
        return None
    rank = _number(environ, "SLURM_PROCID")
    if rank >= tasks:
        raise _contradiction(environ, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    hosts = _listed(environ, "SLURM_STEP_NODELIST", expanded)
    counts = _counts(environ, "SLURM_STEP_TASKS_PER_NODE")
    if len(hosts) != len(counts) or sum(counts) != tasks:
        raise _contradiction(environ, "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_TASKS")
    _refuse_unless_block(environ, counts)
    places = [(node, local) for node, count in enumerate(counts) for local in range(count)]
    if places[rank] != (_number(environ, "SLURM_NODEID"), _number(environ, "SLURM_LOCALID")):
        raise _contradiction(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID")
    ports = _ports(environ, max(counts))
    return Cluster(tuple(f"{hosts[node]}:{ports[local]}" for node, local in places), rank)


def _refuse_unless_block(environ: Mapping[str, str], counts: Sequence[int]) -> None:
    """Refuse tasks that are not dealt out node by node. With one on each node (Slurm calls that cyclic) all orders
    are the same; srun outside of a job sets no SLURM_DISTRIBUTION unless it was asked for one."""
    if max(counts) == 1 or "SLURM_DISTRIBUTION" not in environ:
        return
    distribution = environ["SLURM_DISTRIBUTION"]
    if re.split("[:,]", distribution)[0] != "block":
        raise UsageError(
            f"SLURM_DISTRIBUTION={distribution} deals {sum(counts)} tasks out to {len(counts)} nodes in an order that "
            "this program does not follow; start them with srun --distribution=block"
        )


def _listed(environ: Mapping[str, str], name: str, read: Callable[[str], list[str]]) -> list[str]:
    try:
        return read(_text(environ, name))
    except ValueError:
        raise _unreadable(environ, name) from None


def _counts(environ: Mapping[str, str], name: str) -> list[int]:
    """The numbers of ``2(x2),1``: two tasks on each of two nodes, one on the third."""
    counts: list[int] = []
    for part in _text(environ, name).split(","):
        match = COUNTS.fullmatch(part)
        if match is None:
            raise _unreadable(environ, name)
        counts.extend([int(match[1])] * int(match[2] or 1))
    return counts


def _ports(environ: Mapping[str, str], most: int) -> list[int]:
    """A port for each of the ``most`` tasks of a node, the same on all nodes.

    The ports that ``srun --resv-ports`` reserved; else a function of job and step. Steps of one job that run together,
    and jobs on one node whose ids are less than 156 apart, have different ports. A restart counts as a further step, so
    that a task left over from before it is not taken for one of the new ones.
    """
    reserved = "SLURM_STEP_RESV_PORTS"
    if reserved in environ:
        ports = [int(port) for port in _listed(environ, reserved, numbers)]
        if not all(1 <= port <= HIGHEST_PORT for port in ports):
            raise _unreadable(environ, reserved)
        if len(ports) < most:
            raise UsageError(
                f"{reserved}={environ[reserved]} are {len(ports)} ports, but a node has {most} tasks: "
                f"start them with srun --resv-ports={most}"
            )
        return ports
    if most > PORTS_A_STEP:
        raise UsageError(
            f"SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']}: for more than {PORTS_A_STEP} tasks on "
            f"one node, have their ports reserved with srun --resv-ports={most}"
        )
    job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID")
    restarts = _number(environ, "SLURM_RESTART_COUNT") if "SLURM_RESTART_COUNT" in environ else 0
    slot = job % JOBS_APART * STEPS_A_JOB + (step + restarts) % STEPS_A_JOB
    return [FIRST_PORT + slot * PORTS_A_STEP + local for local in range(most)]


def _number(environ: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", _text(environ, name)):
        raise _unreadable(environ, name)
    return int(environ[name])


def _text(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise UsageError(
            f"SLURM_STEP_ID={environ['SLURM_STEP_ID']} says that srun has started this process, but {name} is not set\n"
            f"{ADVICE}"
        )
    return environ[name]


def _unreadable(environ: Mapping[str, str], name: str) -> UsageError:
    return UsageError(f"{name}={environ[name]} cannot be understood\n{ADVICE}")


def _contradiction(environ: Mapping[str, str], *names: str) -> UsageError:
    values = ", ".join(f"{name}={environ[name]}" for name in names)
    return UsageError(f"Slurm's variables contradict each other: {values}\n{ADVICE}")
