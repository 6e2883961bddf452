"""``prepare-data``: what is written, and that nothing is lost or made differently by a kill."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import compose
from PIL import Image
from processes import NARROW, Trainer

from trainer.commands import prepare_data
from trainer.data import prepared
from trainer.data.evaluated import Trained, open_evaluated
from trainer.data.images.decoding import decode_file
from trainer.data.images.shrinking import shrunk
from trainer.data.sources.source import open_source
from trainer.errors import BadRecord, UsageError

PREPROCESS = compose("data=digits").preprocess
UPSIDE_DOWN = Image.Exif()
UPSIDE_DOWN[0x0112] = 3


def picture(size: tuple[int, int], form: str, seed: int = 0, **options: Any) -> bytes:
    """A smooth picture in another colour for each seed."""
    width, height = size
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([down * 200 // height, across * 200 // width, np.full_like(down, seed * 20 % 200)], -1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; 20 images for training and 6 for validation, of two sizes and two formats."""
    root = tmp_path / "images"
    for split, count in (("train", 20), ("val", 6)):
        for number in range(count):
            place = root / split / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            form, size = (("JPEG", (300, 200)), ("PNG", (60, 90)), ("PNG", (150, 300)))[number % 3]
            (place / f"{number}.{form.lower()}").write_bytes(picture(size, form, number))
    return root


def run(*arguments: str) -> int:
    return prepare_data.main(arguments)


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_a_large_image_becomes_a_jpeg_of_this_size_and_a_small_one_keeps_its_bytes() -> None:
    small = picture((100, 60), "PNG")
    assert shrunk(small, 100, 95, PREPROCESS) == small
    for form, size, expected in (
        ("JPEG", (300, 200), (120, 80)),
        ("PNG", (200, 300), (80, 120)),
        ("WebP", (1000, 3), (120, 1)),
        ("GIF", (121, 121), (120, 120)),
    ):
        made = Image.open(io.BytesIO(shrunk(picture(size, form), 120, 95, PREPROCESS)))
        assert (made.format, made.size, made.mode) == ("JPEG", expected, "RGB")
        assert not made.getexif()


