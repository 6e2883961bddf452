"""What is shown of a run is what it recorded, and can be read: in a report, in TensorBoard, by a real browser."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from browser import CHROMIUM, DARK, LIGHT, chromium, seen
from composing import compose
from PIL import Image
from small_plugin import SMALL, install, installed_here
from stored_runs import keep_this_process

from trainer.__main__ import run
from trainer.checkpoint import manifest as manifests
from trainer.config import reproduction, stored
from trainer.config.complete import complete, with_leaves
from trainer.monitoring import pictures
from trainer.monitoring.confusion import Confusion
from trainer.report import charts, contents, page
from trainer.run_directory import validation_predictions
from trainer.run_directory.metrics import TRAIN, VALIDATION, read_metrics
from trainer.storage.unacceptable import Unacceptable
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
    subprocess.run(command, cwd=run_dir.parent, check=True, timeout=240)  # where the network is installed
    text = (run_dir / "report.html").read_text()
    newest = manifests.read(run_dir / "checkpoints" / f"step-{STEPS:08d}" / manifests.FILE_NAME)
    assert [start.from_step for start in newest.lineage] == [0, RESTART]
    for shown in (*newest.versions.values(), newest.ledger, f"step-{STEPS:08d}", newest.lineage[1].started):
        assert shown in text
    assert f"optimizer.learning_rate: {RATE} -&gt; {LATER_RATE}" in text
    read = contents.read(run_dir, "run", pytest.fail)
    assert read.restarts == [RESTART]
    figures = [json.loads(figure) for figure in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert read.config.train.label_smoothing > 0.0, "so the trained loss and that of validation are two charts"
    assert "<h3>Loss that is trained, with label smoothing" in text
    for split, figure in zip((TRAIN, VALIDATION), figures, strict=False):
        (curve,) = figure["data"]
        assert curve["x"] == list(records(run_dir, split))
        assert curve["y"] == pytest.approx([record["loss"] for record in records(run_dir, split).values()], rel=1e-5)
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


def test_a_report_says_what_was_trained_and_which_files_were_mistaken(run_dir: Path) -> None:
    report(f"run_dir={run_dir}")
    text = (run_dir / "report.html").read_text()
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert list(facts)[:3] == ["Network", "Data", "Optimizer"]
    assert facts["Network"] == "small: 510 parameters, 10 classes; on cpu in float32"
    assert facts["Data"].startswith("digits: 40 images to train on, 20 to validate; batches of 8")
    assert facts["Optimizer"] == "sgd, learning rate 0.005, constant schedule, batch 8"
    assert "in 2 lives" in facts["Time"]
    kept = [validation_predictions.read(path) for path in validation_predictions.stored(run_dir).values()]
    examples = {(mistake.example, mistake.predicted) for found in kept for mistake in found.mistakes}
    assert text.count("<figcaption>") == len(examples) < sum(len(found.mistakes) for found in kept), "each once"
    assert "of its worst mistakes are shown above" in text
    for found in kept:
        for mistake in found.mistakes:
            assert mistake.place is not None
            file = html.escape(page.RECORD.sub("", mistake.place))
            assert f'title="{file}">{file.rpartition("/")[2]}</button>' in text


def test_the_scores_of_classes_are_those_of_the_confusions(run_dir: Path) -> None:
    found = Confusion.of_entries([(0, 0, 3), (0, 1, 1), (1, 1, 4), (2, 1, 1)])
    scores = {name: dataclasses.astuple(each) for name, each in found.by_class().items()}
    assert scores == {0: (4, 1.0, 0.75, 6 / 7), 1: (4, 4 / 6, 1.0, 8 / 10), 2: (1, None, 0.0, 0.0)}
    report(f"run_dir={run_dir}")
    text = (run_dir / "report.html").read_text()
    for path in validation_predictions.stored(run_dir).values():
        kept = Confusion.of_entries(validation_predictions.read(path).confusions)
        for name, each in kept.by_class().items():
            precision, recall = (page._share(value) for value in (each.precision, each.recall))
            cells = (precision, recall, f"{each.f1:.3f}", each.support)
            row = "".join(f'<td class="number">{cell}</td>' for cell in cells)
            assert f"<td>{contents.read(run_dir, 'run', pytest.fail).class_names[name]}</td>{row}" in text


def test_a_matrix_has_the_names_of_the_classes_on_its_axes() -> None:
    names = ["cat", "a name that is far too long for a tick"]
    figure = json.loads(str(charts.confusion(Confusion.of_entries([(0, 1, 1), (1, 1, 2)]), names)))
    for axis in ("xaxis", "yaxis"):
        assert figure["layout"][axis]["ticktext"] == ["cat", "a name that is …"]


def with_values(read: contents.Contents, **values: Sequence[float]) -> dict[str, dict[str, Any]]:
    """The charts of a run whose training had these values."""
    count = len(next(iter(values.values())))
    made = [
        {"step": step, "split": TRAIN, **{name: value[step] for name, value in values.items()}} for step in range(count)
    ]
    found = charts.curves(dataclasses.replace(read, records=made))
    return {title: json.loads(figure)["layout"] for title, figure in found.items()}


def test_what_is_wide_has_a_logarithmic_scale_and_what_is_rare_does_not_decide_the_scale(run_dir: Path) -> None:
    read = contents.read(run_dir, "run", pytest.fail)
    spike = [10.0] * 99 + [1000.0]
    rising = [float(each) for each in np.linspace(9.0, 11.0, 99)] + [1000.0]
    falling = [float(each) for each in np.geomspace(100.0, 0.01, 100)]
    layouts = with_values(read, images_per_second=rising, gradient_norm=falling, weight_norm=spike)
    assert layouts["Images per second"]["yaxis"]["range"][1] < 20.0
    assert "1 higher, up to 1e+03" in json.dumps(layouts["Images per second"]["annotations"])
    assert layouts["Norm of the gradients"]["yaxis"]["type"] == "log"
    assert "range" not in layouts["Norm of the weights"]["yaxis"], "nothing is usual where all but one are the same"


def test_both_losses_are_one_chart_where_they_are_the_same_quantity(run_dir: Path) -> None:
    read = contents.read(run_dir, "run", pytest.fail)
    config = with_leaves(read.config, {"train.label_smoothing": 0.0, "model.weight_decay": 0.0})
    (title, figure), *_ = charts.curves(dataclasses.replace(read, config=config)).items()
    assert title == "Loss"
    assert [trace["name"] for trace in json.loads(figure)["data"]] == ["training", "validation"]


def test_predictions_of_earlier_versions_are_shown_without_places(run_dir: Path, tmp_path: Path) -> None:
    (path, *_) = validation_predictions.stored(run_dir).values()
    document = json.loads(path.read_text())
    document["format_version"] = 1
    for mistake in document["mistakes"]:
        del mistake["place"]
    old = tmp_path / path.name
    old.write_text(json.dumps(document))
    found = validation_predictions.read(old)
    assert all(mistake.place is None for mistake in found.mistakes)
    del document["mistakes"][0]["loss"]
    old.write_text(json.dumps(document))
    with pytest.raises(Unacceptable, match="lacks loss"):
        validation_predictions.read(old)


def test_thumbnails_take_few_bytes_and_what_is_none_is_left_out() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    photo = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)  # as smooth as photographs are
    small = page._small(pictures.as_png(photo))
    assert small is not None
    assert small.startswith("data:image/webp;base64,")
    assert len(small) * 2 * validation_predictions.WORST + 1.87e6 < 2e6
    for wrong in ("no base64!", "aGVsbG8=", pictures.as_png(photo.resize((300, 10))), pictures.as_png(photo)[:400]):
        assert page._small(wrong) is None


def test_the_packed_library_is_the_library_and_nothing_that_html_reads() -> None:
    text = "".join(map(chr, range(32, 1000))) * 50
    packed = page.packed(text)
    assert not set("<&>\"'") & set(packed)
    assert zlib.decompress(base64.b85decode(packed.translate(str.maketrans(".,:", "<&>")))).decode() == text


def test_several_runs_are_compared_with_the_keys_in_which_they_differ(run_dir: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_dir, tmp_path / "other")
    path = other / stored.FILE_NAME
    path.write_text(stored.to_text(with_leaves(stored.read(path), {"seed": 99})))
    runs = [contents.read(place, place.name, pytest.fail) for place in (run_dir, other)]
    assert page.differences(runs) == [("seed", [0, 99])]
    report(f"run_dir=[{run_dir},{other}]", f"output={tmp_path / 'two.html'}")
    text = (tmp_path / "two.html").read_text()
    assert ">99<" in text
    assert text.count('<span class="mark">best</span></td><td class="short">') == 1, "of two alike, the first"
    figures = [json.loads(figure) for figure in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert figures[0]["layout"]["xaxis"]["ticktext"] == ["seed", "accuracy"]
    assert [trace["customdata"][0] for trace in figures[0]["data"]] == ["99", "0"], "the best on top"
    assert [trace["y"][0] for trace in figures[0]["data"]] == [1.0, 0.0]
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


def best_predictions(run_dir: Path) -> Path:
    validations = records(run_dir, VALIDATION)
    best = min(validations, key=lambda step: (-validations[step]["accuracy"], step))
    return validation_predictions.stored(run_dir)[best]


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
            assert facts["holes"] == []
            assert facts["pictures"] >= validation_predictions.WORST
            assert "step-00000006" in facts["text"]
            worst = validation_predictions.read(best_predictions(run_dir)).mistakes[0].place
            assert worst is not None
            assert facts["pressed"] in ("copied", page.RECORD.sub("", worst)), "copied, or there to be selected"
        assert (run_dir / "report.html").stat().st_size < 2e6
        assert looks[LIGHT]["paper"] == looks[DARK]["paper"].replace("20, 23, 27", "255, 255, 255")
        assert looks[LIGHT]["ink"] != looks[DARK]["ink"]

    def test_a_comparison_can_be_read(self, run_dir: Path, tmp_path: Path) -> None:
        other = shutil.copytree(run_dir, tmp_path / "other")
        path = other / stored.FILE_NAME
        path.write_text(stored.to_text(with_leaves(stored.read(path), {"seed": 99})))
        report(f"run_dir=[{run_dir},{other}]", f"output={tmp_path / 'two.html'}")
        facts = seen(tmp_path / "two.html", 1400, LIGHT)
        assert facts["drawn"] == facts["charts"] >= 8
        assert facts["holes"] == []
        assert facts["covered"] == []

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
            deadline = time.monotonic() + 240
            shown = ["tensorboard", "tensorboard/train", "tensorboard/val"]  # read one after the other
            while ask(url, "data/runs") != shown and time.monotonic() < deadline:
                time.sleep(0.2)
            assert ask(url, "data/runs") == shown
            tags = {kind: ask(url, f"data/plugin/{kind}/tags") for kind in kinds[:4]}
            train, validation = "tensorboard/train", "tensorboard/val"
            shared = {"loss/loss", "accuracy/accuracy"}
            alone = {"rate/learning_rate", "norm/gradient_norm", "norm/weight_norm", "speed/input_wait", "run/start"}
            assert shared | alone <= set(tags["scalars"][train])
            assert shared <= set(tags["scalars"][validation])
            groups = {name.partition("/")[0] for names in tags["scalars"].values() for name in names}
            assert groups == {"loss", "accuracy", "rate", "norm", "speed", "records", "run", "time"}
            assert set(tags["images"][train]) == {"inputs"}
            assert set(tags["images"][validation]) == {"confusion", "mistakes"}
            assert set(tags["text"][train]) == {"config", "starts"}
            assert all(name.startswith("weights/") for name in tags["histograms"][train])
            assert list(ask(url, "data/plugin/graphs/info")) == [validation]
            steps = [step for _, step, _ in ask(url, f"data/plugin/scalars/scalars?run={train}&tag=loss/loss")]
            assert steps == [2, 4, 6], "continuous over the restart"
            starts = [
                [step, value] for _, step, value in ask(url, f"data/plugin/scalars/scalars?run={train}&tag=run/start")
            ]
            assert starts == [[0, 1.0], [RESTART, 2.0]]
            experiment = ask(url, "data/plugin/hparams/experiment", {"experimentName": ""})
            names = [metric["name"] for metric in experiment["metricInfos"]]
            assert list(dict.fromkeys(name["tag"].partition("/")[0] for name in names))[:2] == ["accuracy", "loss"]
            assert {"group": "val", "tag": "accuracy/accuracy"} in names
            columns = [column["name"] for column in experiment["hparamInfos"]]
            assert columns[:5] == ["Batch", "Learning rate", "Network", "Optimizer", "Schedule"]
            assert "optimizer.momentum" in columns
            question = {
                "experimentName": "",
                "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
                "colParams": [{"metric": names[0], "order": "ORDER_DESC"}],
                "startIndex": 0,
                "sliceSize": 10,
            }
            (group,) = ask(url, "data/plugin/hparams/session_groups", question)["sessionGroups"]
            assert group["hparams"]["Learning rate"] == RATE
            values = {
                (metric["name"]["group"], metric["name"]["tag"]): metric["value"] for metric in group["metricValues"]
            }
            assert values["val", "accuracy/accuracy"] == pytest.approx(records(run_dir, VALIDATION)[STEPS]["accuracy"])
            dom = chromium(f"{url}/#timeseries", "--window-size=1400,1000", "--dump-dom")
        finally:
            process.kill()  # how TensorBoard ends is not the claim, and takes it long on a busy machine
            process.wait(120)
        for run_name in (train, validation):
            assert f'title="{run_name}"' in dom or run_name in dom
        assert 'title="accuracy/accuracy"' in dom or "accuracy/accuracy" in dom
        assert list((run_dir / "tensorboard/train/plugins/profile").rglob("*.xplane.pb"))


def ask(url: str, path: str, question: dict[str, str] | None = None) -> Any:
    content = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(f"{url}/{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as answer:
        return json.load(answer)
