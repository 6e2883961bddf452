"""The functions of ``trainer``, and plug-ins: one process that uses them as a notebook would, and ends by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_program import PLUGIN, RUN
from documents import PLUGINS, TRAINER
from processes import SECONDS_ALLOWED, Process, wait_for_step

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
    """Where the programs run, with the data of the example plug-in: moved, and changed in one pixel of an image that is
    no probe. One record has no class.
    """
    place = tmp_path_factory.mktemp("notebook")
    rng = np.random.Generator(np.random.PCG64(0))
    arrays: dict[str, Any] = {"class_names": np.array(["dark", "light", "red"])}
    for split, count in (("train", 40), ("validation", 20)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 100, (count, 40, 40, 3)) + 60 * (labels == 1)[:, None, None, None]
        images[labels == 2, :, :, 0] += 100
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    arrays["train_labels"][7] = 5
    for name in ("images.npz", "moved.npz"):
        np.savez(place / name, **arrays)
    arrays["train_images"][1, -1, -1, -1] ^= 1
    np.savez(place / "changed.npz", **arrays)
    return place


@pytest.fixture(scope="module")
def found(place: Path, site: Path) -> dict[str, Any]:
    """What tests/support/api_program.py prints. It ends within the time, without ``os._exit``. Before it a run of the
    plug-ins is killed.
    """
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), str(site)])
    command = ("-m", "trainer", "train", "run_dir=killed", *PLUGIN, *RUN, "train.steps=100000")
    process = Process(*command, cwd=place, variables={"PYTHONPATH": path})
    wait_for_step(process, place / "killed", 5)
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.output
    subprocess.run(
        [sys.executable, str(TESTS / "support" / "api_program.py")],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        timeout=3 * SECONDS_ALLOWED,
    )
    results = json.loads((place / "results.json").read_text())
    assert isinstance(results, dict)
    return results


CALLED = ("loss", "accuracy", "skipped", "macro_f1", "balanced_accuracy", "auroc")


def test_importing_the_functions_does_not_import_tensorflow(found: dict[str, Any]) -> None:
    assert found["lazy"]


def test_a_run_tells_how_it_ended(found: dict[str, Any], place: Path) -> None:
    status, step, validation, training = found["first"]
    assert (status, step) == ("finished", 6)
    lines = (place / "application" / "metrics.jsonl").read_text().splitlines()
    last = {record["split"]: record for record in map(json.loads, lines)}
    assert validation == {name: last["val"][name] for name in CALLED}
    assert training == {name: last["train"][name] for name in training}
    assert found["complete"] == "complete"


@pytest.mark.parametrize("run", ["application", "plugin", "killed"])
def test_a_resumed_run_ends_in_the_same_bits(found: dict[str, Any], run: str) -> None:
    """MobileNet has dropout of its own, moving averages are kept. Of the others network, optimizer, schedule, source
    and a transform are plug-ins; the data of one has moved, the other was killed in a process of its own.
    """
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
    assert flat[0] == "UsageError"
    assert flat[1].startswith("an image is uint8 [4, 4, 2], but must be a path, an image of Pillow, or an array uint8")
    assert text[0] == "BadRecord"
    assert "api_program.py cannot be decoded" in text[1]


def test_errors_are_those_of_the_commands_and_leave_the_process_alive(found: dict[str, Any]) -> None:
    threads, there, flag, unknown, seed, absent = found["errors"]
    assert threads[0] == "UsageError"
    assert "TensorFlow already runs in this process with runtime.threads=2, not 1" in threads[1]
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
    assert "is committed\nto continue:\n  python -m trainer resume run_dir=" in message
    assert found["handlers are back"]


def test_a_run_in_another_thread_works_without_handlers(found: dict[str, Any]) -> None:
    assert found["in a thread"] == [["finished", 8], [8]]


def test_a_plug_in_that_does_something_else_is_refused_with_the_first_difference(found: dict[str, Any]) -> None:
    expected = {
        "data": "data split train: listing digest",
        "list": "preprocess.train: ('decode', 'resize', 'grain',",
        "keys": "preprocess.plugins.grain.strength: 0.1 -> 0.2",
        "transform": "first: preprocess.train[2] grain: probe 0 [32, 32, 3] mean",
        "transform of an accepted version": "look at the plug-in grain of trainer-example 1.1",
        "slots": "first: optimizer: slots ['momentum'] -> ['momentum', 'second']",
        "rule": "first: optimizer: kernel of a probe after step 1 ['0.3995'",
    }
    for change, text in expected.items():
        kind, message = found["refused"][change]
        assert kind == "RestoreRefused", change
        assert text in message, message
    assert "look at the plug-in grain of trainer-example 1.0" in found["refused"]["transform"][1]


def test_a_run_of_plug_ins_is_told_and_made_again_by_its_configuration(found: dict[str, Any]) -> None:
    assert found["same command"] == "complete"
    assert found["made again"]


HOSTILE = {
    # what the plug-in does: what is said of it
    ("transforms", "stateful draw"): "it uses RandomUniform (random_uniform/RandomUniform)",
    ("transforms", "hidden deeper"): "it uses RandomUniform (cond/random_uniform/RandomUniform)",
    ("transforms", "variable"): "it uses a variable or table of its own",
    ("transforms", "Python's draw"): "makes another image of the same image and draws",
    ("transforms", "Python's code"): "it uses PyFuncStateless",
    ("transforms", "other size"): "makes float32 (31, 32, 3) of an image float32 (32, 32, 3)",
    ("transforms", "other type"): "makes uint8 (32, 32, 3)",
    ("transforms", "failing"): "trainer_example/__init__.py:",
    ("optimizers", "slash"): "has a slot 'm/v', which cannot be a name in the state tree",
    ("optimizers", "no number"): "begins its slot m with None",
    ("optimizers", "no rule"): "returned {'m': 0.0} as its rule",
    ("optimizers", "new variable"): "makes a variable, which no checkpoint would hold",
    ("optimizers", "variable"): "uses a variable or table of its own",
    ("optimizers", "stateful draw"): "uses RandomStandardNormal",
    ("optimizers", "Python's draw"): "computes other values from the same numbers",
    ("optimizers", "no such slot"): "KeyError: 'v'",
    ("sources", "other count"): "answers read() of 8 records with a list of 1 for images",
    ("sources", "other type"): "with an array int32 [1] for labels",
    ("sources", "no bytes"): "(train record ",
    ("sources", "no class"): ", but has 3 classes",
    ("sources", "no pair"): "with a list of 1, but must answer with a tuple of images and labels",
    ("sources", "other each time"): "answers read() of 1 records with other images or labels the second time",
    ("sources", "failing"): "AttributeError: 'bytes' object has no attribute 'nothing'",
    ("sources", "other labels"): "answers labels() with an array float64 [3] for labels",
    ("sources", "other order"): "answers part() of 40 records",
}


@pytest.mark.parametrize(("kind", "what"), HOSTILE)
def test_a_plug_in_that_breaks_its_promise_is_refused_by_name(found: dict[str, Any], kind: str, what: str) -> None:
    name = {"transforms": "grain", "optimizers": "lion", "sources": "arrays"}[kind]
    error, message = found["hostile"][kind][what]
    assert error == "UsageError"
    assert message.startswith(f"the plug-in {name} of trainer-example 1.0"), message
    assert HOSTILE[kind, what] in message, message


def test_a_transform_of_a_plug_in_is_in_the_saved_model(found: dict[str, Any]) -> None:
    assert found["exported"]


def test_check_data_and_a_run_tell_the_record_of_a_plug_in_that_has_no_class(
    found: dict[str, Any], place: Path
) -> None:
    assert "train: 40 records, 39 usable: 39 PNG" in found["checked"]
    reason = f"{place / 'images.npz'} (train record 7) has the label 5, which is no class"
    assert reason in found["checked"]
    assert f"{reason}; left out (data.on_bad_record=skip)" in (place / "plugin" / "train.log").read_text()


def test_a_wrong_key_of_a_plug_in_is_told_without_tensorflow_and_unused_ones_are_not_imported(site: Path) -> None:
    written = [arguments for document, arguments in TRAINER if document == PLUGINS and arguments[0] == "train"]
    assert len(written) == 3
    program = (
        "import sys\nfrom trainer.__main__ import run\n"
        f"assert not any([run([*arguments, '--cfg', 'job']) for arguments in {written}])\n"
        "from trainer.config.compose import compose\ncompose([])\nassert 'trainer_example' not in sys.modules\n"
        "wrong = ['optimizer=lion', 'optimizer.beta_1=2'], ['optimizer=lino'], ['preprocess.train=[decode,grian]']\n"
        "statuses = [run(['train', *arguments]) for arguments in wrong]\n"
        "print(statuses, [name for name in ('tensorflow', 'keras') if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(site)])},
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS_ALLOWED,
    )
    assert result.stdout.endswith("[2, 2, 2] []\n")
    assert "optimizer.beta_1 is 2.0, but must be at least 0 and below 1" in result.stderr
    assert "did you mean lion?" in result.stderr
    assert "did you mean grain?" in result.stderr


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
    assert {name: text for name, text in versions.items() if name.startswith("plug-in")} == {
        f"plug-in trainer.{entry}": "trainer-example 1.0"
        for entry in (
            "models small_net",
            "optimizers lion",
            "schedules one_cycle",
            "sources arrays",
            "transforms grain",
        )
    }
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
