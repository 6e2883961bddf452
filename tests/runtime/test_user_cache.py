"""Where things that can be made again are kept, also for a user who has no home."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data.sources.cache import cache_files, load_or_make
from trainer.runtime.user_cache import user_cache


def without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)  # of nobody in /etc/passwd


def test_the_cache_lies_where_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_cache() == Path("/caches/trainer")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache() == Path("/home/me/.cache/trainer")
    without_a_home(monkeypatch)
    assert user_cache() is None


def test_without_a_home_what_cannot_lie_beside_the_data_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_a_home(monkeypatch)
    data = tmp_path / "shard"
    data.touch()
    assert [place.parent for place in cache_files(tmp_path, "index", [data], [])] == [tmp_path]
    monkeypatch.setattr("trainer.data.sources.cache._store", lambda place, key, made: False)  # a read-only directory
    made = load_or_make(tmp_path, "index", [data], [], lambda: {"offsets": np.arange(3)})
    assert made["offsets"].tolist() == [0, 1, 2]
    assert "could not be kept and will be made again" in capsys.readouterr().out
