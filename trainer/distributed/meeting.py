"""How the processes of a run meet: all connect to the chief, which listens at its address of the cluster.

A process that connects sends its rank, host, and the facts in which all must agree (``agreement``). The chief welcomes
it or says why not; what answers without a welcome is not the chief. A process that waits for the chief listens at its
own address meanwhile. This shows that its port is free before TensorFlow needs it, and a chief whose own port is taken
can report that there. A process that cannot come connects all the same, and says so.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait  # which polls: select() fails above descriptor 1,023

from trainer.distributed.addresses import Cluster, split_address
from trainer.distributed.agreement import Facts
from trainer.distributed.cluster import names_come_late, source
from trainer.distributed.gathering import (
    RETRY_SECONDS,
    UNABLE_SECONDS,
    WELCOME,
    Gathering,
    Unable,
    deciding,
    own_listener,
)
from trainer.distributed.peers import (
    ALIVE,
    CHIEF,
    SILENCE,
    Message,
    Peers,
    farewell,
    first_line,
    first_message,
    line_of,
    send,
    send_at_once,
)
from trainer.errors import PeerLost, TrainerError, UsageError, warn

COMING_SECONDS = 300.0  # for all processes of a job to start: nodes boot and containers are pulled
ANNOUNCED_SECONDS = 20.0  # how long a chief without a port tries to reach the others: they start with it
UNKNOWN_SECONDS = 60.0  # how long a node may not know the name of another
STRANGER_SECONDS = 30.0  # how long an answer in the chief's place may come from an earlier job that is ending


def connect(cluster: Cluster, interrupted: Callable[[], bool], facts: Facts | None = None) -> Peers:
    """Wait for all processes of the cluster, which must have the same ``facts``.

    Raises:
        PeerLost: one did not connect in time or cannot, or ``interrupted`` became true; names it.
        ProcessesDiffer: one has other facts; names it.
        UsageError: this process cannot listen at its address, the clusters of two processes differ, or a process of
            this rank has already connected.
    """
    deadline = time.monotonic() + COMING_SECONDS
    if cluster.rank == CHIEF:
        return _gather(cluster, deadline, interrupted, facts or {})
    return _join(cluster, deadline, interrupted, facts or {})


def decline(cluster: Cluster, status: int, reason: str, interrupted: Callable[[], bool]) -> int:
    """Tell the others, which wait or will wait for this process, that it cannot come, and why. Returns the exit status
    that decides for all, as far as this process learns of it: its own ``status``, or that of another that cannot come.
    """
    deadline = time.monotonic() + COMING_SECONDS
    if cluster.rank != CHIEF:
        return _tell_chief(cluster, status, reason, deadline, interrupted)
    try:
        gathering = Gathering(cluster, {})
    except UsageError:  # another process has this one's place, or its port
        return status
    with gathering:
        gathering.unable[CHIEF] = Unable(time.monotonic(), PeerLost(reason, status))
        while not gathering.is_decided() and not interrupted():
            gathering.wait()
        verdict = gathering.verdict()
        assert verdict is not None, "this process cannot come"
        gathering.tell_all(verdict, deadline, interrupted)
    return verdict.exit_status


def _gather(cluster: Cluster, deadline: float, interrupted: Callable[[], bool], facts: Facts) -> Peers:
    try:
        gathering = Gathering(cluster, facts)
    except UsageError as error:  # nobody can connect
        warn(f"{str(error).splitlines()[0]}; telling the other processes")
        _announce(cluster, farewell(CHIEF, error.exit_status, str(error)), interrupted)
        raise
    with gathering:
        while not gathering.is_decided():
            if interrupted() or time.monotonic() > deadline:
                lost = _in_vain(gathering, interrupted)
                gathering.tell(lost)
                raise lost
            gathering.wait()
        verdict = gathering.verdict()
        if verdict is None:
            return Peers(cluster, gathering.connections)
        gathering.tell_all(verdict, deadline, interrupted)
    raise verdict


def _in_vain(gathering: Gathering, interrupted: Callable[[], bool]) -> TrainerError:
    reason = f"the chief waited in vain for {gathering.names(gathering.missing())}"
    if not gathering.turned_away or interrupted():
        return PeerLost(reason)
    twice = "; ".join(gathering.turned_away)
    return UsageError(f"{reason}\nanother place was taken twice, by {twice}: give every process its own")


def _announce(cluster: Cluster, message: Message, interrupted: Callable[[], bool]) -> None:
    """Tell the others, which listen while they wait, that the chief has no port; also those that start later."""
    untold, deadline = set(range(1, len(cluster.workers))), time.monotonic() + ANNOUNCED_SECONDS
    sent: set[int] = set()
    while untold and time.monotonic() < deadline and not interrupted():
        for rank in sorted(untold):
            try:
                with _called(cluster.workers[rank], RETRY_SECONDS) as connection:
                    send(connection, {**message, "workers": cluster.workers})
                    sent.add(rank)
                    if first_line(connection) == line_of(WELCOME):
                        untold.remove(rank)
            except ConnectionRefusedError:
                if rank in sent:  # it listened before, and has ended since
                    untold.remove(rank)
            except OSError:
                continue
        time.sleep(RETRY_SECONDS / 5)


def _called(address: str, seconds: float) -> socket.socket:
    connection = socket.create_connection(split_address(address), timeout=seconds)
    send_at_once(connection)
    return connection


def _join(cluster: Cluster, deadline: float, interrupted: Callable[[], bool], facts: Facts) -> Peers:
    chief = cluster.workers[CHIEF]
    try:
        listener = own_listener(cluster)
    except UsageError as error:
        announced = time.monotonic() + ANNOUNCED_SECONDS
        error.exit_status = _tell_chief(cluster, error.exit_status, str(error), announced, interrupted)
        raise
    reason, refused, strange_since, unknown_since = "no answer", None, None, None
    with listener:
        while time.monotonic() < deadline and not interrupted():
            try:
                connection = _called(chief, SILENCE)
            except OSError as error:
                reason, strange_since = error.strerror or str(error), None
                unknown_since = _unknown_since(error, unknown_since)
                if unknown_since is not None and time.monotonic() - unknown_since > UNKNOWN_SECONDS:
                    raise _unknown(cluster) from error
            else:
                send(connection, {**_hello(cluster), "facts": facts})
                patience = SILENCE if refused is None else UNABLE_SECONDS
                ready = wait([connection, listener], patience)
                if ready == [listener]:  # perhaps a second chief that has no port: the first answers soon
                    ready = wait([connection], UNABLE_SECONDS)
                if connection in ready and _is_welcome(connection, cluster):
                    return Peers(cluster, {CHIEF: connection})
                connection.close()
                reason = _stranger(cluster)
                strange_since = strange_since or time.monotonic()
                if time.monotonic() - strange_since > STRANGER_SECONDS:
                    raise UsageError(f"worker {cluster.rank} cannot join the chief at {chief}: {reason}")
            if refused is not None:  # and what answers at its address is not another chief
                raise refused
            refused = _refusal(listener, cluster)
            if refused is None:
                time.sleep(RETRY_SECONDS)
    raise PeerLost(f"worker {cluster.rank} waited in vain for the chief at {chief}: {reason}")


def _unknown_since(error: OSError, before: float | None) -> float | None:
    """Since when the chief's name is unknown here, None if it is not, or may come with the chief."""
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME and not names_come_late(os.environ):
        return before or time.monotonic()
    return None


