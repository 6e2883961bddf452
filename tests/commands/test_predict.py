"""``predict`` writes what ``evaluate`` and the Python functions compute, for every file that is an image."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small_plugin
from image_data import CLASSES, jpeg, make_splits, write
from stored_runs import keep_this_process, store_run

from trainer import api
from trainer.__main__ import run
from trainer.commands import predict
from trainer.data.batches import evaluation_batches
from trainer.data.sources.source import open_source
from trainer.errors import UsageError
from trainer.inference.probabilities import most_probable
from trainer.run import restore
from trainer.training.interfaces import Run
from trainer.training.step import make_prediction_step

IMAGES = 5  # of each class


def drawn(state: Run) -> None:
    """A classifier that tells images apart."""
    generator = np.random.default_rng(3)
    for name, variable in state.state.variables.items():
        if name.endswith("kernel"):
            variable.assign(generator.normal(0.0, 0.5, variable.shape).astype(np.float32))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("stored")
    make_splits(place / "data", 8, IMAGES)
    small_plugin.install(place)
    data = ("data=image_folder", f"data.root={place / 'data'}", "data.train_examples=null")
    settings = (*data, "data.validation_examples=null", "evaluation.batch_size=4")
    with small_plugin.installed_here(place), pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        yield store_run(place / "run", drawn, *settings, network=small_plugin.SMALL)


def predicted(stored: Path, output: Path, *arguments: str, status: int = 0) -> list[dict[str, str]]:
    assert run(["predict", f"run_dir={stored}", f"output={output}", *arguments]) == status
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_rows_are_what_evaluation_and_the_functions_compute_to_the_bit(stored: Path, tmp_path: Path) -> None:
    folder = stored.parent / "data" / "val"
    rows = predicted(stored, tmp_path / "p.csv", f"images={folder}", "top=9")
    there = restore.restore(stored, "latest", ())
    source = open_source(there.config.data, "validation")
    assert [row["path"] for row in rows] == [
        source.place(record).partition(" (record ")[0] for record in range(source.count)
    ]
    step = make_prediction_step(there.state, "raw", flip=False)
    judged = [step(batch)[1] for batch in evaluation_batches(source, there.config)]
    confidence, best = (
        np.concatenate([each[name].numpy() for each in judged])[: source.count] for name in ("confidence", "predicted")
    )
    assert len(set(confidence.tolist())) > source.count // 2
    assert [np.float32(row["probability_1"]) for row in rows] == confidence.tolist()
    assert [row["class_1"] for row in rows] == [CLASSES[label] for label in best]
    functions = api.load(stored).predict([row["path"] for row in rows], top=9)
    assert functions == [
        [(row[f"class_{n}"], float(np.float32(row[f"probability_{n}"]))) for n in (1, 2, 3)] for row in rows
    ]
    assert "class_4" not in rows[0], "the network has three classes"


def test_what_is_no_image_is_named_and_the_others_are_written(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos, 2024"
    shutil.copytree(stored.parent / "data" / "val" / "ox", folder / "ox")
    bad = write(folder / "ox" / "000.gif", b"hello")
    empty = write(folder / "zz.png", b"")
    link = folder / "zzz.jpg"
    link.symlink_to("nowhere")
    write(folder / "._ox.jpg", jpeg(1))
    write(folder / "@eaDir" / "thumb.jpg", jpeg(1))
    write(folder / "notes.txt", b"mine")
    alone = write(tmp_path / "no ending", jpeg(2))
    rows = predicted(stored, tmp_path / "p.csv", f'images=["{folder}",{alone}]', "top=1", status=2)
    said = capsys.readouterr().err
    good = [str(folder / "ox" / f"{number:03d}.{'png' if number % 2 else 'jpg'}") for number in range(IMAGES)]
    assert [row["path"] for row in rows] == [*good, str(alone)]
    assert list(rows[0]) == ["path", "class_1", "probability_1"]
    assert f"3 of {IMAGES + 4} images cannot be used:\n" in said
    for path, reason in ((bad, " cannot be decoded: "), (empty, " is empty"), (link, " cannot be read: No such file")):
        assert f"  {path}{reason}" in said
    assert f"not read in {folder}: 1 .txt (notes.txt), 1 hidden (._ox.jpg), 1 folder (@eaDir)\n" in said
    assert run(["predict", f"run_dir={stored}", f"images={folder / 'ox'}", "format=jsonl", "top=1"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == good
    assert all(0.0 < line["classes"][0]["probability"] <= 1.0 for line in lines)
    assert run(["predict", f"run_dir={stored}", f"images={bad}"]) == 2
    assert capsys.readouterr().err.endswith("error: none of the images can be used, so there is nothing to write\n")


def test_a_table_is_for_people() -> None:
    place = io.StringIO()
    rows = [("新", [("a", np.float32(0.75)), ("b", np.float32(0.25))]), ("long", [("b", np.float32(1.0))] * 2)]
    predict.WRITERS["table"](rows, 2, place)
    assert place.getvalue() == "新    a 0.7500  b 0.2500\nlong  b 1.0000  b 1.0000\n"


def test_of_equal_probabilities_the_lower_label_is_first() -> None:
    values = np.array([0.25, 0.5, 0.25], np.float32)
    assert [name for name, _ in most_probable(values, ("a", "b", "c"), 3)] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images=here.jpg", "output=there.csv"), "output=there.csv exists, and is not overwritten"),
        (("images=here.jpg", "output=here.jpg/p.csv"), "here.jpg is not a directory"),
        (("images=here.jpg", "output=p.txt"), "output=p.txt must end with .csv or .jsonl, or have format=csv|jsonl"),
        (("images=here.jpg", "format=xml"), "format=xml does not exist; allowed: csv, jsonl, table"),
        (("images=here.jpg", "top=0"), "top=0 must be a whole number of classes"),
        (("images=gone.jpg",), "images=gone.jpg does not exist"),
        (("images=*.jpg",), "patterns are not expanded: name their directory"),
        (("here.jpg",), "'here.jpg' is not key=value: an image or a directory of images is images=…"),
        ((), "predict needs images=…"),
        (("images=here.jpg", "train.steps=3"), "predict does not know train.steps=3"),
    ],
)
def test_a_wrong_argument_is_said_before_anything_is_read(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.csv", "here.jpg"):
        (tmp_path / name).write_text("mine")
    assert run(["predict", "run_dir=nowhere", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.jpg", "there.csv"]


def test_nothing_is_written_into_a_run(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = next((stored.parent / "data" / "val").rglob("*.jpg"))
    before = sorted(stored.rglob("*"))
    for place in ("predictions/p.csv", "checkpoints/step-00000000/p.csv"):
        assert run(["predict", f"run_dir={stored}", f"images={image}", f"output={stored / place}"]) == 2
        assert "belongs to the run" in (said := capsys.readouterr().err) or "lies in the checkpoint" in said
    assert sorted(stored.rglob("*")) == before


def test_an_output_that_is_not_complete_does_not_appear(tmp_path: Path) -> None:
    output = tmp_path / "p.csv"

    def some() -> Iterator[predict.Row]:
        yield "a.jpg", [("cat", np.float32(1.0))]
        raise UsageError("the mount is gone")

    with pytest.raises(UsageError, match="gone"), predict._place(output) as place:
        predict.WRITERS["csv"](some(), 1, place)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="gone"), predict._place(tmp_path / "new/directory/p.csv") as place:
        predict.WRITERS["csv"](some(), 1, place)
    assert list(tmp_path.iterdir()) == []
    with predict._place(tmp_path / "new/directory/p.csv"):
        pass
    assert [path.name for path in (tmp_path / "new/directory").iterdir()] == ["p.csv"]
    shutil.rmtree(tmp_path / "new")
    late = predict._place(output)
    late.__enter__()
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists, and is not overwritten"):
        late.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    assert output.read_text() == "mine"