@pytest.mark.parametrize("size", [(640, 480), (1600, 1200), (3000, 2000)])  # decoded at 1, 1/2 and 1/8 of the size
def test_what_libjpeg_scales_looks_like_what_was_decoded_whole(size: tuple[int, int]) -> None:
    data = picture(size, "JPEG", quality=95)
    small = np.asarray(Image.open(io.BytesIO(shrunk(data, 160, 95, PREPROCESS)))).astype(int)
    whole = Image.fromarray(decode_file(data, PREPROCESS).numpy())
    expected = np.asarray(whole.resize(small.shape[1::-1], Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(small - expected).mean() < 1.5


def test_an_image_is_written_upright() -> None:
    plain, turned = (picture((300, 200), "JPEG", **more) for more in ({}, {"exif": UPSIDE_DOWN}))
    upright, other = (
        np.asarray(Image.open(io.BytesIO(shrunk(data, 100, 95, PREPROCESS)))).astype(int) for data in (plain, turned)
    )
    assert np.abs(upright[::-1, ::-1] - other).mean() < 2
    assert np.abs(upright - other).mean() > 20


def test_every_image_is_there_with_its_class_and_the_originals_stay(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    output = tmp_path / "small"
    assert run("data=image_folder", f"data.root={folder}", f"output={output}", "max_side=100") == 0
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    printed = capsys.readouterr().out
    assert "  train: 20 images\n" in printed
    assert "  validation: 6 images\n" in printed
    overrides = shlex.split(printed.splitlines()[-1])[4:]
    for split, count in (("train", 20), ("validation", 6)):
        source = open_source(compose(*overrides).data, split)
        original = open_source(compose("data=image_folder", f"data.root={folder}").data, split)
        assert (source.count, source.class_names) == (count, ("cat", "dog"))
        assert (source.labels() == original.labels()).all()
        for record in range(count):
            (image,), _ = source.read(np.array([record]))
            (whole,), _ = original.read(np.array([record]))
            assert max(Image.open(io.BytesIO(image)).size) <= 100
            assert image == shrunk(whole, 100, 95, PREPROCESS)


def test_the_same_data_give_the_same_bytes_and_nothing_is_made_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepared, "RECORDS_A_SHARD", 8)
    one, other = tmp_path / "one", tmp_path / "other"
    for output in (one, other):
        run("data=image_folder", f"data.root={folder}", f"output={output}", "max_side=100")
    assert contents(one) == contents(other)
    assert sorted(contents(one)) == [
        "labels.json",
        "prepared.json",
        *(f"train-0000{number}-of-00003" for number in range(3)),
        "validation-00000-of-00001",
    ]
    complete = contents(one)
    (one / "train-00001-of-00003").write_bytes(b"damaged")
    (one / "train-00002-of-00003").unlink()
    capsys.readouterr()
    run("data=image_folder", f"data.root={folder}", f"output={one}", "max_side=100")
    assert "4 shards, 2 of them made now" in capsys.readouterr().out
    assert contents(one) == complete


def test_a_killed_process_is_gone_on_with_and_the_bytes_are_those_of_one_that_was_not(
    folder: Path, tmp_path: Path, trainer: Trainer
) -> None:
    program = (
        "import sys\nfrom trainer.__main__ import main\nfrom trainer.data import prepared\n"
        "prepared.RECORDS_A_SHARD = 2\nprepared.RECORDS_A_TASK = 1\nmain(sys.argv[1:])\n"
    )
    slow = program.replace(
        "main(sys",
        "import time\nmade = prepared.shrunk\n"
        "prepared.shrunk = lambda *given: (time.sleep(0.2), made(*given))[1]\nmain(sys",
    )
    command = ("prepare-data", "data=image_folder", f"data.root={folder}", "max_side=100")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert trainer.start_python("-c", program, *command, f"output={undisturbed}").wait() == 0
    for shards in (2, 5):
        process = trainer.start_python("-c", slow, *command, f"output={killed}")
        deadline = time.monotonic() + 240
        while process.running and len(list(killed.glob("*-of-*"))) < shards and time.monotonic() < deadline:
            time.sleep(0.01)
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.output
    assert not (killed / "prepared.json").exists(), "it was killed too late to prove anything"
    last = trainer.start_python("-c", program, *command, f"output={killed}")
    assert last.wait() == 0, last.output
    found = re.search(r"13 shards, (\d+) of them made now", last.output)
    assert found is not None
    assert 0 < int(found[1]) <= 13 - 4, "a shard that was noted was made again"
    left = [path for path in killed.iterdir() if path.name.startswith(".")]
    assert not left
    assert contents(killed) == contents(undisturbed)


def test_what_cannot_be_used_is_named_and_left_out_only_if_the_data_say_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder / "train" / "cat" / "0.jpeg"
    bad.write_bytes(bad.read_bytes()[:200])
    command = ("data=image_folder", f"data.root={folder}", "max_side=100")
    with pytest.raises(BadRecord, match=re.escape(str(bad))):
        run(*command, f"output={tmp_path / 'none'}")
    assert run(*command, "data.on_bad_record=skip", f"output={tmp_path / 'some'}") == 0
    printed = capsys.readouterr().out
    assert "  train: 19 images\n" in printed
    assert re.search(
        rf"1 record cannot be used and was left out:\n  {re.escape(str(bad))}.* cannot be decoded: ", printed
    )
    lines = [json.loads(line) for line in (tmp_path / "some" / "prepared.json").read_text().splitlines()]
    assert str(bad) in lines[1]["left_out"][0]


def test_other_data_or_settings_are_refused_with_both_values(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "small"
    command = ("data=image_folder", f"data.root={folder}", f"output={output}")
    run(*command, "max_side=100")
    with pytest.raises(UsageError, match="max_side was 100, and is 90"):
        run(*command, "max_side=90")
    with pytest.raises(UsageError, match="quality was 95, and is 80"):
        run(*command, "max_side=100", "quality=80")
    (folder / "train" / "cat" / "20.png").write_bytes(picture((20, 20), "PNG"))
    with pytest.raises(UsageError, match="train: records was 20, and is 21"):
        run(*command, "max_side=100")


def test_an_image_that_was_edited_within_its_size_is_other_data(folder: Path, tmp_path: Path) -> None:
    image = folder / "train" / "cat" / "plain.bmp"
    image.write_bytes(picture((20, 20), "BMP", 1))
    command = ("data=image_folder", f"data.root={folder}", f"output={tmp_path / 'small'}")
    run(*command)
    run(*command)
    image.write_bytes(picture((20, 20), "BMP", 2))
    with pytest.raises(UsageError, match="train: content was "):
        run(*command)


@pytest.mark.parametrize(
    "names",
    [
        [f"{number}:{'abcdefghijk'[number]}" for number in range(11)],  # sorted, 10:k comes before 1:b
        ["0 cat", "1 dog", "2 ox"],
        ["# of cats", "dogs"],
        ["0", "1", "10"],
    ],
)
def test_classes_keep_their_names_however_numbered_these_look(tmp_path: Path, names: list[str]) -> None:
    root = tmp_path / "images"
    for split in ("train", "val"):
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.png").write_bytes(picture((20, 20), "PNG", number))
    run("data=image_folder", f"data.root={root}", f"output={tmp_path / 'small'}")
    given = ("data=tfrecord", f"data.root={tmp_path / 'small'}", "data.labels_file=labels.json")
    original = open_source(compose("data=image_folder", f"data.root={root}").data, "train")
    copied = open_source(compose(*given).data, "train")
    assert copied.class_names == original.class_names == tuple(sorted(names))
    for number in range(len(names)):
        ((image,), (label,)), ((same,), (wanted,)) = (each.read(np.array([number])) for each in (copied, original))
        assert (image, label) == (same, wanted)


def test_a_shard_of_which_every_record_is_left_out_leaves_no_gap(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepared, "RECORDS_A_SHARD", 5)
    original = open_source(compose("data=image_folder", f"data.root={folder}").data, "train")
    for number in range(5, 10):
        Path(original.place(number).split(" (")[0]).write_bytes(b"no image")
    output = tmp_path / "small"
    command = ("data=image_folder", f"data.root={folder}", f"output={output}", "data.on_bad_record=skip")
    run(*command)
    assert "5 shards, 6 of them made now" in capsys.readouterr().out
    shards = [f"train-0000{number}-of-00003" for number in range(3)]
    assert [name for name in sorted(contents(output)) if name.startswith("train")] == shards
    given = ("data=tfrecord", f"data.root={output}", "data.labels_file=labels.json")
    assert open_source(compose(*given).data, "train").count == 15
    complete = contents(output)
    (output / shards[1]).write_bytes(b"damaged")
    run(*command)
    assert "5 shards, 1 of them made now" in capsys.readouterr().out
    assert contents(output) == complete
    for image in (folder / "val").rglob("*.*"):
        image.write_bytes(b"no image")
    with pytest.raises(UsageError, match="no record for validation can be used: "):
        run(*command, f"output={tmp_path / 'none'}")


def test_a_class_that_training_lacks_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog", "zebra"):
        (folder / "test" / name).mkdir(parents=True)
        (folder / "test" / name / "0.png").write_bytes(picture((20, 20), "PNG"))
    command = ("data=image_folder", f"data.root={folder}", f"output={tmp_path / 'small'}")
    with pytest.raises(UsageError, match=r"test has classes that training lacks: zebra\n") as refused:
        run(*command)
    assert not (tmp_path / "small").exists()
    (advice,) = shlex.split(str(refused.value).splitlines()[-1].partition(": ")[2])
    assert run(*command, advice) == 0
    shutil.rmtree(folder / "test" / "dog")
    with pytest.raises(UsageError, match=r"take them out of the data for test$"):
        run(*command, f"output={tmp_path / 'other'}")


@pytest.mark.parametrize("kind", ["image_folder", "table"])
def test_of_the_originals_that_part_is_evaluated_that_validated(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "images"
    rows = ["path,label"]
    for number in range(40):
        image = root / ("cat", "dog")[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture((20, 20), "PNG", number))
        rows.append(f"{image},{image.parent.name}")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "t.csv").write_text("\n".join(rows))
    place = f"data.root={root}" if kind == "image_folder" else f"data.file={tmp_path}/table/t.csv"
    run(f"data={kind}", place, f"output={tmp_path / 'small'}")
    given = ("data=tfrecord", f"data.root={tmp_path / 'small'}", "data.labels_file=labels.json")
    train = open_source(compose(*given).data, "train")
    trained = Trained(Path("run/step"), compose(*given).data, train.class_names, train.listing)
    found = open_evaluated(trained, compose(f"data={kind}", place).data, None)
    assert (found.split, found.source.count, found.source.whole) == ("validation", 4, 40)
    (tmp_path / "small" / "prepared.json").write_text("{")
    found = open_evaluated(trained, compose(f"data={kind}", place).data, None)
    assert (found.split, found.source.count) == ("test", 40)


def test_a_place_that_is_not_for_it_is_refused_and_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    for output, message in (
        (full, r"is not empty: thesis\.txt"),
        (folder / "small", r"lies in data\.root="),
        (full / "thesis.txt", "cannot be written"),
    ):
        with pytest.raises(UsageError, match=message):
            run("data=image_folder", f"data.root={folder}", f"output={output}")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("images", "cache")] == ["full"]
    assert (full / "thesis.txt").read_text() == "mine"
    for wrong in ("max_side=0", "max_side=x", "quality=101", "quality=true"):
        with pytest.raises(UsageError, match="must be an integer from 1 to"):
            run("data=image_folder", f"data.root={folder}", f"output={tmp_path / 'o'}", wrong)
    with pytest.raises(UsageError, match="another process is preparing"), prepared._writing(tmp_path / "o"):
        run("data=image_folder", f"data.root={folder}", f"output={tmp_path / 'o'}")


def test_a_network_trains_on_what_was_prepared(folder: Path, tmp_path: Path, trainer: Trainer) -> None:
    output = tmp_path / "it's small"
    said = trainer.run("prepare-data", "data=image_folder", f"data.root={folder}", f"output='{output}'", "max_side=100")
    command = shlex.split(said.splitlines()[-1])
    assert command[:4] == ["python", "-m", "trainer", "train"]
    narrow = [key for key in NARROW if not key.startswith("data.")]
    trained = trainer.run(*command[3:], f"run_dir={tmp_path / 'run'}", *narrow, "train.steps=2")
    assert "20 images to train on, 6 to validate" in trained
    assert "every record can be used" in trainer.run("check-data", *command[4:])
