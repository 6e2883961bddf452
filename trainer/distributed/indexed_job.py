"""The pods of a Kubernetes Indexed Job, and of what is made of one: a JobSet, a TrainJob of Kubeflow.

Kubernetes gives each pod its index, and a stable name behind a headless service: JOB-INDEX.SERVICE of a Job,
JOBSET-REPLICATEDJOB-0-INDEX.SUBDOMAIN of a JobSet (Kubernetes documentation, "Job with Pod-to-Pod Communication";
JobSet's example jobset-with-network.yaml). It tells no pod how many there are, so the manifest names them:
``TRAINER_WORKERS=trainer-[0-3].trainer:2222``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer.distributed.addresses import Cluster, expanded, fault_of
from trainer.errors import UsageError

WORKERS = "TRAINER_WORKERS"
INDEX = "JOB_COMPLETION_INDEX"
EXAMPLE = f"{WORKERS}=trainer-[0-1].trainer:2222"


def from_indexed_job(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster of the addresses that are named; None for one.

    Raises:
        UsageError: the addresses cannot be read, or the index of this pod is not among them.
    """
    text = environ[WORKERS]
    try:
        workers = expanded(text)
    except ValueError:
        raise UsageError(f"{WORKERS}={text} cannot be understood; it must be like {EXAMPLE}") from None
    faults = ((address, fault_of(address)) for address in workers)
    wrong = next((f"{address}: {fault}" for address, fault in faults if fault is not None), None)
    twice = next((f"{address} is there twice" for address in workers if workers.count(address) > 1), None)
    if wrong or twice:
        raise UsageError(f"{WORKERS}={text} has {wrong or twice}\nit must be like {EXAMPLE}")
    if len(workers) == 1:
        return None
    index = environ[INDEX] if INDEX in environ else ""
    if not re.fullmatch(r"[0-9]{1,10}", index):
        raise UsageError(
            f"{WORKERS}={text} names {len(workers)} processes, but {INDEX}={index!r} does not say which this is\n"
            "Kubernetes sets it in a Job with completionMode: Indexed, and in a JobSet"
        )
    if int(index) >= len(workers):
        raise UsageError(
            f"{INDEX}={index}, but {WORKERS}={text} names {len(workers)} processes, 0 to {len(workers) - 1}\n"
            "it must name as many as the Job has completions"
        )
    return Cluster(tuple(workers), int(index))
