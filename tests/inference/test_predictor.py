"""Predictions from files: what a library or the range of 16 bits would do to an image is said with the file's name."""

from __future__ import annotations

import warnings
from pathlib import Path

import input_table
import numpy as np
import pytest
from handmade_images import png, saved
from image_data import jpeg, write

from trainer.errors import BadRecord
from trainer.inference.predictor import Predictor

TWELVE = np.random.Generator(np.random.PCG64(2)).integers(0, 4096, (9, 9, 1), np.uint16)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    config = input_table.configured((), Path("nowhere"), 4)
    return Predictor(input_table.echo(), ("a",), config, Path("checkpoint"), 0, "raw")


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
