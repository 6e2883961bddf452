"""The nodes of a SkyPilot task: one process runs on each (SkyPilot's documentation, "Distributed Multi-Node Jobs")."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer.distributed.addresses import Cluster, fault_of
from trainer.errors import UsageError

ADDRESSES = "SKYPILOT_NODE_IPS"  # one a line, in the order of the ranks
RANK = "SKYPILOT_NODE_RANK"
PORT = 12000  # below the ephemeral ones (32768 on Linux)


def from_skypilot(environ: Mapping[str, str]) -> Cluster | None:
    """None for a task of one node.

    Raises:
        UsageError: the variables do not add up; names them and their values.
    """
    hosts = environ[ADDRESSES].split()
    workers = [f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}" for host in hosts]
    if len(workers) == 1:
        return None
    shown = ",".join(hosts)
    if not workers or len(set(workers)) < len(workers) or any(fault_of(address) is not None for address in workers):
        raise UsageError(f"{ADDRESSES}={shown} is no list of addresses, one for each node")
    rank = environ[RANK] if RANK in environ else ""
    if not re.fullmatch(r"[0-9]{1,10}", rank) or int(rank) >= len(workers):
        raise UsageError(f"{RANK}={rank!r} is none of the {len(workers)} nodes of {ADDRESSES}={shown}")
    return Cluster(tuple(workers), int(rank))
