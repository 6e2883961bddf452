"""Which processes train together, and which of them this one is, according to the environment.

Kubernetes operators and clouds set ``TF_CONFIG``: a JSON text with the addresses of all tasks by job, and with the job
and index of this one (TensorFlow's guide to distributed training, section "Set up TF_CONFIG environment variable").
Slurm's variables describe the step that ``srun`` started (``man srun``, section OUTPUT ENVIRONMENT VARIABLES). This
module asks no daemon and no ``scontrol``: a container may have neither.

The lists of hosts are read here: the library for them, python-hostlist, is under the GPL, and this program is not.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from trainer.errors import UsageError
from trainer.storage.documents import parse_json, shown
from trainer.storage.unacceptable import Unacceptable

JOBS = ("chief", "worker")  # of TF_CONFIG, in the order of their ranks

# For when srun reserved no ports: 16 for each of 8 steps of 156 jobs, all below the ephemeral ports (32768 on Linux)
FIRST_PORT = 12000
PORTS_A_STEP = 16
STEPS_A_JOB = 8
JOBS_APART = 156

COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")  # 2(x3): two on each of three nodes
HOST = re.compile(r"(?:[^][,]|\[[^][]*\])+")  # rack[1-2]node[08-10]: text and ranges, up to a comma between them
RANGE = re.compile(r"(\d+)(?:-(\d+))?")

# host:port; a name or an IPv4 address, or an IPv6 address in brackets, which has colons itself
ADDRESS = re.compile(r"(?:[\w.-]+|\[([^][/@\s]+)\]):(\d{1,5})", re.ASCII)
LABEL_LENGTH = 63  # of each part of a host's name (RFC 1035); longer ones cannot be looked up
HIGHEST_PORT = 65535

ADVICE = "start all tasks with one srun; unset SLURM_STEP_ID for a process that trains alone"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """``workers`` are the addresses ``host:port`` by rank, two or more; ``rank`` is that of this process."""

    workers: tuple[str, ...]
    rank: int


def discover(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster this process belongs to, None when it works alone. ``TF_CONFIG`` comes before Slurm.

    Ranks are ``SLURM_PROCID`` under Slurm; with ``TF_CONFIG`` the chief is 0 and the workers follow by index, or,
    without a chief, the workers alone. All processes of one cluster find the same ``workers``.

    Raises:
        UsageError: the variables do not add up; names them and their values.
    """
    if "TF_CONFIG" in environ:
        return _from_tf_config(environ["TF_CONFIG"])
    if "SLURM_STEP_ID" in environ:  # a batch script has none: it is not one of the tasks
        return _from_slurm(environ)
    return None


def source(environ: Mapping[str, str]) -> str:
    """The variables that name the addresses that ``discover`` finds, for messages."""
    if "TF_CONFIG" in environ:
        return "TF_CONFIG"
    reserved = "SLURM_STEP_RESV_PORTS"
    return reserved if reserved in environ else "SLURM_JOB_ID and SLURM_STEP_ID"


