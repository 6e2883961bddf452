"""A disk that refuses any call of a save: the checkpoint before stays, and saving goes on when the disk works again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from interposed import run

SAVING = Path(__file__).parents[1] / "support" / "saving.py"
ERRORS = {"ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT"}
STRIDE_IN_CI = 7  # every seventh call, another one for each error


def faults(place: Path, stride: int) -> list[dict[str, Any]]:
    """The faults that were injected; the process itself checks what each of them left."""
    printed = run(SAVING, "fail", str(stride), root=place)
    found = json.loads(printed.splitlines()[-1])
    print(Counter((fault["error"], fault["outcome"]) for fault in found))
    return list(found)


def check(found: list[dict[str, Any]], least: int) -> None:
    assert len(found) >= least
    assert {fault["error"] for fault in found} == ERRORS
    assert {fault["asynchronous"] for fault in found} == {True, False}
    # an error was said to be one: of the calls that fail for good, the first is one without which nothing is saved
    assert all(fault["outcome"] != "saved" for fault in found if fault["persistent"] and fault["call"] == 1)


def test_an_error_of_the_disk_at_a_call_of_a_save_loses_nothing_and_the_next_save_succeeds(tmp_path: Path) -> None:
    check(faults(tmp_path / "place", STRIDE_IN_CI), 100)


@pytest.mark.torture
def test_every_error_of_the_disk_at_every_call_of_a_save(tmp_path: Path) -> None:
    found = faults(tmp_path / "place", 1)
    check(found, 800)
