"""``trainer.plugins`` is all that the author of a plug-in imports: example, page and errors name nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import blocks
from imports import named_by

from trainer import plugins
from trainer.config.plugins import GROUPS, TRACKERS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
EXAMPLE = sorted((ROOT / "tests" / "example_plugin").rglob("*.py"))
# what judges a plug-in and speaks to its author
JUDGES = (
    "config/plugins.py",
    "data/images/plugin.py",
    "data/sources/plugin.py",
    "models/plugin.py",
    "models/exact.py",
    "training/optimizer_plugin.py",
)


def imported_of_trainer(tree: ast.AST) -> set[str]:
    names = {name for node in ast.walk(tree) for name in named_by(node, "")}
    return {name for name in names if name.split(".")[0] == "trainer"}


def messages(tree: ast.AST) -> Iterator[str]:
    """Every text in a module but the docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _has_one(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def _has_one(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    return ast.get_docstring(node) is not None


def test_the_example_imports_nothing_else_of_trainer() -> None:
    found = set().union(*(imported_of_trainer(ast.parse(path.read_text())) for path in EXAMPLE))
    assert {name.rpartition(".")[2] for name in found} <= set(plugins.__all__)
    assert {name.rpartition(".")[0] for name in found} == {"trainer.plugins"}


def test_the_page_names_nothing_else_of_trainer() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"\btrainer\.([a-z_]+)(?:\.(\w+))?", text))
    modules = {module for module, _ in named} - {group.partition(".")[2] for group in (*GROUPS, TRACKERS)}
    assert modules == {"plugins", "load"}
    assert {name for module, name in named if module == "plugins" and name} <= set(plugins.__all__)
    python = [block for block in blocks(PAGE) if "import" in block and "dataclass" in block]
    assert python
    for block in python:
        assert re.findall(r"(?:from|import) (trainer\S*)", block) in (
            [],
            ["trainer.plugins"],
            ["trainer_example.arrays"],
        )


@pytest.mark.parametrize("judge", JUDGES)
def test_what_is_said_of_a_plug_in_names_nothing_else_of_trainer(judge: str) -> None:
    for text in messages(ast.parse((ROOT / "trainer" / judge).read_text())):
        assert set(re.findall(r"\btrainer\.[a-z_]+", text)) <= {"trainer.plugins", *GROUPS, TRACKERS}, text


def test_every_name_is_there_and_tensorflow_only_with_what_needs_it() -> None:
    program = (
        "import sys\n"
        "import trainer.plugins as plugins\n"
        "late = {'assign', 'assign_sub'}\n"
        "assert all(hasattr(plugins, name) for name in set(plugins.__all__) - late)\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert all(callable(getattr(plugins, name)) for name in late)\n"
        "assert 'tensorflow' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
