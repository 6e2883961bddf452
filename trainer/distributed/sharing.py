"""Which processes and devices share the batches of a run: as many as can take equal shares. The others idle.

A job that loses a node continues on what is left, and most numbers of nodes do not divide a batch. Ending for that
would need a person. An idle process changes nothing in the result: the run is that of the processes that compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config.check import unequal_shares
from trainer.config.schema import Config
from trainer.errors import few


@dataclasses.dataclass(frozen=True)
class Sharing:
    """``processes`` compute, those of the lowest ranks, with ``devices`` devices each; ``reason`` says why more cannot,
    and is None when all do.
    """

    processes: int
    devices: int
    reason: str | None

    @staticmethod
    def of(message: Mapping[str, Any]) -> Sharing:
        return Sharing(**message)


def share_out(config: Config, processes: int, devices: int) -> Sharing:
    """The largest number of replicas that ``processes`` processes of ``devices`` devices each can make, of those that
    divide every batch of ``config``; of equal ones, that with the fewest processes.
    """
    computing, of_each = max(
        (
            (some, part)
            for some in range(1, processes + 1)
            for part in range(1, devices + 1)
            if fits(config, some * part)
        ),
        key=lambda found: (found[0] * found[1], found[1]),
    )
    return Sharing(computing, of_each, unequal_shares(config, processes * devices))


def fits(config: Config, replicas: int) -> bool:
    return unequal_shares(config, replicas) is None


def usable(config: Config, devices: int) -> list[int]:
    """The numbers of processes that can share every batch when ``devices`` devices of each compute, ascending."""
    most = config.train.global_batch_size // devices
    return [processes for processes in range(1, most + 1) if fits(config, processes * devices)]


def notes(config: Config, workers: Sequence[str], devices: int, sharing: Sharing) -> tuple[str, ...]:
    """What a person should know of the ``workers`` (addresses by rank) of ``devices`` devices each: who idles and why,
    and which numbers of processes leave none idle.
    """
    numbers = [str(number) for number in usable(config, sharing.devices)]
    said = [f"numbers of processes of which none idles: {few(numbers)}"]
    if sharing.devices < devices and sharing.processes > 1:
        said.insert(0, f"{devices - sharing.devices} of {devices} devices idle in each process: {sharing.reason}")
    idle = [f"worker {rank} at {address}" for rank, address in enumerate(workers) if rank >= sharing.processes]
    if idle:
        said.insert(0, f"{few(idle)} idle{'s' if len(idle) == 1 else ''}: {sharing.reason}")
    return tuple(said)
