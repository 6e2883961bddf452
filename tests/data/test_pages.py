"""Files with several pages or frames, of which the first is read, are counted and named."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from handmade_images import saved
from image_data import folder_source, make_splits, write
from PIL import Image

from trainer.__main__ import run
from trainer.data.images.pages import pages
from trainer.data.several_pages import pages_note
from trainer.data.sources.sample import spread
from trainer.run.suitability import LOOKED_AT

COLOURS = ("red", "green", "blue")
FIRST, *OTHERS = [Image.new("RGB", (40, 30), colour) for colour in COLOURS]


def several(kind: str, **options: object) -> bytes:
    return saved(FIRST, kind, save_all=True, append_images=[each.copy() for each in OTHERS], **options)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (saved(FIRST, "TIFF"), 1),
        (several("TIFF"), 3),
        (several("TIFF", compression="tiff_lzw"), 3),
        (several("GIF"), 3),
        (saved(FIRST, "GIF"), 1),
        (several("PNG"), 3),
        (saved(FIRST, "PNG"), 1),
        (several("WebP", lossless=True), 3),
        (saved(FIRST.convert("RGBA"), "WebP"), 1),
        (saved(FIRST, "BMP"), 1),
        (several("MPO"), 1),
        (b"", 1),
        (b"II*\0", 1),
        (b"not an image at all", 1),
    ],
)
def test_pages_and_frames_are_counted(data: bytes, count: int) -> None:
    assert pages(data) == count


@pytest.mark.parametrize(
    ("tag", "kinds", "count"),
    [
        (254, (0, 1, 1), 1),  # a pyramid
        (254, (0, 2, 2), 3),  # pages of a document
        (254, (0, 4, 1), 1),  # a mask, and a smaller copy
        (254, (1, 0, 0), 3),  # the first is a preview, and it is the one that is read
        (255, (1, 2, 2), 1),
    ],
)
@pytest.mark.parametrize("order", ["II", "MM"])
def test_a_smaller_copy_of_a_page_and_a_mask_are_no_pages(
    tag: int, kinds: tuple[int, ...], count: int, order: str
) -> None:
    form, begin = ("<", b"II*\0") if order == "II" else (">", b"MM\0*")
    directories, place = b"", 8
    for number, kind in enumerate(kinds):
        following = place + 18 if number < len(kinds) - 1 else 0
        directories += struct.pack(f"{form}HHHIII", 1, tag, 4, 1, kind, following)
        place += 18
    assert pages(begin + struct.pack(f"{form}I", 8) + directories) == count


def test_pages_in_a_loop_or_cut_off_end() -> None:
    loop = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 254, 4, 1, 0, 8)
    assert pages(loop) == 1
    for cut in range(0, len(several("TIFF")), 7):
        assert pages(several("TIFF")[:cut]) in (1, 2, 3)


def page(data: bytes, number: int) -> bytes:
    """One page of a TIFF as a file of its own, as the documents advise."""
    with Image.open(io.BytesIO(data)) as image:
        image.seek(number)
        return saved(image.convert("RGB"), "TIFF")


def test_check_data_names_them_and_a_new_run_warns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_splits(tmp_path)

    def note() -> str | None:
        source = folder_source(root)
        return pages_note(source, spread(source, LOOKED_AT))

    assert note() is None
    write(root / "train" / "cat" / "stack.tif", several("TIFF"))
    write(root / "train" / "ox" / "film.gif", several("GIF"))
    write(root / "val" / "ox" / "film.webp", several("WebP", lossless=True))
    assert run(["check-data", "data=image_folder", f"data.root={root}"]) == 0
    output = capfd.readouterr().out
    title = "files with several pages or frames in {}, of which only the first is read: {}\n"
    assert title.format("train", 2) in output
    assert "  train/cat/stack.tif (record 4): 3\n  train/ox/film.gif (record 13): 3\n" in output
    assert f"{title.format('validation', 1)}  val/ox/film.webp" in output
    said = note()
    assert said is not None
    assert said.startswith("2 of 14 training images looked at have several pages or frames, of which only the first is")
    assert f"{root}/train/cat/stack.tif (record 4), with 3; check-data names all" in said
    for number in range(3):
        write(root / "train" / "cat" / f"stack {number}.tif", page(several("TIFF"), number))
    for place in ("cat/stack.tif", "ox/film.gif"):
        (root / "train" / place).unlink()
    assert note() is None
