"""The chief's side of a meeting: who has come, who cannot come, and what that means for all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import connection as descriptors  # whose wait() polls: select() fails above descriptor 1,023
from typing import Any

from trainer.distributed.addresses import Cluster, split_address
from trainer.distributed.agreement import Facts, differences, name_of, own_name, refuse_unless_alike
from trainer.distributed.cluster import source
from trainer.distributed.peers import (
    ALIVE,
    CHIEF,
    READ_AT_ONCE,
    SILENCE,
    Message,
    farewell,
    first_message,
    send,
    send_at_once,
)
from trainer.errors import PeerLost, ProcessesDiffer, TrainerError, UsageError, warn

RETRY_SECONDS = 0.5
UNABLE_SECONDS = 3.0  # how long a worker reported unable may still connect: another process may have reported it

WELCOME: Message = {"kind": "welcome"}


def deciding(status: int) -> tuple[bool, int]:
    """Of several exit statuses, the one for which this is the smallest decides for all: to try again helps only where
    nothing else has failed.
    """
    return status == PeerLost.exit_status, status


def own_listener(cluster: Cluster) -> socket.socket:
    """A socket that listens at the address of this process, with IPv4 and IPv6 where the system has both."""
    rank, address = cluster.rank, cluster.workers[cluster.rank]
    who = "the chief" if rank == CHIEF else f"worker {rank}"
    _, port = split_address(address)
    try:
        return _listening(port, len(cluster.workers))
    except OSError as error:
        raise UsageError(
            f"{who} cannot listen at its address {address}: {error.strerror}\n"
            f"another process on {socket.gethostname()} has port {port}, which {source(os.environ)} names: a job that "
            f"was here before, another program, or {who} started a second time\n"
            f"end that process (find it with: ss -ltnp 'sport = :{port}') or give the tasks other ports"
        ) from error


def _listening(port: int, backlog: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # IPv6 is switched off
                raise
    return socket.create_server(("", port), backlog=backlog)


@dataclasses.dataclass
class Unable:
    """``connection``: where the process waits for the verdict; None if it does not."""

    since: float
    error: TrainerError
    connection: socket.socket | None = None


class Gathering:
    """The chief's side of the meeting: who has come, who cannot come, and what that means for all."""

    def __init__(self, cluster: Cluster, facts: Facts) -> None:
        """
        Raises:
            UsageError: the chief cannot listen at its address.
        """
        self.cluster = cluster
        self.connections: dict[int, socket.socket] = {}  # by rank, of those that are welcome
        self.there: dict[int, str] = {CHIEF: own_name(CHIEF)}  # for messages
        self.facts: dict[int, Facts] = {CHIEF: facts}
        self.unable: dict[int, Unable] = {}
        self.turned_away: list[str] = []  # processes with the rank of another, for messages
        self._told: dict[int, socket.socket] = {}  # by rank, of those to whom a verdict was sent
        self._odd_since: float | None = None
        self._listener = own_listener(cluster)

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        let_go(self._told.values())
        for unable in self.unable.values():
            if unable.connection is not None:
                unable.connection.close()

    def missing(self) -> list[int]:
        """The ranks that have not come, whether or not they can."""
        return [rank for rank in range(1, len(self.cluster.workers)) if rank not in self.connections]

    def names(self, ranks: Iterable[int]) -> str:
        return ", ".join(f"worker {rank} at {self.cluster.workers[rank]}" for rank in ranks)

    def wait(self) -> None:
        """Wait for a moment; take whoever connects."""
        for rank in [rank for rank, connection in self.connections.items() if _has_ended(connection)]:
            self.connections.pop(rank).close()  # its process may be started again
            del self.there[rank], self.facts[rank]
            self._look_for_odd_ones()
        for connection in self.connections.values():
            send(connection, ALIVE)
        if not descriptors.wait([self._listener], RETRY_SECONDS):
            return
        connection, _ = self._listener.accept()
        connection.settimeout(SILENCE)
        send_at_once(connection)
        if not self._take(connection):
            connection.close()

    def _take(self, connection: socket.socket) -> bool:
        """Greet the process that has connected; whether its connection stays open."""
        match hello := first_message(connection):
            case {"rank": int(rank), "workers": list(workers), "host": str(host), "process": int(process)}:
                return self._greet(connection, rank, tuple(workers), name_of(rank, process, host), hello)
            case {"kind": "leave", "rank": int(rank), "status": int(status), "reason": str(reason), "workers": workers}:
                if rank in self.connections:  # another process has its place, and the run goes on
                    send(connection, farewell(CHIEF, status, reason))
                elif workers == list(self.cluster.workers) and 0 < rank < len(workers):
                    lost = PeerLost(f"worker {rank} cannot take part: {reason}", status)
                    self.unable[rank] = Unable(time.monotonic(), lost, connection)
                    return True
        return False

    def _greet(
        self, connection: socket.socket, rank: int, workers: tuple[str, ...], name: str, hello: Mapping[str, Any]
    ) -> bool:
        if workers != self.cluster.workers or not 0 < rank < len(workers):
            brief = {key: hello[key] for key in ("rank", "workers", "host", "process")}
            reason = f"the chief waits for workers {self.missing()} of {list(self.cluster.workers)}, not for {brief}"
        elif rank in self.there:
            reason = (
                f"worker {rank} is there already, from {_place(self.there[rank])}; this one, {_place(name)}, was "
                f"started with the same place in {source(os.environ)}\ngive every process its own"
            )
            self.turned_away.append(name)
        else:
            self.there[rank] = name
            self.facts[rank] = _facts_in(hello)
            self.connections[rank] = connection
            self._look_for_odd_ones()
            send(connection, WELCOME)
            return True
        send(connection, farewell(CHIEF, UsageError.exit_status, reason))
        return False

    def _look_for_odd_ones(self) -> None:
        if not differences(self.facts):
            self._odd_since = None
        elif self._odd_since is None:
            self._odd_since = time.monotonic()

    def is_decided(self) -> bool:
        """Whether nobody else is waited for: all are there, or some cannot take part, and others had time to say so."""
        if not self.missing() or (CHIEF in self.unable and set(self.missing()) <= self.unable.keys()):
            return True
        began = [unable.since for rank, unable in self.unable.items() if rank not in self.connections]
        if self._odd_since is not None:
            began.append(self._odd_since)
        return any(time.monotonic() - since > UNABLE_SECONDS for since in began)

    def verdict(self) -> TrainerError | None:
        """Why the run cannot begin, None if it can. Of several reasons, the one that decides for all."""
        found = [unable.error for rank, unable in self.unable.items() if rank not in self.connections]
        if CHIEF not in self.unable:  # its facts are not known
            try:
                refuse_unless_alike(self.facts, self.there)
            except ProcessesDiffer as error:
                found.append(error)
        return min(found, key=lambda error: deciding(error.exit_status), default=None)

    def tell_all(self, verdict: TrainerError, deadline: float, interrupted: Callable[[], bool]) -> None:
        """Tell the verdict to those who are there, and wait for the others, to whom it is told when they come."""
        self.tell(verdict)
        if self._untold():
            warn(f"{str(verdict).splitlines()[0]}; telling {self.names(self._untold())} when it comes")
        while self._untold() and time.monotonic() < deadline and not interrupted():
            self.wait()
            self.tell(verdict)

    def tell(self, verdict: TrainerError) -> None:
        """Tell the verdict to those who are there, each once."""
        waiting = {rank: unable.connection for rank, unable in self.unable.items() if unable.connection is not None}
        there = {**waiting, **self.connections}
        for rank in there.keys() - self._told.keys():
            send(there[rank], farewell(CHIEF, verdict.exit_status, str(verdict)))
            self._told[rank] = there[rank]

    def _untold(self) -> list[int]:
        return [rank for rank in range(1, len(self.cluster.workers)) if rank not in self._told]


def let_go(connections: Iterable[socket.socket]) -> None:
    """Close connections over which a last message was sent, when the other ends have closed theirs, and at the latest
    after ``UNABLE_SECONDS``. To close one with something unread resets it, and what the other end has not received by
    then is lost with it.
    """
    open_ones, deadline = set(connections), time.monotonic() + UNABLE_SECONDS
    for connection in open_ones:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    while open_ones and (left := deadline - time.monotonic()) > 0:
        readable = descriptors.wait(list(open_ones), left)
        for connection in [each for each in open_ones if each in readable]:
            if _is_read_to_its_end(connection):
                connection.close()
                open_ones.remove(connection)
    for connection in open_ones:
        connection.close()


def _is_read_to_its_end(connection: socket.socket) -> bool:
    try:
        return not connection.recv(READ_AT_ONCE)
    except OSError:
        return True


def _place(name: str) -> str:
    return name.partition(", ")[2]


def _facts_in(hello: Mapping[str, Any]) -> dict[str, str]:
    """The facts in a greeting; none in that of an older program."""
    facts = hello.get("facts")
    return {str(name): str(value) for name, value in facts.items()} if isinstance(facts, dict) else {}


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other end was closed, even if some of what it sent is unread."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
