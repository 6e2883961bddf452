"""Fixtures of several modules about files of weights."""

from __future__ import annotations

import pytest

from trainer.interchange import hdf5_files


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process reads these files first, because h5py has just written them."""
    monkeypatch.setattr(hdf5_files, "_survive", lambda path, kind: None)