def _from_tf_config(text: str) -> Cluster | None:
    """None for a cluster of one."""

    def wrong(what: str) -> NoReturn:
        raise UsageError(
            f"TF_CONFIG {what}; it is {shown(text)}\n"
            'it must be like {"cluster": {"chief": ["a:2222"], "worker": ["b:2222", "c:2222"]}, '
            '"task": {"type": "worker", "index": 1}}'
        )

    try:
        config = parse_json(text)
    except Unacceptable as error:
        wrong(f"cannot be read: {error}")
    cluster = _section(config, "cluster")
    task = _section(config, "task")
    if cluster is None or task is None:
        wrong(f"has no section {'cluster' if cluster is None else 'task'}")
    others = sorted(set(cluster) - set(JOBS))
    if others:
        wrong(f"has the job {others[0]}, but this program has the jobs chief and worker only")
    by_job = {job: cluster[job] if job in cluster else [] for job in JOBS}
    for job, addresses in by_job.items():
        fault = _fault_of_list(addresses)
        if fault is not None:
            wrong(f"cluster.{job} must be a list of addresses host:port, and {fault}")
    if len(by_job["chief"]) > 1:
        wrong(f"names {len(by_job['chief'])} chiefs")
    workers = tuple(itertools.chain.from_iterable(by_job.values()))
    for address in workers:
        if workers.count(address) > 1:
            wrong(f"has the address {address} twice")
    if "type" not in task or "index" not in task:
        wrong(f"has no task.{'type' if 'type' not in task else 'index'}")
    job, index = task["type"], task["index"]
    if job not in JOBS:
        wrong(f"says that this task is {shown(job)}, but this program has the jobs chief and worker only")
    if type(index) is not int:
        wrong(f"says that this task is {job} {shown(index)}; task.index must be a number, such as 0, without quotes")
    if not 0 <= index < len(by_job[job]):
        wrong(f"says that this task is {job} {shown(index)}, and lists {len(by_job[job])} of these")
    rank = index + (len(by_job["chief"]) if job == "worker" else 0)
    return Cluster(workers, rank) if len(workers) > 1 else None


def _section(config: Any, name: str) -> dict[str, Any] | None:
    found = config[name] if isinstance(config, dict) and name in config else None
    return found if isinstance(found, dict) else None


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address of a cluster; the host without brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _fault_of_list(addresses: Any) -> str | None:
    if not isinstance(addresses, list):
        return f"is {shown(addresses)}"
    faults = ((address, _fault_of(address)) for address in addresses)
    return next((f"has {shown(address)}: {fault}" for address, fault in faults if fault is not None), None)


def _fault_of(address: Any) -> str | None:
    """Why nothing can be reached at an address, None when there is no such reason."""
    if not isinstance(address, str):
        return "it is no text"
    match = ADDRESS.fullmatch(address)
    if match is None:
        if "://" in address:
            return "leave out the scheme and what follows the port"
        return "write an IPv6 address in brackets, [::1]:2222" if address.count(":") > 1 else "it is not host:port"
    if not 1 <= int(match[2]) <= HIGHEST_PORT:
        return f"a port is a number from 1 to {HIGHEST_PORT}"
    if match[1] is not None:
        return None if _is_ipv6(match[1]) else "what is in brackets is not an IPv6 address"
    labels = address.rpartition(":")[0].removesuffix(".").split(".")
    return None if all(0 < len(label) <= LABEL_LENGTH for label in labels) else "no host can have this name"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    """None for a step of one task: ``srun --pty bash`` and the like."""
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS")
    if tasks == 1:
        return None
    rank = _number(environ, "SLURM_PROCID")
    if rank >= tasks:
        raise _contradiction(environ, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    hosts = _hosts(environ, "SLURM_STEP_NODELIST")
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


def _hosts(environ: Mapping[str, str], name: str) -> list[str]:
    """The host names of a list such as ``gpu1,rack[1-2]node[08-10,12]``, as ``scontrol show hostnames`` prints them."""
    text = _text(environ, name)
    if not re.fullmatch(f"{HOST.pattern}(?:,{HOST.pattern})*", text):
        raise _unreadable(environ, name)
    hosts: list[str] = []
    for host in HOST.findall(text):
        # text at even places, the inside of brackets at odd ones
        parts = re.split(r"[][]", host)
        choices = [_range(environ, name, part) if place % 2 else [part] for place, part in enumerate(parts)]
        hosts.extend("".join(choice) for choice in itertools.product(*choices))
    return hosts


def _range(environ: Mapping[str, str], name: str, text: str) -> list[str]:
    """The numbers of ``08-10,12``, padded to the width of the first of each range."""
    numbers: list[str] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise _unreadable(environ, name)
        first, last = match[1], match[2] or match[1]
        numbers.extend(str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return numbers


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
        ports = [int(port) for port in _range(environ, reserved, environ[reserved])]
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
