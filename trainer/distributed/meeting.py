"""How the processes of a run meet: all connect to the chief, which listens at its address of the cluster.

A process that connects sends its rank and host. The chief welcomes it or says why not; what answers without a welcome
is not the chief. A process that waits for the chief listens at its own address meanwhile. This shows that its port is
free before TensorFlow needs it, and a chief whose own port is taken can report that there.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable

from trainer.distributed.cluster import Cluster, source
from trainer.distributed.peers import ALIVE, CHIEF, SILENCE, Message, Peers, farewell, first_line, line_of, send
from trainer.errors import PeerLost, TrainerError, UsageError, warn
from trainer.storage.documents import parse_json, shown
from trainer.storage.unacceptable import Unacceptable

COMING_SECONDS = 300.0  # for all processes of a job to start: nodes boot and containers are pulled
RETRY_SECONDS = 0.5
ANNOUNCED_SECONDS = 20.0  # how long a chief without a port tries to reach the others: they start with it
UNABLE_SECONDS = 3.0  # how long a worker reported unable may still connect: another process may have reported it
STRANGER_SECONDS = 30.0  # how long an answer in the chief's place may come from an earlier job that is ending

WELCOME: Message = {"kind": "welcome"}


def connect(cluster: Cluster, interrupted: Callable[[], bool]) -> Peers:
    """Wait for all processes of the cluster.

    Raises:
        PeerLost: one did not connect in time or cannot, or ``interrupted`` became true; names it.
        UsageError: this process cannot listen at its address, the clusters of two processes differ, or a process of
            this rank has already connected.
    """
    deadline = time.monotonic() + COMING_SECONDS
    if cluster.rank == CHIEF:
        return _gather(cluster, deadline, interrupted)
    return _join(cluster, deadline, interrupted)


def _listener(cluster: Cluster) -> socket.socket:
    """A socket that listens at the address of this process."""
    rank, address = cluster.rank, cluster.workers[cluster.rank]
    who = "the chief" if rank == CHIEF else f"worker {rank}"
    port = int(address.rpartition(":")[2])
    try:
        return socket.create_server(("", port), backlog=len(cluster.workers))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{who} cannot listen at its address {address}: {reason}\n"
            f"another process on {socket.gethostname()} has port {port}, which {source(os.environ)} names: a job that "
            f"was here before, another program, or {who} started a second time\n"
            f"end that process (find it with: ss -ltnp 'sport = :{port}') or give the tasks other ports"
        ) from error


def _gather(cluster: Cluster, deadline: float, interrupted: Callable[[], bool]) -> Peers:
    connections: dict[int, socket.socket] = {}
    there: dict[int, str] = {}  # rank -> host and process
    unable: dict[int, tuple[float, PeerLost]] = {}  # rank -> since when, and why, it cannot connect
    try:
        with _listener(cluster) as listener:
            while len(connections) < len(cluster.workers) - 1:
                for rank in [rank for rank, connection in connections.items() if _has_ended(connection)]:
                    connections.pop(rank).close()  # its process may be started again
                    del there[rank]
                missing = [rank for rank in range(1, len(cluster.workers)) if rank not in connections]
                if interrupted() or time.monotonic() > deadline:
                    names = ", ".join(f"worker {rank} at {cluster.workers[rank]}" for rank in missing)
                    raise PeerLost(f"the chief waited in vain for {names}")
                for rank, (since, lost) in unable.items():
                    if rank in missing and time.monotonic() - since > UNABLE_SECONDS:
                        raise lost
                for connection in connections.values():
                    send(connection, ALIVE)
                if not select.select([listener], [], [], RETRY_SECONDS)[0]:
                    continue
                connection, _ = listener.accept()
                connection.settimeout(SILENCE)
                come = _greeted(connection, cluster, there, unable)
                if come is None:
                    connection.close()
                else:
                    connections[come] = connection
    except TrainerError as error:
        message = farewell(CHIEF, error.exit_status, str(error))
        for connection in connections.values():
            send(connection, message)
        if isinstance(error, UsageError):  # nobody could connect
            warn(f"{str(error).splitlines()[0]}; telling the other processes")
            _announce(cluster, message, interrupted)
        raise
    return Peers(cluster, connections)


def _greeted(
    connection: socket.socket, cluster: Cluster, there: dict[int, str], unable: dict[int, tuple[float, PeerLost]]
) -> int | None:
    """The rank of the process that connected, if it is welcome. None if the chief does not wait for it, which it is
    then told. ``there`` are the processes that have connected, ``unable`` those that report that they cannot.
    """
    try:
        hello = parse_json(first_line(connection).decode())
    except (OSError, Unacceptable, UnicodeDecodeError):
        return None
    match hello:
        case {"rank": int(rank), "workers": list(workers), "host": str(host), "process": int(process)}:
            if tuple(workers) != cluster.workers or not 0 < rank < len(workers):
                missing = [rank for rank in range(1, len(cluster.workers)) if rank not in there]
                reason = f"the chief waits for workers {missing} of {list(cluster.workers)}, not for {shown(hello)}"
            elif rank in there:
                reason = (
                    f"worker {rank} is there already, from {there[rank]}; this one, process {process} on {host}, was "
                    f"started with the same place in {source(os.environ)}\ngive every process its own"
                )
            else:
                there[rank] = f"process {process} on {host}"
                send(connection, WELCOME)
                return rank
            send(connection, farewell(CHIEF, UsageError.exit_status, reason))
        case {"kind": "leave", "rank": int(rank), "status": int(status), "reason": str(reason), "workers": workers}:
            if workers == list(cluster.workers):
                unable[rank] = time.monotonic(), PeerLost(f"worker {rank} cannot take part: {reason}", status)
    return None


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other end was closed, even if some of what it sent is unread."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


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
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def _join(cluster: Cluster, deadline: float, interrupted: Callable[[], bool]) -> Peers:
    chief = cluster.workers[CHIEF]
    try:
        listener = _listener(cluster)
    except UsageError as error:
        warn(f"{str(error).splitlines()[0]}; telling the chief")
        _tell_chief(cluster, farewell(cluster.rank, UsageError.exit_status, str(error)), interrupted)
        raise
    reason, refused, strange_since = "no answer", None, None
    with listener:
        while time.monotonic() < deadline and not interrupted():
            try:
                connection = _called(chief, SILENCE)
            except OSError as error:
                reason, strange_since = error.strerror or str(error), None
            else:
                send(connection, _hello(cluster))
                patience = SILENCE if refused is None else UNABLE_SECONDS
                ready = select.select([connection, listener], [], [], patience)[0]
                if ready == [listener]:  # perhaps a second chief that has no port: the first answers soon
                    ready = select.select([connection], [], [], UNABLE_SECONDS)[0]
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


def _tell_chief(cluster: Cluster, message: Message, interrupted: Callable[[], bool]) -> None:
    """Tell the chief, which may start later, that this process cannot connect."""
    deadline = time.monotonic() + ANNOUNCED_SECONDS
    while time.monotonic() < deadline and not interrupted():
        with contextlib.suppress(OSError), _called(cluster.workers[CHIEF], SILENCE) as connection:
            send(connection, {**message, "workers": cluster.workers})
            return
        time.sleep(RETRY_SECONDS)


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
    # on one host a process can meet itself: an outgoing connection may begin at the port it goes to
    if connection.getsockname() == connection.getpeername():
        return False
    try:
        while (answer := parse_json(first_line(connection).decode())) == ALIVE:
            pass
    except (OSError, Unacceptable, UnicodeDecodeError):
        return False
    match answer:
        case {"kind": "leave", "status": UsageError.exit_status, "reason": str(reason)}:
            raise UsageError(reason)
        case {"kind": "leave", "status": int(status), "reason": str(reason)}:
            raise PeerLost(f"the chief at {cluster.workers[CHIEF]} ended with status {status}: {reason}", status)
    return bool(answer == WELCOME)


def _refusal(listener: socket.socket, cluster: Cluster) -> PeerLost | None:
    """The refusal that a chief without a port has delivered, None when there is none."""
    if not select.select([listener], [], [], 0)[0]:
        return None
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(SILENCE)
        try:
            message = parse_json(first_line(connection).decode())
        except (OSError, Unacceptable, UnicodeDecodeError):
            return None
        match message:
            case {"kind": "leave", "rank": 0, "status": int(status), "reason": str(reason), "workers": workers}:
                if workers == list(cluster.workers):
                    send(connection, WELCOME)
                    return PeerLost(f"the chief ended with status {status}: {reason}", status)
    return None
