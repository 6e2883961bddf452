"""The connections between the processes of a run: who is waited for, what is told, who is missed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from composing import compose
from processes import NARROW
from worker_processes import free_ports

from trainer.distributed import gathering, meeting
from trainer.distributed import peers as module
from trainer.distributed.addresses import Cluster
from trainer.distributed.meeting import connect, decline
from trainer.distributed.membership import Process, build_replicas, shares
from trainer.distributed.peers import Peers
from trainer.errors import PeerLost, ProcessesDiffer, UsageError
from trainer.runtime.signals import StopRequest


@pytest.fixture
def workers() -> tuple[str, ...]:
    return tuple(f"127.0.0.1:{port}" for port in free_ports(3))


def together(workers: tuple[str, ...]) -> list[Peers]:
    with ThreadPoolExecutor(len(workers)) as pool:
        joining = [pool.submit(connect, Cluster(workers, rank), lambda: False) for rank in range(len(workers))]
        return [each.result(60) for each in joining]


@pytest.fixture
def three(workers: tuple[str, ...]) -> Iterator[list[Peers]]:
    peers = together(workers)
    yield peers
    for each in peers:
        each.leave(0, "the test is over")


def losses(peers: Peers) -> list[PeerLost]:
    found: list[PeerLost] = []
    peers.watch(found.append)
    return found


def test_all_hear_what_the_chief_tells_in_its_order(three: list[Peers]) -> None:
    for number in range(100):
        three[0].tell({"number": number})
    for worker in three[1:]:
        assert [worker.hear()["number"] for _ in range(100)] == list(range(100))


def test_the_chiefs_port_is_free_again_for_tensorflow_while_the_connections_last(
    three: list[Peers], workers: tuple[str, ...]
) -> None:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", int(workers[0].rpartition(":")[2])))
    server.listen()
    server.close()
    three[0].tell({"still": "there"})
    assert three[1].hear() == {"still": "there"}


def test_when_one_process_dies_all_others_know_which(three: list[Peers], workers: tuple[str, ...]) -> None:
    found = [losses(three[0]), losses(three[2])]
    three[1]._leaving = True  # what it would say itself plays no part
    for connection in three[1]._connections.values():
        connection.shutdown(socket.SHUT_RDWR)
    for who, seen in zip((three[0], three[2]), found, strict=True):
        assert who.wait_for_loss(20)
        assert str(who.lost) == f"worker 1 at {workers[1]} was lost: its connection ended"
        assert who.lost is not None
        assert who.lost.exit_status == 75
        assert seen == [who.lost]
    with pytest.raises(PeerLost, match="worker 1"):
        three[2].hear()


def test_when_the_chief_ends_with_an_error_the_others_end_with_the_same_status_and_reason(three: list[Peers]) -> None:
    three[0].leave(3, "the checkpoint does not fit")
    for worker in three[1:]:
        assert worker.wait_for_loss(20)
        assert worker.lost is not None
        assert worker.lost.exit_status == 3
        assert "ended with status 3: the checkpoint does not fit" in str(worker.lost)


def test_who_leaves_without_an_error_is_not_missed(three: list[Peers]) -> None:
    three[1].leave(0, "done")
    three[0].tell({"committed": 7})
    assert three[2].hear() == {"committed": 7}
    assert not three[0].wait_for_loss(0.5)


def test_a_process_that_is_silent_counts_as_lost(workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 2.0)
    monkeypatch.setattr(module, "ALIVE_EVERY", 0.2)
    three = together(workers)
    time.sleep(3)
    assert all(each.lost is None for each in three), "those who say that they are alive are not missed"
    three[1]._leaving = True  # ends the thread that says so; the connection stays
    for who in (three[0], three[2]):
        assert who.wait_for_loss(20)
        assert "no sign of life" in str(who.lost)
        assert "worker 1 at" in str(who.lost)


def test_who_does_not_come_is_named(workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "COMING_SECONDS", 2.0)
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(workers, 0), lambda: False)
        pool.submit(connect, Cluster(workers, 2), lambda: False)
        with pytest.raises(PeerLost, match=f"the chief waited in vain for worker 1 at {workers[1]}"):
            chief.result(30)
    with pytest.raises(PeerLost, match=f"worker 1 waited in vain for the chief at {workers[0]}"):
        connect(Cluster(workers, 1), lambda: False)


def test_a_signal_ends_the_wait(workers: tuple[str, ...]) -> None:
    signalled = threading.Event()
    threading.Timer(1, signalled.set).start()
    with pytest.raises(PeerLost, match="in vain for worker 1"):
        connect(Cluster(workers, 0), signalled.is_set)


def test_the_chief_is_not_confused_by_strangers_and_refuses_the_worker_of_another_cluster(
    workers: tuple[str, ...],
) -> None:
    two = workers[:2]
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(two, 0), lambda: False)
        address = ("127.0.0.1", int(two[0].rpartition(":")[2]))
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": "1"}\n', b"\xff\n", b""):
            while True:
                try:
                    stranger = socket.create_connection(address)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            stranger.sendall(greeting)
            stranger.close()
        with pytest.raises(UsageError, match=r"the chief waits for workers \[1\] of"):
            connect(Cluster(workers, 1), lambda: False)  # as it was told, there are three
        right = connect(Cluster(two, 1), lambda: False)
        chief.result(30).tell({"found": True})
        assert right.hear() == {"found": True}


@contextlib.contextmanager
def stranger(address: str, says: bytes) -> Iterator[None]:
    """Another program at an address, which greets whoever connects."""
    with socket.create_server(("", int(address.rpartition(":")[2]))) as server:
        taken: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])
                    taken[-1].sendall(says)

        threading.Thread(target=serve, daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


@pytest.mark.parametrize("says", [b"", b"220 mail ready\r\n", b"\x00\x00\x1e\x04\x00\xff\xfe\n"])
def test_a_chief_whose_port_is_taken_tells_all_workers_which_end_at_once_with_the_cause(
    says: bytes, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", "the addresses")
    port = workers[0].rpartition(":")[2]
    with stranger(workers[0], says), ThreadPoolExecutor() as pool:
        joining = [pool.submit(connect, Cluster(workers, rank), lambda: False) for rank in (1, 2)]
        with pytest.raises(UsageError, match=f"the chief cannot listen at its address {workers[0]}: Address already"):
            connect(Cluster(workers, 0), lambda: False)
        for each in joining:
            with pytest.raises(PeerLost, match="the chief cannot listen at its address") as told:
                each.result(60)
            assert told.value.exit_status == UsageError.exit_status
            assert f"has port {port}, which TF_CONFIG names" in str(told.value)


def test_a_second_chief_does_not_end_the_run_of_the_first(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "ANNOUNCED_SECONDS", 2.0)
    with ThreadPoolExecutor() as pool:
        chief, one = (pool.submit(connect, Cluster(workers, rank), lambda: False) for rank in (0, 1))
        wait_until_listening(workers[0])
        second = pool.submit(connect, Cluster(workers, 0), lambda: False)
        two = pool.submit(connect, Cluster(workers, 2), lambda: False)
        with pytest.raises(UsageError, match="or the chief started a second time"):
            second.result(60)
        chief.result(60).tell({"found": True})
        for each in (one, two):
            assert each.result(60).hear() == {"found": True}


def test_a_worker_whose_port_is_taken_ends_all_with_the_cause(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "UNABLE_SECONDS", 0.5)
    with stranger(workers[1], b""), ThreadPoolExecutor() as pool:
        chief, two = (pool.submit(connect, Cluster(workers, rank), lambda: False) for rank in (0, 2))
        wait_until_listening(workers[0])
        with pytest.raises(UsageError, match=f"worker 1 cannot listen at its address {workers[1]}"):
            connect(Cluster(workers, 1), lambda: False)
        with pytest.raises(PeerLost, match="worker 1 cannot take part: worker 1 cannot listen") as lost:
            chief.result(60)
        assert lost.value.exit_status == UsageError.exit_status
        other = two.result(60)
        assert other.wait_for_loss(20)
        assert "worker 1 cannot take part" in str(other.lost)


def wait_until_listening(address: str) -> None:
    """As a stranger who says nothing."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)


