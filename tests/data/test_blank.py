"""Images of a single colour are found by check-data and, when they are many, named at the start of a run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from composing import compose
from image_data import folder_source, jpeg, make_splits, write
from PIL import Image

from trainer.__main__ import run
from trainer.data.blank import blank_note
from trainer.data.images.examination import is_blank
from trainer.data.sources.sample import spread
from trainer.run.suitability import LOOKED_AT

CONFIG = compose().preprocess


def blank(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(buffer, "PNG")
    return buffer.getvalue()


def note_of(root: Path) -> str | None:
    source = folder_source(root)
    return blank_note(source, spread(source, LOOKED_AT), CONFIG)


def test_one_other_pixel_is_enough() -> None:
    pixels = np.full([4, 5, 3], 7, np.uint8)
    assert is_blank(pixels)
    pixels[3, 4, 2] = 8
    assert not is_blank(pixels)
    colour = np.zeros([2, 2, 3], np.uint8)
    colour[:] = (1, 2, 3)
    assert is_blank(colour)


def test_a_run_is_warned_when_half_of_the_images_are_blank(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    paths = sorted(path for path in (root / "train").rglob("*.*") if path.is_file())
    assert len(paths) == 12
    for number, path in enumerate(paths[:5]):
        path.write_bytes(blank((number, 0, 0)))
    assert note_of(root) is None
    paths[5].write_bytes(blank((9, 9, 9)))
    note = note_of(root)
    assert note is not None
    assert note.startswith("6 of 12 training images looked at have a single colour")
    assert f"the first {paths[0]} (record 0)" in note
    for path in paths[6:9]:  # what cannot be decoded is neither
        path.write_bytes(jpeg(3)[:40])
    note = note_of(root)
    assert note is not None
    assert note.startswith("6 of 9 ")


def test_check_data_names_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_splits(tmp_path)
    write(root / "train" / "dog" / "white.png", blank((255, 255, 255)))
    assert run(["check-data", "data=image_folder", f"data.root={root}"]) == 0
    output = capsys.readouterr().out
    assert (
        "images of a single colour in train, from which nothing can be learned: 1\n  train/dog/white.png (record 8)\n"
        in output
    )
    assert "single colour in validation" not in output
