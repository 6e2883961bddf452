"""Messages between the processes of one run beside the computation: what to do, which are alive, which left.

A star of TCP connections around the chief, rank 0, made before TensorFlow starts and kept until the end. The chief
listens at its own address of the cluster until all have come; then it stops listening, and TensorFlow's server takes
that port. So a job needs no ports but those it names. How they meet is in ``trainer.distributed.meeting``.

Each message is one line of JSON. The chief sends its decisions to all others (``tell``), which wait for them
(``hear``). Every process reports that it is alive, and how long it has waited for the others. A process that is silent
for ``SILENCE`` seconds, or whose connection ends without a farewell, is lost, and every process of the run learns that.
Silence is counted in seconds in which this process could listen: one that was suspended judges nobody when it wakes.
"""

from __future__ import annotations

import contextlib
import json
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainer.distributed import exchange
from trainer.distributed.addresses import Cluster
from trainer.errors import PeerLost
from trainer.runtime.counted_time import CountedTime
from trainer.storage.documents import parse_json, shown
from trainer.storage.unacceptable import Unacceptable

CHIEF = 0
ALIVE_EVERY = 2.0  # seconds
LISTEN_SECONDS = 1.0  # at a time
GATHERING_SECONDS = 0.05  # between two looks at who is there
SILENCE = 20.0  # seconds without a sign of life after which a process counts as lost
READ_AT_ONCE = 64 << 10  # bytes
LINE_LIMIT = 16 << 20  # bytes; the largest message is a configuration with the names of its classes

Message = dict[str, Any]

ALIVE: Message = {"kind": "alive"}
STOP: Message = {"kind": "stop"}


