"""What is shown of a run is what it recorded, and can be read: in a report, in TensorBoard, by a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from browser import CHROMIUM, DARK, LIGHT, chromium, seen
from composing import compose
from small_plugin import SMALL, install, installed_here
from stored_runs import keep_this_process

from trainer.__main__ import run
from trainer.checkpoint import manifest as manifests
from trainer.config import reproduction, stored
from trainer.config.complete import complete, with_leaves
from trainer.report import contents, page
from trainer.run_directory import validation_predictions
from trainer.run_directory.metrics import TRAIN, VALIDATION, read_metrics
from trainer.sweeps import plan
from trainer.sweeps.plan import Sweep, Trial

STEPS = 6
RESTART = 4
RATE, LATER_RATE = 0.01, 0.005
SETTINGS = (
    "optimizer=sgd",
    "optimizer.momentum=0",
    f"optimizer.learning_rate={RATE}",
    "schedule=constant",
    "schedule.warmup_steps=0",
    "evaluation.every_steps=2",
    "checkpoint.every_steps=1",
    "train.histograms_every_steps=4",
)
ATTACK = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"

needs_chromium = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian's package: chromium)"),
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of six steps with a restart after four, at which another learning rate was accepted."""
    base = tmp_path_factory.mktemp("shown")
    install(base)
    place = base / "run"
    with installed_here(base), pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        assert run(["train", f"run_dir={place}", *SMALL, *SETTINGS, f"train.steps={RESTART}", "profile=[3,3]"]) == 0
        change = (f"optimizer.learning_rate={LATER_RATE}", "allow=[optimizer.learning_rate]")
        assert run(["resume", f"run_dir={place}", f"train.steps={STEPS}", *change]) == 0
        yield place


def report(*arguments: str) -> None:
    assert run(["report", *arguments]) == 0


def records(run_dir: Path, split: str) -> dict[int, dict[str, float]]:
    return {record["step"]: record for record in read_metrics(run_dir / "metrics.jsonl") if record["split"] == split}


def weights(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / f"step-{step:08d}" / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/") and "moving" not in name]
    return {name: reader.get_tensor(name) for name in names}


def test_the_recorded_norm_is_that_of_the_gradients(run_dir: Path) -> None:
    """Without momentum a step of SGD is the learning rate times the gradient."""
    for step, rate in ((2, RATE), (6, LATER_RATE)):
        before, after = weights(run_dir, step - 1), weights(run_dir, step)
        squares = [np.sum(np.square((before[name] - after[name]).astype(np.float64))) for name in before]
        record = records(run_dir, TRAIN)[step]
        assert record["gradient_norm"] == pytest.approx(np.sqrt(np.sum(squares)) / rate, rel=1e-3)
        norm = np.sqrt(sum(np.sum(np.square(value.astype(np.float64))) for value in after.values()))
        assert record["weight_norm"] == pytest.approx(norm, rel=1e-5)
        assert 0.0 <= record["input_wait"] <= 1.0


def test_the_kept_predictions_are_those_of_the_recorded_validations(run_dir: Path) -> None:
    validations = records(run_dir, VALIDATION)
    best = min(validations, key=lambda step: (-validations[step]["accuracy"], step))
    kept = validation_predictions.stored(run_dir)
    assert set(kept) == {best, STEPS}
    for step, path in kept.items():
        found = validation_predictions.read(path)
        hits = sum(count for true, other, count in found.confusions if true == other)
        assert found.examples == 20 == sum(count for *_, count in found.confusions)
        assert hits / found.examples == validations[step]["accuracy"]
        assert len(found.mistakes) == min(found.examples - hits, validation_predictions.WORST)
        assert all(mistake.label != mistake.predicted and mistake.picture for mistake in found.mistakes)
        losses = [mistake.loss for mistake in found.mistakes]
        assert losses == sorted(losses, reverse=True)


def test_going_back_forgets_what_was_predicted_later(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    validation_predictions.forget_later(copy, STEPS - 1)
    assert set(validation_predictions.stored(copy)) == set(validation_predictions.stored(run_dir)) - {STEPS}


def test_a_report_shows_what_the_run_recorded_and_takes_no_tensorflow(run_dir: Path) -> None:
    program = (
        "import sys\nfrom trainer.__main__ import run\nstatus = run(sys.argv[1:])\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\nsys.exit(status)"
    )
    command = [sys.executable, "-c", program, "report", f"run_dir={run_dir}"]
    subprocess.run(command, cwd=run_dir.parent, check=True, timeout=60)  # where the network is installed
    text = (run_dir / "report.html").read_text()
    newest = manifests.read(run_dir / "checkpoints" / f"step-{STEPS:08d}" / manifests.FILE_NAME)
    assert [start.from_step for start in newest.lineage] == [0, RESTART]
    for shown in (*newest.versions.values(), newest.ledger, f"step-{STEPS:08d}", newest.lineage[1].started):
        assert shown in text
    assert f"optimizer.learning_rate: {RATE} -&gt; {LATER_RATE}" in text
    read = contents.read(run_dir, "run", pytest.fail)
    assert read.restarts == [RESTART]
    figures = [json.loads(figure) for figure in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    losses = figures[0]["data"]
    for split, curve in zip((TRAIN, VALIDATION), losses, strict=True):
        assert dict(zip(curve["x"], curve["y"], strict=True)) == {
            step: record["loss"] for step, record in records(run_dir, split).items()
        }
    assert [shape["x0"] for shape in figures[0]["layout"]["shapes"]] == [RESTART]
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:)', markup), "nothing is fetched from anywhere"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer=rmsprop", "schedule=exponential", "mixing=mixup_cutmix", "ema.decay=0.5", "seed=7"),
        (
            *("experiment=images", "data=image_folder"),
            *("data.root='/some where/it is, [here]'", "data.classes=[a b,'null','1']"),
        ),
        ("preprocess=rand_augment", "profile=[3,5]", "checkpoint.mirror='s3://a/b=c'", "optimizer.clip_norm=1e-3"),
    ],
)
def test_the_command_to_reproduce_makes_the_same_configuration(overrides: tuple[str, ...]) -> None:
    config = complete(compose(*overrides), 1000, 10)
    assert compose(*reproduction.overrides(config)) == config


