"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pythons
from processes import Trainer


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indices go when they cannot lie beside the data: not the home directory of whoever runs the tests."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place / "trainer"


@pytest.fixture
def trainer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trainer]:
    started = Trainer(tmp_path, fresh=request.node.get_closest_marker("fresh") is not None)
    yield started
    started.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end: with Slurm, whose tests wait for
    most of their time, then with the tests that start trainers.
    """
    items.sort(key=lambda item: ("slurm" not in item.keywords, "trainer" not in item.fixturenames))  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from scheduling import Scheduling

    return Scheduling(config, log)


def pytest_sessionfinish() -> None:
    pythons.close()
