"""docs/extending.md, followed to the letter on a copy of the tree: what it says to write works, and is all there is."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import offences
from processes import SECONDS_ALLOWED

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "extending.md"
LARGEST = {"a model": 3, "an optimizer": 3, "a source": 3, "a transform": 3, "a command": 2, "a configuration key": 4}
STEP = re.compile(
    r"(New file|At the end of|In)\s+`([^`]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL | re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One block of a recipe: what it does with which file."""

    what: str
    file: str
    text: str

    @property
    def is_test(self) -> bool:
        return self.file.startswith("tests/")


def recipes() -> dict[str, list[Step]]:
    """The steps under each heading that has any."""
    parts = re.split(r"^## (.+)\n", GUIDE.read_text(), flags=re.MULTILINE)[1:]
    found = {
        heading.lower(): [Step(" ".join(what.lower().split()), file, text) for what, file, text in STEP.findall(text)]
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: steps for heading, steps in found.items() if steps}


def follow(step: Step, tree: Path) -> None:
    place = tree / step.file
    if step.what == "new file":
        assert not place.exists(), step.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(step.text)
        return
    before = place.read_text()
    if step.what == "at the end of":
        place.write_text(f"{before}\n\n{step.text}")
        return
    lines = [line or " " for line in step.text.splitlines()]
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] in marks) for marks in (" -", " +"))
    assert before.count(old) == 1, f"{step.file} does not have what the recipe changes:\n{old}"
    place.write_text(before.replace(old, new))


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "tests" / "support")])}
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_ALLOWED,
    )


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which every recipe was followed."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("trainer", "conf", "tests/support"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "scripts/make_reference"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    (tree / "docs").mkdir()
    for steps in recipes().values():
        for step in steps:
            follow(step, tree)
    return tree


def test_each_recipe_has_a_test_and_touches_as_few_files_as_it_says() -> None:
    touched = {name: {step.file for step in steps if not step.is_test} for name, steps in recipes().items()}
    assert {name: len(files) for name, files in touched.items()} == LARGEST
    assert all(any(step.is_test for step in steps) for steps in recipes().values())
    assert len(GUIDE.read_text().split("```")) // 2 == sum(map(len, recipes().values())), "a block that nobody follows"


def test_the_tests_of_all_recipes_pass_where_they_were_followed(extended: Path) -> None:
    files = [step.file for steps in recipes().values() for step in steps if step.is_test]
    result = run(extended, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q", *files)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    written = sum(step.text.count("\ndef test_") for steps in recipes().values() for step in steps if step.is_test)
    assert f"{written} passed" in result.stdout


def test_what_the_recipes_write_keeps_the_import_rules_and_the_style(extended: Path) -> None:
    assert offences(extended / "trainer") == []
    written = sorted({step.file for steps in recipes().values() for step in steps if step.file.endswith(".py")})
    for check in (("check",), ("format", "--check")):
        result = run(extended, "-m", "ruff", *check, "--no-cache", *written)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_reference_has_what_was_added(extended: Path) -> None:
    result = run(extended, "scripts/make_reference")
    assert result.returncode == 0, result.stderr
    reference = (extended / "docs" / "configuration.md").read_text()
    added = ("model=plain_cnn", "optimizer=sign_descent", "data=file_list", "preprocess.plugins.gamma")
    assert [name for name in added if f"# {name}\n" not in reference] == []
    assert "| `train.confidence_penalty` |" in reference


def test_a_wrong_key_of_an_addition_is_answered_without_tensorflow(extended: Path) -> None:
    program = (
        "import sys\n"
        "from trainer.__main__ import run\n"
        "assert run(['train', 'model=plain_cnn', 'model.depth=6']) == 2\n"
        "assert run(['train', 'optimizer=sign_descend']) == 2\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = run(extended, "-c", program)
    assert result.returncode == 0, result.stderr
    assert "model.depth is 6, but must be at least 1 and at most 5: number of convolutions" in result.stderr
    assert "did you mean sign_descent?" in result.stderr
