"""The digest of loaded code: what changes it, and what does not."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from trainer.runtime import loaded_code

SOURCE = """
import functools
FACTOR = 2.0
TABLE = {"a": (1, 2), "b": {3}}

def scaled(value, by=3):
    return [FACTOR * each * by for each in value]

class Rule:
    limit = 4
    def apply(self, value):
        return min(value, self.limit)

@functools.cache
def remembered(value):
    return value + 1

def closed(inner):
    def outer():
        return inner
    return outer

made = closed(5)
"""


def digest_of(source: str, path: str, patch: pytest.MonkeyPatch) -> str:
    module = ModuleType("loaded_for_a_digest")
    patch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, path, "exec"), vars(module))
    return loaded_code.digest([module.__name__])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2.0", "FACTOR = 2.5"),
        ("(1, 2)", "(2, 1)"),
        ("{3}", "{4}"),
        ("each * by", "each + by"),
        ("by=3", "by=4"),
        ("limit = 4", "limit = 5"),
        ("min(value", "max(value"),
        ("value + 1", "value + 2"),
        ("made = closed(5)", "made = closed(6)"),
        ("def closed(inner)", "def enclosed(inner)"),
    ],
)
def test_a_change_of_code_or_of_a_value_changes_the_digest(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = SOURCE.replace(old, new).replace("= closed(", f"= {'en' if 'enclosed' in new else ''}closed(")
    assert changed != SOURCE
    before, after = (digest_of(source, "here.py", monkeypatch) for source in (SOURCE, changed))
    assert before != after


def test_neither_the_place_of_the_file_nor_comments_and_lines_change_the_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = "# a comment\n\n" + SOURCE
    assert digest_of(SOURCE, "here.py", monkeypatch) == digest_of(elsewhere, "/else/where.py", monkeypatch)


def test_a_function_that_a_program_replaces_changes_the_digest_and_a_new_file_alone_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trainer.training import losses

    before = loaded_code.digest(["trainer.training"])
    assert loaded_code.digest(["trainer.training"]) == before
    with monkeypatch.context() as patch:
        patch.setattr(losses, "cross_entropy", lambda *arguments: None)
        assert loaded_code.digest(["trainer.training"]) != before
    assert loaded_code.digest(["trainer.training"]) == before