def _unknown(cluster: Cluster) -> UsageError:
    host, _ = split_address(cluster.workers[CHIEF])
    return UsageError(
        f"worker {cluster.rank} cannot join the chief: {socket.gethostname()} does not know the name {host}\n"
        f"it must resolve on every node; try: getent hosts {host}"
    )


def _tell_chief(cluster: Cluster, status: int, reason: str, deadline: float, interrupted: Callable[[], bool]) -> int:
    """Tell the chief, which may start later, that this process cannot connect. Returns the status that decides for all,
    as ``decline``.
    """
    message = {**farewell(cluster.rank, status, reason), "workers": cluster.workers}
    warn(f"{reason.splitlines()[0]}; telling the chief")
    while time.monotonic() < deadline and not interrupted():
        with contextlib.suppress(OSError), _called(cluster.workers[CHIEF], SILENCE) as connection:
            if not _is_itself(connection):
                send(connection, message)
                return min(status, _verdict_of_chief(connection) or status, key=deciding)
        time.sleep(RETRY_SECONDS)
    return status


def _verdict_of_chief(connection: socket.socket) -> int | None:
    """The exit status that the chief answers; None if it does not."""
    connection.settimeout(2 * UNABLE_SECONDS)
    match first_message(connection):
        case {"kind": "leave", "status": int(status)}:
            return status
    return None


def _hello(cluster: Cluster) -> Message:
    return {"rank": cluster.rank, "workers": cluster.workers, "host": socket.gethostname(), "process": os.getpid()}


def _stranger(cluster: Cluster) -> str:
    return (
        f"what answers there is not a chief that waits: either the run has begun with another worker {cluster.rank} "
        f"(this one was started a second time with the same place in {source(os.environ)}), or another program has "
        "that port"
    )


def _is_welcome(connection: socket.socket, cluster: Cluster) -> bool:
    """Whether the greeted process at the other end is the chief, and welcomes this one.

    Raises:
        UsageError: it is the chief, and has another place for this process, or none.
        PeerLost: it is the chief, and ends.
    """
    if _is_itself(connection):
        return False
    while (answer := first_message(connection)) == ALIVE:
        pass
    match answer:
        case {"kind": "leave", "status": UsageError.exit_status, "reason": str(reason)}:
            raise UsageError(reason)
        case {"kind": "leave", "status": int(status), "reason": str(reason)}:
            raise PeerLost(f"the chief at {cluster.workers[CHIEF]} ended with status {status}: {reason}", status)
    return bool(answer == WELCOME)


def _is_itself(connection: socket.socket) -> bool:
    """On one host a process can meet itself: an outgoing connection may begin at the port it goes to."""
    try:
        return bool(connection.getsockname() == connection.getpeername())
    except OSError:  # the other end, a chief that is killed now, has reset it; who reads from it learns so
        return False


def _refusal(listener: socket.socket, cluster: Cluster) -> PeerLost | None:
    """The refusal that a chief without a port has delivered, None when there is none."""
    if not wait([listener], 0):
        return None
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(SILENCE)
        match first_message(connection):
            case {"kind": "leave", "rank": 0, "status": int(status), "reason": str(reason), "workers": workers}:
                if workers == list(cluster.workers):
                    send(connection, WELCOME)
                    return PeerLost(f"the chief ended with status {status}: {reason}", status)
    return None
