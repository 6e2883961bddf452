"""Other versions of Python: what is installed from the lock files works there, and a run may move between them.

Needs ``python3.12`` and ``python3.13`` on the path, and the package index.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import Trainer, assert_same_run
from small_plugin import SMALL

ROOT = Path(__file__).parents[2]
QUICK = ("config", "checkpoint", "fingerprint", "storage", "run_directory", "test_architecture.py")
STEPS = ("checkpoint.every_steps=4", "evaluation.every_steps=4", "schedule.decay_steps=12")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], check=False, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_quick_part_passes_and_a_run_moves_to_another_python_bit_for_bit(
    version: str, small: tuple[str, ...], trainer: Trainer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    interpreter = shutil.which(f"python{version}")
    assert interpreter is not None, f"python{version} is not installed"
    place = tmp_path_factory.mktemp("python")
    run(interpreter, "-m", "venv", place / "venv")
    python = place / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*install, "--require-hashes", "-r", ROOT / "requirements-dev.lock")
    run(*install, "--no-deps", "--no-build-isolation", "-e", ROOT)
    assert f"Python {version}." in run(python, "--version")

    quick = [str(ROOT / "tests" / name) for name in QUICK]
    said = run(python, "-m", "pytest", "-n", "2", "-q", "-p", "no:cacheprovider", *quick)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    print(f"Python {version}: {passed[0]}")

    straight, moved = trainer.cwd / "straight", trainer.cwd / "moved"
    trainer.run("train", f"run_dir={straight}", *small, *STEPS, "train.steps=12")
    trainer.run("train", f"run_dir={moved}", *SMALL, *STEPS, "train.steps=4")
    run(python, "-m", "trainer", "resume", f"run_dir={moved}", "train.steps=8", cwd=trainer.cwd)
    trainer.run("resume", f"run_dir={moved}", "train.steps=12")
    manifests = [
        json.loads((moved / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text()) for step in (4, 8, 12)
    ]
    assert [found["versions"]["python"].startswith(version) for found in manifests] == [False, True, False]
    assert_same_run(straight, moved)


@pytest.mark.long
def test_the_bill_of_materials_has_every_package_of_the_lock_file_with_its_version() -> None:
    run(ROOT / "scripts" / "sbom")
    described = json.loads((ROOT / "dist" / "sbom.cdx.json").read_text())
    assert described["bomFormat"] == "CycloneDX"
    pinned = re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert sorted((part["name"], part["version"]) for part in described["components"]) == sorted(pinned)
