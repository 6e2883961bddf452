"""Images of 16 bits that leave most of their range unused: refused at the start of a run, said everywhere else."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from composing import compose
from handmade_images import png, tiff
from image_data import folder_source, jpeg, make_splits, write

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import decode_file
from trainer.data.images.examination import Findings, examine, sixteen_bit_values
from trainer.data.sixteen_bits import check_range, dark, setting, shown, suggested, used_by
from trainer.errors import UsageError

COMPOSED = compose().preprocess
NOISE = np.random.Generator(np.random.PCG64(9)).integers(0, 256, (10, 12, 1)).astype(np.uint16)


def ranged(levels: tuple[int, int] | None) -> PreprocessConfig:
    return dataclasses.replace(COMPOSED, sixteen_bit_range=levels)


def folder(root: Path, scale: int, offset: int = 0) -> Path:
    """Four images of 16 bits for training, three PNG and a TIFF, among JPEG."""
    make_splits(root)
    samples = NOISE * np.uint16(scale) + np.uint16(offset)
    for number in range(3):
        write(root / "train" / "cat" / f"deep{number}.png", png(samples))
    write(root / "train" / "ox" / "deep.tif", tiff(samples, order=">"))
    return root


def test_the_values_are_those_of_the_colours_alone() -> None:
    with_alpha = np.concatenate([NOISE + np.uint16(7), np.full_like(NOISE, 65535)], -1)
    for data in (png(NOISE + np.uint16(7)), png(with_alpha), tiff(NOISE + np.uint16(7)), tiff(with_alpha, extra=2)):
        assert sixteen_bit_values(data) == (NOISE.min() + 7, NOISE.max() + 7)
    assert sixteen_bit_values(jpeg(1)) is None
    assert sixteen_bit_values(png(NOISE.astype(np.uint8))) is None


@pytest.mark.parametrize(
    ("scale", "offset", "levels"),
    [(1, 0, [0, 255]), (16, 0, [0, 4095]), (4, 32768, [32768 + 4 * int(NOISE.min()), 32768 + 4 * int(NOISE.max())])],
)
def test_a_new_run_on_almost_one_shade_is_refused_with_a_setting_that_works(
    scale: int, offset: int, levels: list[int], tmp_path: Path
) -> None:
    source = folder_source(folder(tmp_path, scale, offset))
    with pytest.raises(
        UsageError, match=r"images of 16 bits use .* \(4 of 16 records looked at, the lightest "
    ) as said:
        check_range(source, ranged(None), new=True)
    message = str(said.value)
    assert str(tmp_path / "train") in message
    used = used_by(source)
    assert used is not None
    assert suggested(used) == levels
    assert setting(used) in message
    (argument,) = shlex.split(setting(used))
    assert check_range(source, compose(argument).preprocess, new=True) == []
    as_they_are = shlex.split(message.rpartition(" or ")[2].partition(" to train")[0])[0]
    (warning,) = check_range(source, compose(as_they_are).preprocess, new=True)
    assert setting(used) in warning
    (warning,) = check_range(source, ranged(None), new=False)  # a stored run goes on, as before
    assert setting(used) in warning


@pytest.mark.parametrize(("scale", "said"), [(257, 0), (140, 0), (64, 1), (33, 1)])
def test_a_range_that_is_used_in_part_is_a_warning_and_a_full_one_is_nothing(
    scale: int, said: int, tmp_path: Path
) -> None:
    assert len(check_range(folder_source(folder(tmp_path, scale)), ranged(None), new=True)) == said


def test_a_range_beside_the_values_is_a_warning(tmp_path: Path) -> None:
    source = folder_source(folder(tmp_path, 16))
    (warning,) = check_range(source, ranged((40000, 65535)), new=True)
    assert "images of 16 bits use 0 % of the values from 40000 to 65535: " in warning


def test_a_range_that_most_values_lie_outside_of_is_a_warning(tmp_path: Path) -> None:
    source = folder_source(folder(tmp_path, 16))
    (warning,) = check_range(source, ranged((0, 255)), new=True)
    values = f"{16 * int(NOISE.min())} to {16 * int(NOISE.max())}"
    assert f" % of the values of images of 16 bits, {values}, lie outside of " in warning
    assert check_range(source, ranged((0, 3000)), new=True) == []


def test_a_hot_pixel_makes_no_range(tmp_path: Path) -> None:
    """One pixel of 65535 in a dark image: the other 2,499 are black all the same."""
    samples = np.random.Generator(np.random.PCG64(9)).integers(0, 4096, (50, 50, 1)).astype(np.uint16)
    samples[7, 7] = 65535
    for data in (png(samples), tiff(samples)):
        values = sixteen_bit_values(data)
        assert values is not None
        assert values[1] < 4096
    make_splits(tmp_path)
    write(tmp_path / "train" / "cat" / "deep.png", png(samples))
    with pytest.raises(UsageError, match=r"images of 16 bits use 6.2 % of .* thousandth of their pixels do not count"):
        check_range(folder_source(tmp_path), ranged(None), new=True)


def test_a_share_is_shown_in_two_digits() -> None:
    assert [shown(share) for share in (1.0, 0.996, 0.062, 0.0039)] == ["100 %", "100 %", "6.2 %", "0.39 %"]


def test_images_of_eight_bits_and_damaged_ones_have_no_part_in_it(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    write(root / "train" / "cat" / "cut.png", png(NOISE)[:60])
    write(root / "train" / "cat" / "text.png", b"none")
    source = folder_source(root)
    assert used_by(source) is None
    assert check_range(source, ranged(None), new=True) == []


def test_a_single_dark_image_is_said_with_the_range_that_the_network_knows() -> None:
    (said,) = dark(png(NOISE), ranged(None))
    assert "use 0.39 % of the values from 0 to 65535 that the network was trained with" in said
    assert dark(png(NOISE), ranged((0, 255))) == []
    assert dark(jpeg(1), ranged(None)) == []


def examined(data: bytes, config: PreprocessConfig) -> Findings:
    return examine(data, decode_file(data, config).numpy(), config)


def test_transparency_is_found_where_a_pixel_has_it_and_blank_where_nothing_is_left() -> None:
    white = np.full((4, 4, 4), 255, np.uint8)
    glyph, opaque = white.copy(), np.array(white)
    glyph[1:, :, 3] = 0
    glyph[..., :3] = np.where(glyph[..., 3:] == 0, 9, 255)
    rules = dataclasses.replace(COMPOSED, background="white")
    black = dataclasses.replace(COMPOSED, background="black")
    assert examined(png(opaque), rules) == Findings(False, False, None, (), pages=1)
    assert examined(png(glyph), rules) == Findings(True, True, None, (), pages=1)  # white on white
    assert examined(png(glyph), black) == Findings(True, False, None, (), pages=1)
    deep = glyph.astype(np.uint16) * 257
    for data in (png(deep), tiff(deep, extra=2)):
        assert examined(data, rules) == Findings(True, True, (9 * 257, 65535), (), pages=1)
    assert examined(jpeg(1), rules) == Findings(False, False, None, (), pages=1)
    assert examined(bytes(tf.io.encode_png(opaque[..., :3]).numpy()), rules) == Findings(
        False, False, None, (), pages=1
    )
