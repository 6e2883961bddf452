"""Predictions from files: what a library or the range of 16 bits would do to an image is said with the file's name."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import input_table
import numpy as np
import pytest
from handmade_images import png, saved
from image_data import jpeg, write
from PIL import Image

from trainer.errors import BadRecord, UsageError
from trainer.inference.classification_report import ClassificationReport
from trainer.inference.predictor import Predictor
from trainer.monitoring.confusion import Confusion

TWELVE = np.random.Generator(np.random.PCG64(2)).integers(0, 4096, (9, 9, 1), np.uint16)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    config = input_table.configured((), Path("nowhere"), 4)
    return Predictor(input_table.echo(), ("a",), config, Path("checkpoint"), 0, "raw", input_table.echo())


def test_a_repaired_jpeg_and_a_dark_image_are_warnings_with_the_file(
    predictor: Predictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = jpeg(1)
    repaired = write(tmp_path / "padded.jpg", whole[:-2] + bytes(20) + whole[-2:])
    dark = write(tmp_path / "ct.png", png(TWELVE))
    with pytest.warns(UserWarning, match=rf"{repaired}: Corrupt JPEG data: ") as said:
        predictor.preprocess([repaired])
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match=rf"{dark}: its 16 bits use 6.1 % of the values from 0 to 65535 that the"):
        predictor.preprocess([str(dark)])
    assert "JPEG" not in capfd.readouterr().err


def test_other_files_are_read_without_a_word(
    predictor: Predictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    palette = saved(input_table.PALETTE, "PNG", transparency=bytes(range(0, 256, 4)))
    files = [palette, saved(input_table.PALETTE, "GIF", transparency=3), jpeg(1), png(TWELVE << 4)]
    paths = [write(tmp_path / f"{number}.img", data) for number, data in enumerate(files)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictor.preprocess(paths).shape[0] == len(files)
    assert capfd.readouterr().err == ""


def test_of_a_damaged_jpeg_the_error_alone_is_seen(
    predictor: Predictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "cut.jpg", jpeg(1)[:-150])
    with pytest.raises(BadRecord, match=rf"{path} cannot be decoded: "):
        predictor.preprocess([path])
    # without TensorFlow's own log, which has this level only in a process that did not import it through the program
    lines = [line for line in capfd.readouterr().err.splitlines() if "local_rendezvous" not in line]
    assert lines == []


def test_every_way_to_give_an_image_takes_the_path_of_its_file(predictor: Predictor, tmp_path: Path) -> None:
    colours = np.random.Generator(np.random.PCG64(5)).integers(0, 256, (7, 9, 4), np.uint8)
    ways = {"L": colours[..., 0], "RGB": colours[..., :3], "RGBA": colours}
    for mode, pixels in ways.items():
        picture = Image.fromarray(pixels)
        assert picture.mode == mode
        path = tmp_path / f"{mode}.png"
        picture.save(path)
        expected = predictor.preprocess([path])
        for given in ([pixels], [picture], pixels[np.newaxis] if pixels.ndim == 3 else [pixels[..., np.newaxis]]):
            assert np.array_equal(predictor.preprocess(given), expected), mode
    deep = write(tmp_path / "deep.png", png(TWELVE << 4))
    palette = write(tmp_path / "p.png", saved(input_table.PALETTE, "PNG", transparency=bytes(range(0, 256, 4))))
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[input_table.ORIENTATION] = 6
    Image.fromarray(colours[..., :3]).save(turned, exif=exif)
    for path in (deep, palette, turned):
        with Image.open(path) as picture:
            assert np.array_equal(predictor.preprocess([picture]), predictor.preprocess([path])), path
    with Image.open(turned) as picture:  # it keeps its EXIF
        assert np.array_equal(predictor.preprocess([picture.convert("RGB")]), predictor.preprocess([turned]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros([4, 4, 3], np.uint8), r"ndarray \[4, 4, 3\] is one image; give a list: \[image\]"),
        (Image.new("RGB", (4, 4)), r"Image is one image; give a list"),
        ([np.zeros([4, 4, 2], np.uint8)], r"an image is uint8 \[4, 4, 2\], but must be a path, an image of Pillow"),
        ([np.zeros([4, 4, 3], np.float32)], r"an image is float32 \[4, 4, 3\]"),
        ([Image.new("F", (4, 4))], "4 x 4 pixels of the mode F, which has no one meaning as a picture"),
    ],
)
def test_what_could_mean_several_things_is_refused(predictor: Predictor, images: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predictor.predict(images)


def test_a_notebook_shows_a_few_lines_with_every_text_escaped(predictor: Predictor) -> None:
    hostile = "<script>alert('x')</script>&"
    named = dataclasses.replace(predictor, checkpoint=Path(hostile))
    report = ClassificationReport(
        (hostile, "b"), 3, 1, 0.5, 0.25, None, 0.375, 0.625, math.nan, 0.125, (2, 1), Confusion({(0, 1): 2})
    )
    for each in (named, report):
        shown = each._repr_html_()
        assert "<script>" not in shown
        assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;" in shown
        assert len(repr(each).splitlines()) == 1
        assert len(repr(each)) < 200
    assert repr(report) == (
        "<ClassificationReport: 3 examples of 2 classes, loss 0.5000, accuracy 0.2500, "
        "macro F1 0.3750, balanced accuracy 0.6250, expected calibration error 0.1250>"
    )
    assert "<td>loss not finite, counted as wrong</td><td>1</td>" in report._repr_html_()
