"""The pictures of mistakes show what evaluation read, not what another program would show."""

from __future__ import annotations

import numpy as np
import pytest
from composing import compose
from handmade_images import png, saved, tiff
from PIL import Image

from trainer.monitoring.pictures import CAPTION, SIDE, sheet, thumbnail
from trainer.monitoring.tensorboard import mixed_caption

HIDDEN = np.full((8, 8, 4), (200, 30, 40, 0), np.uint8)  # a colour that alpha hides
DEEP = np.full((8, 8, 1), 4095, np.uint16)
HALVES = Image.fromarray(np.repeat([[[255] * 3], [[0] * 3]], 8, 0).repeat(16, 1).astype(np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 3


def corner(data: bytes, *overrides: str) -> tuple[int, ...]:
    found = thumbnail(data, compose(*overrides).preprocess)
    assert found is not None
    assert max(found.size) == SIDE
    return tuple(found.getpixel((0, 0)))


@pytest.mark.parametrize(
    ("background", "shown"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("[9,8,7]", (9, 8, 7)), ("none", (200, 30, 40))],
)
@pytest.mark.parametrize("data", [png(HIDDEN), tiff(HIDDEN)], ids=["PNG", "TIFF"])
def test_transparent_parts_have_the_background_of_the_run(data: bytes, background: str, shown: tuple[int, ...]) -> None:
    assert corner(data, f"preprocess.background={background}") == shown


@pytest.mark.parametrize("data", [png(DEEP), tiff(DEEP)], ids=["PNG", "TIFF"])
def test_sixteen_bits_are_as_bright_as_for_the_network(data: bytes) -> None:
    assert corner(data) == (15, 15, 15)
    assert corner(data, "preprocess.sixteen_bit_range=[0,4095]") == (255, 255, 255)


def test_a_picture_is_turned_where_evaluation_turns_it() -> None:
    upside_down = saved(HALVES, "PNG", exif=TURNED.tobytes())
    assert corner(upside_down) == (0, 0, 0)
    assert corner(upside_down, "preprocess.orientation=jpeg") == (255, 255, 255)  # stored runs turn JPEG alone


def test_a_palette_with_transparency_causes_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    palette = Image.fromarray(HIDDEN[..., :3]).quantize(2)
    assert corner(saved(palette, "PNG", transparency=bytes(2))) == (255, 255, 255)
    assert [str(each.message) for each in recwarn] == []


@pytest.mark.parametrize("data", [b"", b"no image", png(HIDDEN)[:60]], ids=["empty", "text", "cut off"])
def test_what_cannot_be_read_has_no_picture(data: bytes) -> None:
    assert thumbnail(data, compose().preprocess) is None


def test_a_mixed_image_has_a_line_for_each_of_its_classes() -> None:
    caption = mixed_caption("golden retriever", 0.626, "tabby cat")
    assert caption == "63 % golden retriever\n37 % tabby cat"
    own = caption.partition("\n")[0]
    image = Image.new("RGB", (SIDE, SIDE))
    one, two = sheet([image], [own]), sheet([image], [caption])
    assert two.shape[0] == one.shape[0] + CAPTION
    assert (two[-CAPTION:] < 128).any(), "the second line is there"
    assert (two[: one.shape[0] - CAPTION // 2] == one[: -(CAPTION // 2)]).all(), "and the first is as it was"
