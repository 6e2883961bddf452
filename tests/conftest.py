"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pythons
import small_plugin
from processes import Trainer

SECONDS_TO_END = 20


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indices go when they cannot lie beside the data: not the home directory of whoever runs the tests. What one
    test has traced serves all.
    """
    place = tmp_path_factory.mktemp("cache")
    session = tmp_path_factory.getbasetemp()
    shared = (session.parent if "PYTEST_XDIST_WORKER" in os.environ else session) / "start"
    shared.mkdir(mode=0o700, exist_ok=True)
    (place / "trainer").mkdir()
    (place / "trainer" / "start").symlink_to(shared)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place / "trainer"


@pytest.fixture(autouse=True)
def reads_end() -> Iterator[None]:
    """What a test reads ends with it: a thread that waits for itself would be found here, and by nobody else."""
    yield
    from trainer.data import reads

    deadline = time.monotonic() + SECONDS_TO_END
    while reads.longest() is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reads.longest() is None


@pytest.fixture
def trainer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trainer]:
    started = Trainer(tmp_path, fresh=request.node.get_closest_marker("fresh") is not None)
    yield started
    started.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The overrides of a run of the small network. Processes that start in the test's directory know its plug-in, and
    so does this process while the test runs.
    """
    small_plugin.install(tmp_path)
    with small_plugin.installed_here(tmp_path):
        yield small_plugin.SMALL


def pytest_configure() -> None:
    """A suite that is started in the background ignores Ctrl-C, and so would every process that it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end: with Slurm, whose tests wait for
    most of their time, then with files that one worker runs as a whole, then with the tests that start trainers.
    """
    from scheduling import is_together

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        starts = "trainer" in item.fixturenames  # type: ignore[attr-defined]
        return "slurm" not in item.keywords, not is_together(item.path), not starts

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What was imported stays, so no collection of garbage need look at all of it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from scheduling import Scheduling

    return Scheduling(config, log)


def pytest_sessionfinish() -> None:
    pythons.close()
