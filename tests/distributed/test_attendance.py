"""A process that ends before it meets the others tells them, whatever ends it; and tells nobody afterwards."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from worker_processes import free_ports

from trainer.distributed import attendance
from trainer.distributed.addresses import Cluster
from trainer.distributed.attendance import expected
from trainer.distributed.meeting import connect
from trainer.errors import PeerLost, TrainerError, UsageError
from trainer.runtime.signals import StopRequest


def place(workers: tuple[str, ...], rank: int) -> str:
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def no_argument() -> None:
    raise SystemExit(2)


def no_value() -> None:
    raise UsageError("train.steps=none")


def no_library() -> None:
    raise ImportError("libcudnn.so.9: cannot open shared object file")


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (no_value, 2, "train.steps=none"),
        (no_argument, 2, "its command line cannot be understood"),
        (no_library, 1, "ImportError: libcudnn.so.9"),
    ],
)
def test_whatever_ends_a_process_before_the_meeting_is_told_to_the_chief(
    end: Callable[[], None], status: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    monkeypatch.setenv("TF_CONFIG", place(workers, 1))
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(connect, Cluster(workers, 0), lambda: False)
        with pytest.raises((TrainerError, SystemExit, ImportError)), expected([], StopRequest()):
            end()
        with pytest.raises(PeerLost, match=f"worker 1 cannot take part: {reason}") as lost:
            chief.result(60)
        assert lost.value.exit_status == status


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process has files open under all small numbers, as one with many shards, threads and connections has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), limits[1]))
    files = [os.open(os.devnull, os.O_RDONLY)]
    while files[-1] < 1024:
        files.append(os.dup(files[0]))
    yield
    for file in files:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_files")
def test_a_process_with_more_files_than_select_can_name_meets_the_others() -> None:
    workers = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(connect, Cluster(workers, rank), lambda: False) for rank in (1, 0)]
        for peers in [each.result(60) for each in both]:
            peers.leave(0, "done")


@pytest.fixture
def declined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ranks whose absence is told."""
    ranks: list[int] = []

    def decline(cluster: Cluster, status: int, reason: str, interrupted: Callable[[], bool]) -> int:
        ranks.append(cluster.rank)
        return 2

    monkeypatch.setattr(attendance, "decline", decline)
    monkeypatch.setenv("TF_CONFIG", place(("a:1", "b:1"), 1))
    return ranks


def test_the_status_that_decides_for_all_becomes_that_of_this_process(declined: list[int]) -> None:
    with pytest.raises(PeerLost) as ended, expected(["run_dir=x"], StopRequest()):
        raise PeerLost("this process was asked to stop")
    assert ended.value.exit_status == 2
    assert declined == [1]


def test_after_it_has_arrived_an_error_is_told_by_those_who_met(declined: list[int]) -> None:
    def begin() -> None:
        with expected([], StopRequest()) as arrive:
            arrive()
            no_value()

    with pytest.raises(UsageError):
        begin()
    assert declined == []


@pytest.mark.parametrize(
    "arguments", [["runtime.strategy=one"], ["runtime.strategy=auto", "runtime.strategy=mirrored"]]
)
def test_a_process_that_trains_alone_tells_nobody(arguments: list[str], declined: list[int]) -> None:
    with pytest.raises(UsageError), expected(arguments, StopRequest()):
        no_value()
    assert declined == []


def test_an_end_without_an_error_is_told_to_nobody(declined: list[int]) -> None:
    with pytest.raises(SystemExit), expected([], StopRequest()):
        raise SystemExit(0)  # --help
    with expected([], StopRequest()):
        pass
    assert declined == []
