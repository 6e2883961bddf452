"""``evaluate`` reports what the network does over a whole split, and reproduces what training recorded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from processes import NARROW, Trainer
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from stored_runs import keep_this_process, lively, store_run

from trainer.__main__ import run
from trainer.checkpoint import manifest as manifests
from trainer.config.complete import with_leaves
from trainer.config.schema import Config
from trainer.config.schema.sources import DigitsConfig
from trainer.data.batches import evaluation_batches
from trainer.data.images import transforms
from trainer.data.sources.digits import DigitsSplit
from trainer.data.sources.source import open_source
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.inference.evaluate import classification_report
from trainer.run import assembly, restore
from trainer.run_directory import layout, lock
from trainer.training.state import TrainingState


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        settings = ("model.batch_norm.momentum=0", "ema.decay=0.9", "ema.batch_norm=true")
        yield store_run(tmp_path_factory.mktemp("stored") / "run", lively, *settings)


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run(["evaluate", *arguments, "format=json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert isinstance(facts, dict)
    return facts


@pytest.mark.long
def test_another_process_reproduces_the_recorded_numbers_bit_for_bit_while_the_run_is_locked(trainer: Trainer) -> None:
    run_dir = trainer.cwd / "run"
    settings = ("train.steps=5", "ema.decay=0.9", "evaluation.weights=ema")
    trainer.run("train", f"run_dir={run_dir}", *NARROW, *settings)
    with lock.writing(run_dir):
        before = times(run_dir)
        output = trainer.run("evaluate", f"run_dir={run_dir}", "format=json")
        assert times(run_dir) == before
    facts = json.loads(output[output.index("{\n") :])  # after what TensorFlow may have said on stderr
    manifest = json.loads((run_dir / "checkpoints" / "step-00000005" / "manifest.json").read_text())
    names = ("loss", "accuracy", "macro_f1", "balanced_accuracy", "auroc")
    found = {**{name: facts[name] for name in names}, "skipped": 0}
    assert found == manifest["validation"] == facts["recorded"]


def test_a_checkpoint_whose_tensors_are_of_another_step_is_not_read(stored: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "step-00000007"
    shutil.copytree(next((stored / "checkpoints").glob("step-*")), renamed)
    manifest = manifests.read(renamed / manifests.FILE_NAME)
    manifests.write(dataclasses.replace(manifest, step=7), renamed / manifests.FILE_NAME)
    with pytest.raises(NoValidCheckpoint, match="says step 7, but its tensors have step 0"):
        restore.restore(stored, str(renamed), ())


def times(run_dir: Path) -> dict[Path, int]:
    """When each file was written; the holder renews the lock."""
    return {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != layout.LOCK}


def predictions_of(state: TrainingState, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float64 ``[n, 10]`` and labels, by the model called as Keras calls it, with its averages."""
    for name, shadow in state.ema.items():
        state.variables[name].assign(shadow)
    probabilities, labels = [], []
    for batch in evaluation_batches(open_source(config.data, "train"), config):
        images = [batch["image"], batch["image"][:, :, ::-1]]
        unused = tf.zeros([len(batch["label"]), state.dropout_features])
        outputs = [state.model({"image": view, "dropout": unused}, training=False)["logits"] for view in images]
        mean = np.mean([tf.nn.softmax(tf.cast(logits, tf.float64)).numpy() for logits in outputs], axis=0)
        there = batch["weight"].numpy() > 0
        probabilities.append(mean[there])
        labels.append(batch["label"].numpy()[there])
    return np.concatenate(probabilities), np.concatenate(labels)