class Peers:
    """The other processes of this run, connected."""

    def __init__(self, cluster: Cluster, connections: dict[int, socket.socket]) -> None:
        """``connections`` by rank: the chief has one to each other process, the others have one to the chief."""
        self.cluster = cluster
        self._connections = connections
        self._told: queue.SimpleQueue[Message | None] = queue.SimpleQueue()  # by the chief; None: no more will come
        self._sending = threading.Lock()
        self._leaving = False
        self._gone: set[int] = set()  # ranks that said farewell
        self._idle: frozenset[int] = frozenset()  # ranks that compute nothing
        self._stop_all: Callable[[str | None], None] | None = None
        self._watcher: Callable[[PeerLost], None] | None = None
        self._watching = threading.Lock()
        self.lost: PeerLost | None = None
        self._losing = threading.Event()
        self.stop_asked = False  # of another process of the run
        self._ready: set[int] = set()  # ranks that have come to ``gather``
        self.waited = 0.0  # seconds that this process has waited for others, without progress; the watchdog sets it
        self._waited_by: dict[int, float] = {}  # the same of the others, by rank, as far as this process hears them
        self.on_report: Callable[[str], object] = lambda text: None  # with what a process that hangs has found out
        for rank, connection in connections.items():
            connection.settimeout(SILENCE)
            threading.Thread(target=self._listen, args=(rank,), name=f"peer {rank}", daemon=True).start()
        threading.Thread(target=self._say_alive, name="alive", daemon=True).start()

    @property
    def is_chief(self) -> bool:
        return self.cluster.rank == CHIEF

    def tell(self, message: Message) -> None:
        """Send the chief's decision to all others."""
        assert self.is_chief
        self._send({"kind": "told", "message": message})

    def hear(self) -> Message:
        """Wait for the chief's next message.

        Raises:
            PeerLost: there will be none.
        """
        with exchange.OWN.waiting():
            message = self._told.get()
        if message is None:
            assert self.lost is not None
            raise self.lost
        return message

    def gather(self, ranks: Iterable[int]) -> None:
        """Return when all of ``ranks``, this process among them, have called this.

        Raises:
            PeerLost: one of them will not come.
        """
        if not self.is_chief:
            self._send({"kind": "ready"})
            self.hear()
            return
        missing = set(ranks) - {CHIEF}
        with exchange.OWN.waiting():
            while not missing <= self._ready and not self._losing.wait(GATHERING_SECONDS):
                pass
        if self.lost is not None:
            raise self.lost
        self.tell({"gathered": sorted(missing)})

    def watch(self, on_loss: Callable[[PeerLost], None]) -> None:
        """Call ``on_loss`` once, in a thread of its own, when a process is lost, now or later."""
        with self._watching:
            self._watcher = on_loss
            lost = self.lost
        if lost is not None:
            on_loss(lost)

    def tolerate(self, idle: Iterable[int], stop_all: Callable[[str | None], None]) -> None:
        """Let the chief call ``stop_all``, in another thread, when one of the ``idle`` ranks, which compute nothing,
        asks for a stop (None) or is gone (the reason). Nothing that is computed is lost with them.
        """
        self._stop_all = stop_all
        self._idle = frozenset(idle)

    def wait_for_loss(self, seconds: float) -> bool:
        """Whether a process is lost, or will be within ``seconds``."""
        return self._losing.wait(seconds)

    def ask_to_stop(self) -> None:
        """Tell the others that this process was asked to stop. One that waits for data need not wait any longer; where
        all stop is agreed upon elsewhere (``stop_vote``). For a process that computes nothing, and so has no vote, the
        chief stops all.
        """
        self._send(STOP)

    def all_have_waited(self, seconds: float) -> bool:
        """Whether every other process that computes has waited for others at least so long, as the chief knows."""
        others = [rank for rank in self._connections if rank not in self._idle]
        return self.is_chief and all(self._waited_by.get(rank, 0.0) >= seconds for rank in others)

    def report(self, text: str) -> None:
        """Tell the chief, which has the log of the run, what this process has found out about a hang of its own."""
        if not self.is_chief:
            self._send({"kind": "report", "text": text})

    def leave(self, status: int, reason: str) -> None:
        """Say farewell: this process ends with ``status``. If it is not 0, the others end with it too."""
        self._leaving = True
        self._send(farewell(self.cluster.rank, status, reason))
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def name(self, rank: int) -> str:
        """A process of the run, for messages."""
        return f"{'the chief, ' if rank == CHIEF else ''}worker {rank} at {self.cluster.workers[rank]}"

    def _send(self, message: Message, *, leaving_out: int | None = None) -> None:
        with self._sending:
            for rank, connection in self._connections.items():
                if rank != leaving_out:
                    send(connection, message)

    def _say_alive(self) -> None:
        while not self._leaving:
            self._send({**ALIVE, "waited": self.waited})
            time.sleep(ALIVE_EVERY)

    def _listen(self, rank: int) -> None:
        """Read what one process sends, until its connection ends."""
        connection = self._connections[rank]
        try:
            for line in _lines(connection):
                self._take(rank, parse_json(line.decode()))
            how = "its connection ended"
        except TimeoutError:
            how = f"it has given no sign of life for {SILENCE:.0f} seconds"
        except OSError as error:
            how = error.strerror or str(error)
        except Unacceptable as error:
            how = str(error)
        except UnicodeDecodeError:
            how = (
                "what came from there is no message of this program: another program, or another process, has its place"
            )
        if not self.is_chief:  # the chief, which says nothing more, hears no more either, and waits for this end
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        if rank not in self._gone and not self._leaving:
            name = self.name(rank)
            self._lose(PeerLost(f"{name} was lost: {how}"), rank)

    def _take(self, rank: int, message: Any) -> None:
        match message:
            case {"kind": "alive"}:
                self._waited_by[rank] = float(message.get("waited", 0.0))
            case {"kind": "ready"}:
                self._ready.add(rank)
            case {"kind": "report", "text": str(text)}:
                self.on_report(f"{self.name(rank)}: {text}")
            case {"kind": "stop"}:
                self.stop_asked = True
                if self.is_chief:
                    self._send(STOP, leaving_out=rank)
                if rank in self._idle and self._stop_all is not None:
                    self._stop_all(None)
            case {"kind": "told", "message": dict(told)}:
                self._told.put(told)
            case {"kind": "leave", "rank": int(who), "status": int(status), "reason": str(reason)}:
                self._gone.add(rank)
                if status != 0:
                    self._lose(PeerLost(f"{self.name(who)} ended with status {status}: {reason}", status), rank)
            case {"kind": "lost", "reason": str(reason), "status": int(status)}:
                self._lose(PeerLost(reason, status), rank)
            case _:
                raise Unacceptable(f"it sent {shown(message)}")

    def _lose(self, lost: PeerLost, rank: int) -> None:
        if rank in self._idle and self._stop_all is not None:
            if self.lost is None:  # or it leaves because of that loss
                self._stop_all(str(lost))
            return
        with self._watching:
            if self.lost is not None or self._leaving:
                return
            self.lost = lost
            watcher = self._watcher
        if self.is_chief:
            self._send({"kind": "lost", "reason": str(lost), "status": lost.exit_status}, leaving_out=rank)
        self._told.put(None)
        if watcher is not None:
            watcher(lost)
        self._losing.set()


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """What comes, line by line, until the connection ends.

    Raises:
        TimeoutError: nothing came for ``SILENCE`` seconds in which this process ran.
        Unacceptable: a line is too long.
        OSError: the connection is broken.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    rest, time_here = b"", CountedTime(LISTEN_SECONDS)
    heard = time_here.seconds
    while True:
        if not poll.poll(1000 * LISTEN_SECONDS):
            if time_here.read() - heard >= SILENCE:
                raise TimeoutError
            continue
        received = connection.recv(READ_AT_ONCE)
        heard = time_here.read()
        *lines, rest = (rest + received).split(b"\n")
        yield from lines
        if not received:
            if rest:
                yield rest
            return
        if len(rest) > LINE_LIMIT:
            raise Unacceptable(f"it sent a line of more than {LINE_LIMIT} bytes")


def farewell(rank: int, status: int, reason: str) -> Message:
    return {"kind": "leave", "rank": rank, "status": status, "reason": reason}


def line_of(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def send_at_once(connection: socket.socket) -> None:
    """Let what is sent leave at once: a short message would else wait until the one before it is acknowledged."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(connection: socket.socket, message: Message) -> None:
    with contextlib.suppress(OSError):  # the thread that listens there finds out
        connection.sendall(line_of(message))


def first_message(connection: socket.socket) -> Any:
    """The first message on a connection; None where there comes none that is one."""
    try:
        return parse_json(first_line(connection).decode())
    except (OSError, Unacceptable, UnicodeDecodeError):
        return None


def first_line(connection: socket.socket) -> bytes:
    """Read byte by byte: what follows the line belongs to the next reader."""
    line = b""
    while not line.endswith(b"\n") and len(line) < LINE_LIMIT:
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError("the connection ended")
        line += byte
    return line
