"""One process among those of a run: joining them, leaving them, and not waiting for one that is gone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf
from tensorflow.python.eager import context  # not public; tf.distribute's own health check aborts collectives with it

from trainer.config.schema import Config
from trainer.distributed.addresses import Cluster
from trainer.distributed.agreement import Facts
from trainer.distributed.attendance import SHARING
from trainer.distributed.cluster import discover
from trainer.distributed.meeting import connect
from trainer.distributed.peers import SILENCE, Message, Peers
from trainer.distributed.replicas import Replicas, devices_here, replicas_here, replicas_of
from trainer.distributed.sharing import Sharing, share_out
from trainer.distributed.unshared import unshared
from trainer.errors import DataLost, PeerLost, Stopped, TrainerError, UsageError, printable, warn
from trainer.runtime import execution
from trainer.runtime.shortage import shortage
from trainer.runtime.signals import STOP_SIGNALS, StopRequest

GRACE_SECONDS = 25.0  # for the save in flight to end after a loss; detection and this stay below a minute


def cluster_of(strategy: str, environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that a run with this ``runtime.strategy`` belongs to, None when it works alone.

    Raises:
        UsageError: the environment does not add up, or names no cluster where one is needed.
    """
    if strategy not in SHARING:
        return None
    cluster = discover(environ)
    if cluster is None and strategy == "multi_worker":
        raise UsageError(
            "runtime.strategy=multi_worker finds no other process: neither TF_CONFIG nor TRAINER_WORKERS is "
            "set, and neither srun nor SkyPilot has started several\n"
            "start one process on each node, or set runtime.strategy=auto"
        )
    return cluster


@dataclasses.dataclass(frozen=True)
class Process:
    """This process: its stop request, and its connection to the others of the run; None when it works alone."""

    stop: StopRequest
    peers: Peers | None

    @property
    def is_chief(self) -> bool:
        """Whether this process decides what is done, and writes; the others compute their share."""
        return self.peers is None or self.peers.is_chief

    def is_asked_elsewhere(self) -> bool:
        """Whether another process of the run was asked to stop."""
        return self.peers is not None and self.peers.stop_asked

    def names(self) -> list[str]:
        """The processes of the run by rank, for messages; empty when it works alone."""
        if self.peers is None:
            return []
        return [self.peers.name(rank) for rank in range(len(self.peers.cluster.workers))]

    def tell(self, message: Message) -> None:
        """Tell the other processes, as their chief."""
        if self.peers is not None:
            self.peers.tell(message)

    def hear(self) -> Message:
        """Wait for the chief's next message."""
        assert self.peers is not None, "one that works alone is the chief"
        return self.peers.hear()


@contextlib.contextmanager
def joined(strategy: str, stop: StopRequest, facts: Callable[[], Facts]) -> Iterator[Process]:
    """This process, connected to the others of the run while the block runs. ``facts`` are those in which all must
    agree; they are asked for where there are others.

    When one of them is lost, this process gives up what it computes together with it. So the block ends with an error,
    which becomes the PeerLost that names the lost process. If the block does not end within ``GRACE_SECONDS``, this
    process ends. Whatever ends the block ends the others, too, with the same exit status.

    Raises:
        PeerLost: another process is gone, or did not come.
        ProcessesDiffer: one has other facts.
        UsageError: as ``cluster_of``.
    """
    cluster = cluster_of(strategy, os.environ)
    if cluster is None:
        alone = unshared(os.environ) if strategy in SHARING else None
        if alone is not None:
            warn(alone)
        yield Process(stop, None)
        return
    peers = connect(cluster, lambda: stop.signal is not None, facts())
    peers.watch(_end_soon)
    try:
        with _passing_signals_on(peers):
            yield Process(stop, peers)
    except (Stopped, DataLost) as error:
        if peers.is_chief:
            peers.tell(ended(error.exit_status, str(error)))
        peers.leave(0, "all stop together")
        raise
    except TrainerError as error:
        peers.leave(error.exit_status, str(error))
        raise
    except BaseException as error:
        if isinstance(error, tf.errors.OpError) and peers.wait_for_loss(SILENCE):
            assert peers.lost is not None
            raise peers.lost from error
        lack = shortage(error)
        if lack is not None:
            peers.leave(lack.exit_status, str(lack))
            raise lack from error
        peers.leave(1, type(error).__name__)
        raise
    if peers.is_chief:
        peers.tell(ended(0, "done"))
    peers.leave(0, "done")