def test_a_worker_that_is_started_twice_is_told_who_is_there_and_the_run_goes_on(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "UNABLE_SECONDS", 0.5)
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(workers, 0), lambda: False)
        one = connect(Cluster(workers, 1), lambda: False)
        with monkeypatch.context() as elsewhere, socket.create_server(("", 0)) as port:  # as on another host
            elsewhere.setattr(meeting, "own_listener", lambda cluster: port)
            there = f"worker 1 is there already, from process {os.getpid()} on {socket.gethostname()}"
            with pytest.raises(UsageError, match=there):
                connect(Cluster(workers, 1), lambda: False)
        with stranger(workers[1], b""), pytest.raises(UsageError, match="or worker 1 started a second time"):
            connect(Cluster(workers, 1), lambda: False)  # on the same host
        time.sleep(1.5)
        two = connect(Cluster(workers, 2), lambda: False)
        chief.result(60).tell({"found": True})
        assert [each.hear() for each in (one, two)] == [{"found": True}] * 2


def test_a_worker_that_is_started_again_before_all_have_come_takes_its_place(workers: tuple[str, ...]) -> None:
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(workers, 0), lambda: False)
        first = connect(Cluster(workers, 1), lambda: False)
        time.sleep(3)  # it has said that it is alive, which nobody has read
        first._leaving = True
        for connection in first._connections.values():
            connection.shutdown(socket.SHUT_RDWR)
        time.sleep(1.5)
        again = connect(Cluster(workers, 1), lambda: False)
        connect(Cluster(workers, 2), lambda: False)
        chief.result(60).tell({"found": True})
        assert again.hear() == {"found": True}


