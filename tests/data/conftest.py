"""Fixtures of several modules about data on another machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import Bucket, s3_server

from trainer.data.remote import bucket as module
from trainer.data.remote import fetching


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    log = tmp_path_factory.mktemp("s3") / "log"
    with s3_server(log):
        yield Bucket(log)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of hundredths of a second, few threads, and no proxy between a test and its server."""
    monkeypatch.setattr(module, "DELAYS", (0.01, 0.01))
    monkeypatch.setattr(module, "FIRST_DELAYS", (0.01,))
    monkeypatch.setattr(fetching, "THREADS", 4)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