def test_several_runs_are_compared_with_the_keys_in_which_they_differ(run_dir: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_dir, tmp_path / "other")
    path = other / stored.FILE_NAME
    path.write_text(stored.to_text(with_leaves(stored.read(path), {"seed": 99})))
    runs = [contents.read(place, place.name, pytest.fail) for place in (run_dir, other)]
    assert page.differences(runs) == [("seed", ["0", "99"])]
    report(f"run_dir=[{run_dir},{other}]", f"output={tmp_path / 'two.html'}")
    text = (tmp_path / "two.html").read_text()
    assert ">99<" in text
    assert str(run_dir) in text
    assert str(other) in text

    names = ("a", "b", "not-begun")
    config = stored.to_text(stored.read(run_dir / stored.FILE_NAME))
    trials = tuple(
        Trial(number, name, (f"seed={number}",), None, (), config, None) for number, name in enumerate(names)
    )
    plan.begin(tmp_path / "sweep", Sweep(plan.FORMAT_VERSION, trials, None), "fail")
    for name in names[:2]:
        shutil.copytree(run_dir, tmp_path / "sweep" / name)
    report(f"sweep_dir={tmp_path / 'sweep'}")
    text = (tmp_path / "sweep" / "report.html").read_text()
    assert "0  seed=0" in text
    assert "1  seed=1" in text