def test_who_comes_after_the_run_has_begun_is_told_so_and_does_not_wait(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chief's port has TensorFlow's server then, which speaks HTTP/2."""
    monkeypatch.setattr(meeting, "STRANGER_SECONDS", 1.0)
    with (
        stranger(workers[0], b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\xff\n"),
        pytest.raises(UsageError, match="the run has begun with another worker 1"),
    ):
        connect(Cluster(workers, 1), lambda: False)


def test_what_is_no_message_ends_the_connection(three: list[Peers]) -> None:
    (connection,) = three[1]._connections.values()
    connection.sendall(json.dumps({"kind": "execute", "code": "import os"}).encode() + b"\n")
    assert three[0].wait_for_loss(20)
    assert "worker 1" in str(three[0].lost)
    assert "it sent" in str(three[0].lost)


def test_processes_with_other_facts_end_with_3_and_the_odd_one_is_named(workers: tuple[str, ...]) -> None:
    def come(rank: int) -> Peers:
        facts = {"seed": "2" if rank == 1 else "0", "numpy": "2.0"}
        return connect(Cluster(workers, rank), lambda: False, facts)

    with ThreadPoolExecutor() as pool:
        coming = [pool.submit(come, rank) for rank in range(3)]
        with pytest.raises(ProcessesDiffer) as refused:
            coming[0].result(60)
        odd = f"worker 1, process {os.getpid()} on {socket.gethostname()}"
        assert f"odd: {odd}\n  {odd} has seed: 2; the others have: 0" in str(refused.value)
        assert refused.value.exit_status == 3
        for each in coming[1:]:
            other = each.result(60)
            assert other.wait_for_loss(20)
            assert other.lost is not None
            assert other.lost.exit_status == 3
            assert "has seed: 2" in str(other.lost)


def test_a_worker_that_cannot_come_ends_all_with_its_status_those_that_come_later_too(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "UNABLE_SECONDS", 0.5)
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(workers, 0), lambda: False)
        assert decline(Cluster(workers, 1), 2, "model.width=x is no number", lambda: False) == 2
        late = connect(Cluster(workers, 2), lambda: False)  # the chief has decided, and waits for it
        with pytest.raises(PeerLost, match=r"worker 1 cannot take part: model\.width=x is no number") as lost:
            chief.result(60)
        assert lost.value.exit_status == 2
        assert late.wait_for_loss(20)
        assert late.lost is not None
        assert late.lost.exit_status == 2


def test_a_chief_that_cannot_come_ends_all_with_its_status(workers: tuple[str, ...]) -> None:
    with ThreadPoolExecutor() as pool:
        joining = [pool.submit(connect, Cluster(workers, rank), lambda: False) for rank in (1, 2)]
        assert decline(Cluster(workers, 0), 4, "there is no checkpoint", lambda: False) == 4
        for each in joining:
            other = each.result(60)
            assert other.wait_for_loss(20)
            assert other.lost is not None
            assert other.lost.exit_status == 4
            assert "there is no checkpoint" in str(other.lost)


def test_a_chief_that_is_killed_while_a_worker_greets_it_is_waited_for(workers: tuple[str, ...]) -> None:
    """Its listener is there and its connections are reset, as the kernel does with those of a process that is gone."""
    chief, worker = (Cluster(workers[:2], rank) for rank in range(2))
    with ThreadPoolExecutor(2) as pool:
        with socket.create_server(("127.0.0.1", int(workers[0].rpartition(":")[2]))) as dying:
            joining = pool.submit(connect, worker, lambda: False)
            dying.settimeout(20)
            for _ in range(3):  # a worker that has ended would not come again
                connection, _ = dying.accept()
                assert connection.recv(1), "it has been greeted"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        waiting = pool.submit(connect, chief, lambda: False)
        for met in (joining.result(60), waiting.result(60)):
            met.leave(0, "the test is over")


def test_who_has_spoken_unheard_hears_the_last_word_of_a_chief_that_ends(workers: tuple[str, ...]) -> None:
    with ThreadPoolExecutor() as pool:
        joining = pool.submit(connect, Cluster(workers, 1), lambda: False)
        with gathering.Gathering(Cluster(workers, 0), {}) as meeting_of_all:
            while 1 not in meeting_of_all.connections:
                meeting_of_all.wait()
            other = joining.result(60)
            connection = meeting_of_all.connections[1]
            select.select([connection], [], [], 60)  # it has said that it is alive, which nobody reads
            module.send(connection, module.ALIVE)  # not acknowledged when the last word follows
            meeting_of_all.tell(PeerLost("there is no checkpoint", 4))
        del meeting_of_all, connection
        assert other.wait_for_loss(20)
        assert other.lost is not None
        assert other.lost.exit_status == 4


@pytest.mark.parametrize(("chief", "one", "all_end_with"), [(75, 2, 2), (3, 2, 2), (2, 75, 2), (75, 130, 130)])
def test_of_several_that_cannot_come_the_smallest_status_that_is_not_to_be_tried_again_wins(
    chief: int, one: int, all_end_with: int, workers: tuple[str, ...]
) -> None:
    two = workers[:2]
    with ThreadPoolExecutor() as pool:
        statuses = [
            pool.submit(decline, Cluster(two, rank), status, "why", lambda: False)
            for rank, status in enumerate((chief, one))
        ]
        assert [each.result(60) for each in statuses] == [all_end_with] * 2


def test_who_cannot_come_does_not_wait_after_a_signal(workers: tuple[str, ...]) -> None:
    assert decline(Cluster(workers, 0), 2, "why", lambda: True) == 2
    assert decline(Cluster(workers, 1), 2, "why", lambda: True) == 2


def test_a_place_that_is_taken_twice_while_another_stays_empty_is_a_wrong_configuration(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "COMING_SECONDS", 4.0)
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(workers, 0), lambda: False)
        one = connect(Cluster(workers, 1), lambda: False)
        with pytest.raises(UsageError, match="worker 1 is there already"):
            connect(Cluster(workers, 1), lambda: False)
        with pytest.raises(UsageError, match=r"in vain for worker 2 at .*\n.*taken twice, by worker 1, process"):
            chief.result(60)
        assert one.wait_for_loss(20)
        assert one.lost is not None
        assert one.lost.exit_status == 2


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
@pytest.mark.parametrize("hosts", [("[::1]", "[::1]"), ("[::1]", "127.0.0.1"), ("127.0.0.1", "[::1]")])
def test_processes_meet_over_ipv6_and_over_both(hosts: tuple[str, str]) -> None:
    addresses = tuple(f"{host}:{port}" for host, port in zip(hosts, free_ports(2), strict=True))
    chief, other = together(addresses)
    chief.tell({"over": "both"})
    assert other.hear() == {"over": "both"}


def test_a_chief_without_ipv6_listens_with_ipv4(workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without_ipv6(*arguments: Any, family: int = socket.AF_INET, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(*arguments, family=family, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    chief, *_ = together(workers)
    assert chief.lost is None


def test_slurms_name_of_the_chief_that_a_node_does_not_know_is_not_to_be_tried_again(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    monkeypatch.setattr(meeting, "UNKNOWN_SECONDS", 0.5)
    monkeypatch.setattr(meeting, "COMING_SECONDS", 3.0)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match=r"does not know the name 127\.0\.0\.1\n.*getent hosts 127\.0\.0\.1"):
        connect(Cluster(workers, 1), lambda: False)
    monkeypatch.setenv("TF_CONFIG", "of pods, whose names come with them")
    with pytest.raises(PeerLost, match="Name or service not known"):
        connect(Cluster(workers, 1), lambda: False)


def test_bytes_that_are_no_text_end_the_connection_with_words(three: list[Peers]) -> None:
    (connection,) = three[1]._connections.values()
    connection.sendall(b"\x00\x00\x18\x04\xff\xfe\n")
    assert three[0].wait_for_loss(20)
    assert "is no message of this program" in str(three[0].lost)
    assert "codec" not in str(three[0].lost)


def test_processes_that_were_started_together_do_not_share_a_run_that_is_stored_for_one(three: list[Peers]) -> None:
    config = compose(*NARROW, "runtime.strategy=one")
    with pytest.raises(UsageError, match=r"runtime\.strategy=one, but 3 processes were started together"):
        shares(config, Process(StopRequest(), three[0]))


def test_a_process_alone_does_not_go_on_with_a_run_that_is_stored_for_several() -> None:
    config = compose(*NARROW, "runtime.strategy=multi_worker")
    with pytest.raises(UsageError, match=r"multi_worker, but this process is alone.*\n.*add runtime\.strategy=auto"):
        build_replicas(config, Process(StopRequest(), None), None)


def test_processes_gather_before_tensorflow_waits_for_all_and_one_that_does_not_come_is_named(
    three: list[Peers],
) -> None:
    with ThreadPoolExecutor() as pool:
        gathered = [pool.submit(peers.gather, range(3)) for peers in three[:2]]
        time.sleep(0.5)
        assert not any(each.done() for each in gathered), "one is missing"
        three[2].gather(range(3))
        assert [each.result(20) for each in gathered] == [None, None]
        chief = pool.submit(three[0].gather, range(4))  # a rank that is not there
        three[1].leave(75, "it hangs while starting")
        with pytest.raises(PeerLost, match=r"worker 1 at .* ended with status 75: it hangs while starting"):
            chief.result(20)


def test_the_chief_knows_how_long_the_others_have_waited_and_gets_their_reports(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE_EVERY", 0.1)
    three, reports = together(workers), []
    three[0].on_report = reports.append
    three[1].waited = three[2].waited = 70.0
    deadline = time.monotonic() + 120
    while not three[0].all_have_waited(60.0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert three[0].all_have_waited(60.0)
    assert not three[0].all_have_waited(80.0)
    assert not three[1].all_have_waited(60.0), "only the chief hears all"
    three[2].report("hang: nothing happens")
    while not reports and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reports == [f"worker 2 at {workers[2]}: hang: nothing happens"]
