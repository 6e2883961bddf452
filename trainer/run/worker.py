"""A process that is not the chief: it computes its share of every batch, and writes and displays nothing.

It never reads the run directory, so it does not matter what a network filesystem shows it. The configuration, the value
of every variable, and everything else that decides the next steps come from the chief.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config import stored
from trainer.data.batch import Batch
from trainer.data.opened import open_sources
from trainer.distributed.agreement import own_name
from trainer.distributed.membership import Process, shares
from trainer.distributed.peers import Peers
from trainer.distributed.sharing import Sharing
from trainer.errors import Diverged, ProcessesDiffer, Stopped, warn
from trainer.fingerprint import facts, program, versions
from trainer.fingerprint.collect import fingerprint_of
from trainer.fingerprint.verdict import worker_differences, worker_warnings
from trainer.run.assembly import assemble
from trainer.run.rollback import Agreement
from trainer.run.watchdog import Watchdog
from trainer.run.wiring import Announcement, wire
from trainer.run_directory.costs import Costs, SaveCost
from trainer.run_directory.metrics import VALIDATION, Record
from trainer.run_directory.phases import Phase
from trainer.runtime.signals import StopRequest
from trainer.training.loop import train as run_loop


class _Saves:
    """Used in place of a Checkpointer."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    @property
    def is_writing(self) -> bool:
        return False

    def check(self) -> None:
        if self._peers.lost is not None:
            raise self._peers.lost

    def save(self) -> None:
        pass

    def finish(self) -> None:
        """Wait until the chief says that everything is committed: a launcher may end all processes when one ends."""
        self._peers.hear()

    def last_good(self) -> str:
        return "the chief names the last checkpoint"

    def way_on(self) -> str:
        return "the chief names the checkpoint and the command that continues the run"

    def to_continue(self) -> str:
        return "the chief names the command that continues the run"


class _Records:
    """Used in place of a History."""

    def __init__(self, validations: Mapping[int, dict[str, float]]) -> None:
        self.validations = dict(validations)

    def add(self, record: Record) -> None:
        if record.split == VALIDATION:
            self.validations[record.step] = record.scalars


class _Display:
    """Used in place of a Terminal."""

    def step(self, step: int) -> None:
        pass

    def training(
        self, step: int, total: int, epoch: float, values: Mapping[str, float], seconds_left: float | None
    ) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        """Print what only this process has met, such as a bad record in its part."""
        warn(text)


class _Views:
    """Used in place of the views."""

    def before(self, step: int, batch: Batch) -> None:
        pass

    def after(self, step: int) -> None:
        pass

    def validated(self, step: int, examples: Sequence[npt.NDArray[np.float32]], keep: Sequence[int]) -> None:
        pass

    def graph(self, graph: Callable[[], tf.Graph]) -> None:
        pass


class _Clock:
    """Used in place of a Clock."""

    earlier = Costs()

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def looping(self) -> None:
        pass

    def at(self, step: int) -> None:
        pass

    def progress(self) -> None:
        pass

    def saved(self) -> None:
        pass

    def measured(self, cost: SaveCost) -> None:
        pass

    def start_seconds(self) -> float:
        return 0.0


def work(process: Process, watchdog: Watchdog) -> None:
    """Work for the chief until the run ends, or wait for its end where the others can share the batches only without
    this process.

    Raises:
        PeerLost: the chief or another process is gone.
        ProcessesDiffer: this process has other data or code than the chief.
        Stopped, TrainingFailed: as in the chief.
    """
    peers = process.peers
    assert peers is not None, "a process that works alone is the chief"
    plan = peers.hear()
    if plan["config"] is None:
        return
    config = stored.from_text(plan["config"])
    watchdog.follow(config)
    program.refuse_other_code(plan["code"], program.plugin_code(config), peers.cluster.rank)
    shared = shares(config, process)
    assert shared is not None
    if peers.cluster.rank >= shared.processes:
        _idle(process.stop, peers, shared)
        return
    data = open_sources(config)
    assembly = assemble(config, process, shared, drawn=False)
    state = assembly.state
    announced = Announcement.of(peers.hear())
    own = versions.of_run(config, state.replicas)
    others = worker_differences(announced.versions, own)
    if others:
        raise ProcessesDiffer(
            f"{own_name(peers.cluster.rank)}, has {others[0]} ({len(others) - 1} more differences)\n"
            "give all processes the same packages and environment"
        )
    for line in worker_warnings(peers.cluster.rank, announced.versions, own):
        warn(line)
    found = facts.differences(facts.from_text(announced.fingerprint), fingerprint_of(config, state, data, None))
    if found:
        raise ProcessesDiffer(
            f"{own_name(peers.cluster.rank)}, computes something else than the chief: {found[0]} "
            f"({len(found) - 1} more differences)\n"
            f"look at {found[0].fact.file}; give all processes the same program, environment and data"
        )
    while True:
        watchdog.clock.follow(_Clock())
        standing_in = (_Saves(peers), _Records(announced.validations), _Display(), _Views(), watchdog.clock)
        run = wire(announced, config, state, data, process, *standing_in, start_cache=None)  # of one process
        watchdog.may_stop(run.stop)
        try:
            run_loop(run)
        except Diverged as diverged:
            with watchdog.clock.phase("starting"):
                agreed = Agreement.of(peers.hear())
                agreed.refuse_unless_of(diverged, own_name(peers.cluster.rank))
                config = stored.from_text(agreed.config)
                announced = Announcement.of(peers.hear())
        else:
            return


def _idle(stop: StopRequest, peers: Peers, shared: Sharing) -> None:
    """Wait until the run ends, and end as it does. A launcher that misses one process ends the others, so this one
    stays; and a signal to it is one to the run.
    """
    warn(f"worker {peers.cluster.rank} idles, and ends with the run: {shared.reason}")
    with stop.answered_by(peers.ask_to_stop):
        while "ended" not in (message := peers.hear()):
            pass
    if message["ended"] != 0:
        raise Stopped(message["reason"], message["ended"])
