"""``~`` in paths."""

from __future__ import annotations

import pytest
from composing import compose

from trainer.config.arguments import parse_arguments
from trainer.config.home import at_home
from trainer.errors import UsageError


def test_a_home_that_does_not_exist_is_no_directory_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_arguments(["run_dir=~/a"]) == {"run_dir": "/home/me/a"}
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", dict[int, None]().__getitem__)  # as for a user without an entry
    with pytest.raises(UsageError, match=r"^run_dir=~/a: there is no home directory"):
        parse_arguments(["run_dir=~/a"])
    with pytest.raises(UsageError, match=r"^data.root=~/a: there is no home directory"):
        compose("data=image_folder", "data.root='~/a'")
    assert at_home("run_dir", "a~/~b") == "a~/~b"
