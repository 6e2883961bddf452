"""The digest of loaded code: what changes it, and what does not."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from trainer.runtime import loaded_code

SOURCE = """
import dataclasses, enum, functools, re
import numpy as np
import tensorflow as tf
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
ARRAY = np.array([1.0, 2.0])
SINGLE = np.float32(6.0)
PATTERN = re.compile("a+", re.ASCII)
KIND = tf.float32
CHOSEN = sorted

class Colour(enum.Enum):
    RED = (1, 0)

@dataclasses.dataclass(frozen=True)
class Family:
    blocks: re.Pattern
    count: int

FAMILIES = {"first": Family(re.compile("block_[0-9]"), 7)}
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
        ("[1.0, 2.0]", "[1.0, 2.5]"),
        ("float32(6.0)", "float32(6.5)"),
        ("a+", "a*"),
        (", re.ASCII", ""),
        ("KIND = tf.float32", "KIND = tf.float16"),
        ("CHOSEN = sorted", "CHOSEN = reversed"),
        ("CHOSEN = sorted", "CHOSEN = sum"),
        ("(1, 0)", "(1, 1)"),
        ("block_[0-9]", "block_[0-8]"),
        (']"), 7)', ']"), 8)'),
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


def test_a_class_of_a_module_that_was_loaded_again_is_told_from_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A notebook that loads an edited module again leaves the old class where it was imported before."""
    first, user = ModuleType("loaded_first"), ModuleType("loaded_user")
    for module in (first, user):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("class Rule:\n    limit = 4\n", vars(first))
    exec("from loaded_first import Rule\n", vars(user))
    before = loaded_code.digest([user.__name__])
    exec("class Rule:\n    limit = 5\n", vars(first))
    assert loaded_code.digest([user.__name__]) != before


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
