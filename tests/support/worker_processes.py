"""The processes of one distributed run."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from processes import Process, Trainer, metrics


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def cluster_of_two(host: str = "127.0.0.1") -> tuple[str, str]:
    """TF_CONFIG of a chief and a worker, at free ports."""
    workers = [f"{host}:{port}" for port in free_ports(2)]
    first, second = (
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}) for rank in range(2)
    )
    return first, second


def start(trainer: Trainer, *arguments: str, count: int = 2) -> list[Process]:
    """The processes of one job; the first is the chief."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        trainer.start(
            *arguments,
            TF_CONFIG=json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}),
        )
        for rank in range(count)
    ]


def finish(processes: Sequence[Process], status: int = 0) -> list[str]:
    for process in processes:
        found = process.wait()
        assert found == status, f"exit status {found}:\n" + "\n====\n".join(each.output for each in processes)
        assert "Traceback" not in process.output, process.output
    return [process.output for process in processes]


def assert_one_curve(left: Path, right: Path) -> None:
    for one, other in zip(metrics(left), metrics(right), strict=True):
        assert (one["step"], one["split"]) == (other["step"], other["split"])
        assert one["split"] == "val" or one["ledger"] == other["ledger"], "the same examples, each once"
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
