"""``TF_CONFIG``: a JSON text with the addresses of all tasks by job, and with the job and index of this one.

Kubernetes operators and clouds set it (TensorFlow's guide to distributed training, section "Set up TF_CONFIG
environment variable").
"""

from __future__ import annotations

import itertools
from typing import Any, NoReturn

from trainer.distributed.addresses import Cluster, fault_of
from trainer.errors import UsageError
from trainer.storage.documents import parse_json, shown
from trainer.storage.unacceptable import Unacceptable

JOBS = ("chief", "worker")  # in the order of their ranks


def from_tf_config(text: str) -> Cluster | None:
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


def _fault_of_list(addresses: Any) -> str | None:
    if not isinstance(addresses, list):
        return f"is {shown(addresses)}"
    faults = ((address, fault_of(address)) for address in addresses)
    return next((f"has {shown(address)}: {fault}" for address, fault in faults if fault is not None), None)