@contextlib.contextmanager
def _passing_signals_on(peers: Peers) -> Iterator[None]:
    """While the block runs, the others learn at once of a request to stop. This process may be in a step that waits for
    one of them, where Python handles no signal; that one may wait for data.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def pass_on() -> None:
        while arrived := reader.recv(1):
            if arrived[0] in STOP_SIGNALS:
                peers.ask_to_stop()

    threading.Thread(target=pass_on, name="signals", daemon=True).start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()


def ended(status: int, reason: str) -> Message:
    """The chief's last message, for those that compute nothing and so do not learn how the run ended."""
    return {"ended": status, "reason": reason}


def shares(config: Config, process: Process) -> Sharing | None:
    """Which processes of the run compute. The chief decides and the others hear of it; every process must call this
    after the chief has sent the configuration. None when this process works alone.

    Raises:
        UsageError: there are other processes, but the configuration is for one that works alone.
        PeerLost: the chief is gone.
    """
    peers = process.peers
    if peers is None:
        return None
    strategy = config.runtime.strategy
    if strategy not in SHARING:
        raise UsageError(
            f"the run is stored with runtime.strategy={strategy}, but {len(peers.cluster.workers)} processes were "
            f"started together\nadd runtime.strategy=auto to let them share the run, or resume it with one process"
        )
    if not peers.is_chief:
        return Sharing.of(peers.hear())
    execution.configure(config.runtime)
    shared = share_out(config, len(peers.cluster.workers), devices_here())
    peers.tell(dataclasses.asdict(shared))
    peers.tolerate(range(shared.processes, len(peers.cluster.workers)), lambda reason: _stop_all(process.stop, reason))
    return shared


def _stop_all(stop: StopRequest, reason: str | None) -> None:
    """Stop the run at its next step, because a process that computes nothing was asked to, or is gone: a scheduler that
    has lost one process of a job ends the others soon.
    """
    if reason is not None:
        warn(f"{reason}; all processes stop")
    if stop.signal is None:
        stop.signal = signal.SIGTERM


def build_replicas(config: Config, process: Process, shared: Sharing | None) -> Replicas:
    """The replicas of this process, which computes; ``shared`` is what ``shares`` returned. Waits for the other
    processes that compute to do the same.

    Raises:
        UsageError: this process is alone, but the configuration is for several; or as ``replicas_of``.
    """
    strategy, peers = config.runtime.strategy, process.peers
    if peers is None or shared is None:
        if strategy == "multi_worker":
            raise UsageError(
                "the run is stored with runtime.strategy=multi_worker, but this process is alone: neither "
                "TF_CONFIG nor TRAINER_WORKERS is set, and neither srun nor SkyPilot has started several\n"
                "start one process on each node, or add runtime.strategy=auto to continue with this one"
            )
        return replicas_here(config)
    if shared.processes > 1:
        # TensorFlow waits for all in a call that lets no other thread run; one that does not come would not be noticed
        peers.gather(range(shared.processes))
    replicas = replicas_of(config, peers.cluster, shared)
    if shared.processes > 1:
        process.stop.install()  # TensorFlow has replaced the handler by its own
        peers.watch(_give_up)
    return replicas


def _give_up(lost: PeerLost) -> None:
    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, str(lost))
    _end_soon(lost)


def _end_soon(lost: PeerLost) -> None:
    def end() -> None:
        print(printable(f"stopped: {lost}"), file=sys.stderr, flush=True)
        os._exit(lost.exit_status)

    timer = threading.Timer(GRACE_SECONDS, end)
    timer.daemon = True
    timer.start()