@pytest.fixture
def hostile(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the run in which every text that somebody else could have written is an attack."""
    place = shutil.copytree(run_dir, tmp_path / "copy")
    for path in place.glob("checkpoints/step-*/manifest.json"):
        found = manifests.read(path)
        start = dataclasses.replace(found.lineage[0], host=ATTACK, checkpoint=ATTACK, changes=(ATTACK,))
        texts = {"class_names": (ATTACK,) * 10, "versions": {ATTACK: ATTACK}, "git_commit": ATTACK, "created": ATTACK}
        manifests.write(dataclasses.replace(found, lineage=(start,), **texts), path)
    path = validation_predictions.stored(place)[STEPS]
    found = validation_predictions.read(path)
    mistake = dataclasses.replace(found.mistakes[0], picture='"><script>window.pwned = 1</script>')
    validation_predictions.write(place, dataclasses.replace(found, mistakes=(mistake,)), (STEPS,))
    config = place / stored.FILE_NAME
    config.write_text(stored.to_text(with_leaves(stored.read(config), {"experiment": ATTACK})))
    with (place / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 7, "split": "train", "loss": ATTACK, "accuracy": 1e999}) + "\n")
    return place


def test_text_of_a_stranger_is_shown_as_text(hostile: Path) -> None:
    report(f"run_dir={hostile}")
    text = (hostile / "report.html").read_text()
    assert "<script>window" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;window.pwned" in text


class TestBrowser:
    pytestmark = needs_chromium

    @pytest.mark.parametrize("width", [400, 1400])
    def test_a_report_can_be_read(self, run_dir: Path, width: int) -> None:
        report(f"run_dir={run_dir}")
        looks = {scheme: seen(run_dir / "report.html", width, scheme) for scheme in (LIGHT, DARK)}
        for scheme, facts in looks.items():
            assert facts["scheme"] == scheme
            assert facts["width"] == width
            assert facts["scroll_width"] <= width
            assert facts["outside"] == []
            assert facts["covered"] == []
            assert facts["drawn"] == facts["charts"] >= 8
            assert facts["pictures"] >= validation_predictions.WORST
            assert "step-00000006" in facts["text"]
        assert looks[LIGHT]["paper"] == looks[DARK]["paper"].replace("20, 23, 27", "255, 255, 255")
        assert looks[LIGHT]["ink"] != looks[DARK]["ink"]

    def test_a_hostile_report_runs_nothing(self, hostile: Path) -> None:
        report(f"run_dir={hostile}")
        facts = seen(hostile / "report.html", 400, LIGHT)
        assert not facts["pwned"]
        assert facts["scroll_width"] <= 400
        assert facts["outside"] == []
        assert ATTACK in facts["text"]

    def test_tensorboard_shows_the_run(self, run_dir: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(run_dir),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            url = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            kinds = ("scalars", "images", "text", "histograms", "hparams", "graphs")
            deadline = time.monotonic() + 60
            shown = ["tensorboard", "tensorboard/train", "tensorboard/val"]  # read one after the other
            while ask(url, "data/runs") != shown and time.monotonic() < deadline:
                time.sleep(0.2)
            assert ask(url, "data/runs") == shown
            tags = {kind: ask(url, f"data/plugin/{kind}/tags") for kind in kinds[:4]}
            train, validation = "tensorboard/train", "tensorboard/val"
            shared = {"loss", "accuracy"}
            assert shared | {"learning_rate", "gradient_norm", "weight_norm", "input_wait", "start"} <= set(
                tags["scalars"][train]
            )
            assert shared <= set(tags["scalars"][validation])
            assert set(tags["images"][train]) == {"inputs"}
            assert set(tags["images"][validation]) == {"confusion", "mistakes"}
            assert set(tags["text"][train]) == {"config", "starts"}
            assert all(name.startswith("weights/") for name in tags["histograms"][train])
            assert list(ask(url, "data/plugin/graphs/info")) == [validation]
            steps = [step for _, step, _ in ask(url, f"data/plugin/scalars/scalars?run={train}&tag=loss")]
            assert steps == [2, 4, 6], "continuous over the restart"
            starts = [
                [step, value] for _, step, value in ask(url, f"data/plugin/scalars/scalars?run={train}&tag=start")
            ]
            assert starts == [[0, 1.0], [RESTART, 2.0]]
            ranked = ask(url, "data/plugin/hparams/experiment", {"experimentName": ""})["metricInfos"]
            assert {"group": "val", "tag": "accuracy"} in [metric["name"] for metric in ranked]
            dom = chromium(f"{url}/#timeseries", "--window-size=1400,1000", "--dump-dom")
        finally:
            process.kill()  # how TensorBoard ends is not the claim, and takes it long on a busy machine
            process.wait(30)
        for run_name in (train, validation):
            assert f'title="{run_name}"' in dom or run_name in dom
        assert 'title="accuracy"' in dom
        assert list((run_dir / "tensorboard/train/plugins/profile").rglob("*.xplane.pb"))


def ask(url: str, path: str, question: dict[str, str] | None = None) -> Any:
    content = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(f"{url}/{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