def test_every_number_of_the_report_follows_from_the_mean_probabilities_of_an_image_and_its_mirror_image(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (f"run_dir={stored}", "weights=ema", "flip=true", "split=train", "data.train_examples=100")
    facts = evaluate(capsys, *asked, "evaluation.batch_size=60")
    smaller = evaluate(capsys, *asked, "evaluation.batch_size=13")  # how examples are split into batches is no matter
    assert smaller["loss"] == pytest.approx(facts["loss"], rel=1e-6)
    assert smaller["confusion"] == facts["confusion"]
    there = restore.restore(stored, "latest", ())
    config = with_leaves(there.config, {"data.train_examples": 100, "evaluation.batch_size": 60})
    probabilities, labels = predictions_of(there.state, config)
    predicted, rows = probabilities.argmax(1), np.arange(len(labels))
    assert facts["loss"] == pytest.approx(-np.log(probabilities[rows, labels]).mean(), rel=1e-5)
    assert facts["accuracy"] == (predicted == labels).mean()
    five = np.argsort(-probabilities, axis=1)[:, :5]
    assert facts["top_5_accuracy"] == (five == labels[:, None]).any(1).mean()
    confusion = np.zeros([10, 10])
    for true, other, count in facts["confusion"]:
        confusion[true, other] = count
    assert all(confusion[t, p] == ((labels == t) & (predicted == p)).sum() for t in range(10) for p in range(10))
    assert confusion.sum() == facts["examples"] == len(labels)
    assert confusion.trace() / confusion.sum() == facts["accuracy"]
    classes = facts["classes"]
    assert isinstance(classes, list)
    for index, entry in enumerate(classes):
        members = labels == index
        assert entry["examples"] == members.sum()
        assert entry["accuracy"] == ((predicted[members] == index).mean() if members.any() else None)
    confidence = probabilities.max(1)
    error = 0.0
    for low, high in zip(np.linspace(0, 1, 16), np.linspace(0, 1, 16)[1:], strict=False):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs((predicted == labels)[inside].mean() - confidence[inside].mean())
    assert facts["expected_calibration_error"] == pytest.approx(error, rel=1e-4)
    assert facts["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
    assert facts["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-6)
    areas = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert facts["auroc"] == pytest.approx(areas, abs=1e-6)
    assert len(set(predicted)) > 1, "a network that says one thing proves nothing"


@pytest.mark.parametrize(("classes", "expected"), [(2, None), (5, None), (6, 0.5)])
def test_top_5_is_left_out_where_it_would_be_1_for_any_network(classes: int, expected: float | None) -> None:
    batch = {"label": tf.constant([0, 1], tf.int64), "weight": tf.ones([2])}
    predictions = {"predicted": [0, 0], "confidence": [0.9, 0.9], "in_top_5": [True, False], "finite": [True, True]}
    predictions["probabilities"] = np.full([2, classes], 1.0 / classes, np.float32)
    told = {name: tf.constant(values) for name, values in predictions.items()}
    sums = tf.constant([0.4, 1.0, 2.0, 0.0], tf.float64)
    report = classification_report([batch], lambda batch: (sums, told), ("a", "b"), classes, 100)
    assert (report.top_5_accuracy, report.accuracy) == (expected, 0.5)
    assert ("top-5 accuracy" in report.scores()) == (expected is not None)


def write_records(root: Path, class_names: list[str], *, renumber: bool = False) -> tuple[str, ...]:
    """Some of the digits as TFRecord files with a list of class names; the arguments that mean them. With ``renumber``,
    the labels are places in that list.
    """
    root.mkdir()
    images, labels = digits(30)
    if renumber:
        labels = np.array([class_names.index(NAMES[label]) for label in labels])
    for split, chosen in (("train", slice(0, 10)), ("validation", slice(10, 30))):
        with tf.io.TFRecordWriter(str(root / f"{split}-0")) as writer:
            for image, label in zip(images[chosen], labels[chosen], strict=True):
                feature = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    (root / "names.txt").write_text("\n".join(class_names) + "\n")
    return ("data=tfrecord", f"data.root={root}", "data.labels_file=names.txt")


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_other_data_is_evaluated_by_the_names_of_its_classes_and_refused_when_it_has_others(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = evaluate(capsys, f"run_dir={stored}", *write_records(tmp_path / "same", NAMES))
    assert (facts["examples"], facts["examples_there"], facts["recorded"]) == (20, 20, None)
    assert not [note for note in notes_of(facts) if "order" in note]
    swapped = [*NAMES[:3], "four", "three", *NAMES[5:]]
    renumbered = evaluate(capsys, f"run_dir={stored}", *write_records(tmp_path / "swapped", swapped, renumber=True))
    note = "the data has its classes in another order than the checkpoint; they were matched by name"
    assert notes_of(renumbered) == [note, *notes_of(facts)]
    for name in ("loss", "accuracy", "confusion", "classes"):
        assert renumbered[name] == facts[name]
    assert run(["evaluate", f"run_dir={stored}", *write_records(tmp_path / "more", [*NAMES, "ten"])]) == 3
    message = capsys.readouterr().err
    assert "1 of the 11 classes of the data are none that " in message
    assert "was trained on: ten\n  it was trained on 10: zero, one" in message


def test_a_test_set_in_class_folders_is_evaluated_whole_and_its_missing_classes_are_named(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = digits(30)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label < 8:
            (tmp_path / NAMES[label]).mkdir(exist_ok=True)
            (tmp_path / NAMES[label] / f"{number}.png").write_bytes(image)
    whole = ("data=image_folder", f"data.root={tmp_path}")
    facts = evaluate(capsys, f"run_dir={stored}", *whole)
    assert (facts["split"], facts["examples"]) == ("test", (labels < 8).sum())
    confusion = np.zeros([10, 10], int)
    for true, other, count in facts["confusion"]:
        confusion[true, other] = count
    assert confusion.sum(1).tolist() == np.bincount(labels[labels < 8], minlength=10).tolist()
    assert "2 of 10 classes have no example here: eight, nine" in notes_of(facts)
    assert run(["evaluate", f"run_dir={stored}", *whole]) == 0
    table = capsys.readouterr().out
    data = next(line for line in table.splitlines() if line.startswith("data "))
    assert data.endswith(f" image_folder test: {confusion.sum()} examples, all there are in {tmp_path}")
    assert "note: 2 of 10 classes have no example here: eight, nine\n" in table


def notes_of(facts: dict[str, object]) -> list[str]:
    notes = facts["notes"]
    assert isinstance(notes, list)
    return notes


def digits(count: int) -> tuple[list[bytes], np.ndarray]:
    split = DigitsSplit(DigitsConfig("digits", None, None, None, None, "fail"), "validation")
    return split.read(np.arange(count))


@pytest.mark.parametrize(
    ("argument", "status", "message"),
    [
        ("train.steps=3", 2, "evaluate does not know train.steps=3"),
        ("split=dev", 2, "split=dev does not exist; allowed: train, validation, test"),
        ("split=test", 2, "data=digits has no test split, only train and validation"),
        ("flip=1", 2, "flip=1 does not exist; allowed: false, true"),
        ("checkpoint=step-7", 4, "checkpoint=step-7 does not exist; in"),
        ("data.rot=x", 2, "unknown key data.rot=x"),
        ("data.train_examples=9", 2, "data.train_examples=9 has no effect on this evaluation: it is about train, and"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    argument: str, status: int, message: str, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", f"run_dir={stored}", argument]) == status
    assert message in capsys.readouterr().err


def test_averages_that_a_run_does_not_keep_cannot_be_evaluated(stored: Path) -> None:
    there = restore.restore(stored, "latest", ())
    plain = dataclasses.replace(there, config=with_leaves(there.config, {"ema.decay": None}))
    with pytest.raises(UsageError, match=r"holds no averages \(ema.decay is null\)"):
        plain.weights("ema")
    assert (plain.weights(None), plain.weights("raw"), there.weights("ema")) == ("raw", "raw", "ema")


def test_an_edited_network_or_preprocessing_is_refused(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(transforms.TRANSFORMS, "normalize", lambda image, config, draw: image * 2.0 - 1.1)
    assert run(["evaluate", f"run_dir={stored}"]) == 3
    message = capsys.readouterr().err
    assert "preprocess.eval[2] normalize" in message
    assert "allow=[behaviour]" in message
    assert run(["evaluate", f"run_dir={stored}", "allow=[behaviour]"]) == 0
    table = capsys.readouterr().out
    assert "accuracy by class" in table
    assert "9 nine" in table


def test_a_checkpoint_that_is_retired_while_it_is_read_is_no_error(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when a training process commits a new one and deletes the one that is being read."""
    run_dir = tmp_path / "run"
    shutil.copytree(stored, run_dir)
    oldest = run_dir / "checkpoints" / "step-00000000"
    newest = oldest.with_name("step-00000001")
    shutil.copytree(oldest, newest)
    manifest = newest / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 0', '"step": 1'))
    build = assembly.build_state

    def build_meanwhile(config: Config, *, drawn: bool) -> TrainingState:
        if newest.exists():
            shutil.rmtree(newest)
        return build(config, drawn=drawn)

    monkeypatch.setattr(assembly, "build_state", build_meanwhile)
    assert evaluate(capsys, f"run_dir={run_dir}")["step"] == 0
    assert not newest.exists()
