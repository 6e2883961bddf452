"""The functions of ``trainer``, and plug-ins: one process that uses them as a notebook would, and ends by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SECONDS_ALLOWED

TESTS = Path(__file__).parent
VERSIONED = "trainer_example-1.0.dist-info"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the example plug-in is installed."""
    place = tmp_path_factory.mktemp("site")
    source = shutil.copytree(TESTS / "example_plugin", tmp_path_factory.mktemp("source") / "example_plugin")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(place), str(source)], check=True, timeout=SECONDS_ALLOWED)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def found(place: Path, site: Path) -> dict[str, Any]:
    """What tests/api_program.py prints. It ends within the time, without ``os._exit``."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), str(site)])
    subprocess.run(
        [sys.executable, str(TESTS / "api_program.py")],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        timeout=3 * SECONDS_ALLOWED,
    )
    results = json.loads((place / "results.json").read_text())
    assert isinstance(results, dict)
    return results


def test_importing_the_functions_does_not_import_tensorflow(found: dict[str, Any]) -> None:
    assert found["lazy"]


def test_a_run_tells_how_it_ended(found: dict[str, Any], place: Path) -> None:
    status, step, validation, training = found["first"]
    assert (status, step) == ("finished", 6)
    lines = (place / "application" / "metrics.jsonl").read_text().splitlines()
    last = {record["split"]: record for record in map(json.loads, lines)}
    assert validation == {name: last["val"][name] for name in ("loss", "accuracy", "skipped")}
    assert training == {name: last["train"][name] for name in training}
    assert found["complete"] == "complete"


@pytest.mark.parametrize("run", ["application", "plugin"])
def test_a_run_resumed_in_the_same_process_ends_in_the_same_bits(found: dict[str, Any], run: str) -> None:
    """MobileNet has dropout of its own, moving averages are kept; network and schedule of the other are plug-ins."""
    assert found[run]["differing"] == []
    assert (found[run]["status"], found[run]["step"]) == ("finished", 6)


def test_predictions_are_what_evaluation_makes_of_the_same_images(found: dict[str, Any]) -> None:
    made = found["predictions"]
    assert made["shape"] == [20, 10]
    assert made["dtype"] == "float32"
    assert made["class_names"][:3] == ["zero", "one", "two"]
    assert made["weights"] == "ema"
    loss, accuracy = made["evaluated"]
    assert made["accuracy"] == accuracy
    assert made["loss"] == pytest.approx(loss, rel=1e-5)
    assert made["from_pixels"]
    assert made["of_nothing"] == [0, 10]


def test_images_that_are_none_are_refused(found: dict[str, Any]) -> None:
    one, absent, flat, text = found["predictions"]["errors"]
    assert one == ["UsageError", "0.png is one path; give a list: ['0.png']"]
    assert absent == ["UsageError", "absent.png cannot be read: No such file or directory"]
    assert flat == ["UsageError", "an image is uint8 [4, 4], but must be a path or an array uint8 [height, width, 3]"]
    assert text[0] == "BadRecord"
    assert "api_program.py cannot be decoded" in text[1]


def test_errors_are_those_of_the_commands_and_leave_the_process_alive(found: dict[str, Any]) -> None:
    threads, there, flag, unknown, seed, absent = found["errors"]
    assert threads[0] == "UsageError"
    assert "TensorFlow runs in this process already with runtime.threads=2, not 1" in threads[1]
    assert "has checkpoints already" in there[1]
    assert flag[1].startswith("--multirun is a flag")
    assert "did you mean train.steps?" in unknown[1]
    assert seed[0] == "RestoreRefused"
    assert "seed: 0 -> 3" in seed[1]
    assert absent[0] == "UsageError"


def test_ctrl_c_commits_a_checkpoint_and_gives_the_handlers_back(found: dict[str, Any]) -> None:
    kind, message = found["interrupted"]
    assert kind == "Stopped"
    assert message.startswith("SIGINT at step ")
    assert message.endswith("is committed")
    assert found["handlers are back"]


def test_a_run_in_another_thread_works_without_handlers(found: dict[str, Any]) -> None:
    assert found["in a thread"] == ["complete"]


def resumed(run_dir: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", "resume", f"run_dir={run_dir}", "train.steps=20"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [TESTS.parent, *path]))},
        capture_output=True,
        text=True,
        timeout=SECONDS_ALLOWED,
        check=False,
    )


def test_a_run_with_a_plug_in_that_is_not_installed_is_refused_with_its_version(
    found: dict[str, Any], place: Path
) -> None:
    versions = json.loads((place / "plugin" / "checkpoints" / "step-00000006" / "manifest.json").read_text())[
        "versions"
    ]
    assert versions["plug-in trainer.models small_net"] == "trainer-example 1.0"
    result = resumed(place / "plugin again")
    assert result.returncode == 3, result.stderr
    assert "plug-in small_net (trainer.models): trainer-example 1.0 -> not installed" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_with_a_plug_in_of_another_version_is_refused_with_both(
    found: dict[str, Any], place: Path, site: Path, tmp_path: Path
) -> None:
    newer = shutil.copytree(site, tmp_path / "newer")
    facts = (newer / VERSIONED).rename(newer / VERSIONED.replace("1.0", "1.1")) / "METADATA"
    facts.write_text(facts.read_text().replace("Version: 1.0", "Version: 1.1"))
    result = resumed(place / "plugin again", newer)
    assert result.returncode == 3, result.stderr
    assert "plug-in one_cycle (trainer.schedules): trainer-example 1.0 -> trainer-example 1.1" in result.stderr
    assert "allow=[trainer-example]" in result.stderr


@pytest.mark.long
def test_the_example_of_the_documents_works_as_it_is_written(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (TESTS.parent / "docs" / "python.md").read_text(), re.M | re.S)
    assert len(blocks) > 4
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "model.activation: relu -> sigmoid" in result.stdout
