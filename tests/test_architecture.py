"""Who may import whom inside ``trainer/``: that the code, the packages' docstrings and README obey the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from imports import (
    HIGHEST,
    LARGEST_TOP,
    PACKAGE,
    ROOT,
    STARTERS,
    TABLE,
    arrows,
    circle,
    folders,
    modules,
    named_by,
    offences,
)


def test_every_import_obeys_the_table() -> None:
    assert len(arrows(PACKAGE)) > 500
    assert offences(PACKAGE) == []


def test_the_table_has_no_way_up_and_names_every_package() -> None:
    order = list(TABLE)
    for importer, imported in TABLE.items():
        assert [name for name in imported if order.index(name) >= order.index(importer)] == [], importer
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there == {*TABLE, *HIGHEST, *STARTERS}


def test_no_two_packages_import_each_other_round_a_circle() -> None:
    assert circle(folders(PACKAGE)) == ()


def test_the_top_of_the_package_stays_small() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "conf", "py.typed")]
    assert len(entries) <= LARGEST_TOP, sorted(entries)


def test_every_package_says_what_belongs_in_it_and_what_it_may_import() -> None:
    for place in sorted(PACKAGE.rglob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(place.read_text()))
        assert text, f"{place} has no docstring"
        name = place.parent.name
        if place.parent.parent != PACKAGE or name in HIGHEST:
            continue
        stated = re.search(r"^May import: (.*?)\.$", text, re.MULTILINE | re.DOTALL)
        assert stated is not None, f"{place} does not say what it may import"
        names = re.findall(r"\w+", re.sub(r"\(.*?\)", "", stated[1]))
        assert set(names) == (set(TABLE[name]) or {"errors"}), place


def test_the_folders_in_the_readme_are_those_on_the_disk() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"^```\ntrainer/\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block is not None
    written = [name for line in block[1].splitlines() for name in re.findall(r"(?:^  |  )(\w+(?:/|\.py))(?= |$)", line)]
    there = [path.name + ("/" if path.is_dir() else "") for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert sorted(written) == sorted(name for name in there if name not in ("conf/", "py.typed"))


def test_no_test_imports_from_a_test() -> None:
    tests = ROOT / "tests"
    there = {path.stem for path in tests.rglob("test_*.py")}
    found = [
        f"{path.relative_to(tests)}: {name}"
        for path in sorted(tests.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        for name in named_by(node, path.stem)
        if name.split(".")[0] in there
    ]
    assert found == []


def imported_by_tests() -> set[str]:
    there = modules(PACKAGE)
    names = (
        name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in named_by(node, path.stem)
    )
    return {name if name in there else name.rpartition(".")[0] for name in names}


def test_every_module_has_a_test_of_its_own_or_a_proof_in_the_table() -> None:
    _, _, table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Which proof covers which module")
    listed = {}
    for modules_cell, proofs_cell in re.findall(r"^\| (`.*?) \| (`.*?) \|$", table, re.MULTILINE):
        for name in re.findall(r"`(.*?)`", modules_cell):
            assert name not in listed, f"{name} is there twice"
            listed[name] = re.findall(r"`(.*?)`", proofs_cell)
    assert all((ROOT / proof).is_file() for proofs in listed.values() for proof in proofs)
    plain = {name for name, path in modules(PACKAGE).items() if path.name != "__init__.py"}
    without = {name.removeprefix("trainer.") for name in plain - imported_by_tests()}
    assert without - listed.keys() == set(), "neither a test imports them nor the table names a proof"
    assert listed.keys() - without == set(), "they are gone, or have tests of their own"


FORBIDDEN = {
    "at the top": ("models/layers.py", "from trainer.training.step import make\n"),
    "for types alone": (
        "models/layers.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trainer.training import step\n",
    ),
    "in a function": ("models/layers.py", "def make():\n    from trainer.training import step\n"),
    "as a whole module": ("models/layers.py", "import trainer.training.step\n"),
    "by a relative name": ("models/layers.py", "from ..training import step\n"),
    "of a command": ("training/step.py", "from trainer.commands import train\n"),
    "of another module than metrics": ("training/step.py", "from trainer.run_directory.lock import writing\n"),
    "too early": ("sweeps/trial.py", "from trainer.run import session\n"),
    "of the plug-in authors' module": ("training/step.py", "from trainer.plugins import key\n"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_a_forbidden_import_is_found(case: str, tmp_path: Path) -> None:
    package = tmp_path / "trainer"
    allowed = {
        "__init__.py": "from trainer import api\n",
        "api.py": "from trainer.run import session\n",
        "errors.py": "",
        "plugins.py": "",
        "commands/train.py": "from trainer.sweeps import trial\n",
        "models/layers.py": "from trainer.errors import UsageError\n",
        "run/session.py": "from trainer.training.step import make\n",
        "run_directory/lock.py": "",
        "run_directory/metrics.py": "",
        "sweeps/trial.py": "def run():\n    from trainer.run import session\n",
        "training/step.py": "from trainer.models import layers\nfrom trainer.run_directory.metrics import read\n",
    }
    for name, text in allowed.items():
        place = package / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        (place.parent / "__init__.py").touch()
    assert offences(package) == []
    name, text = FORBIDDEN[case]
    (package / name).write_text(text)
    (found,) = offences(package)
    assert found.startswith(f"trainer.{name.removesuffix('.py').replace('/', '.')}, line ")


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}}) == ()
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ("b", "c")
