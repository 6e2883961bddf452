"""The rules for pixel values: exact, and the same in Python, in the graph and in Pillow."""

from __future__ import annotations

import dataclasses
import io
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from composing import compose
from documents import ROOT
from handmade_images import png, saved, tiff
from PIL import Image

from trainer.config import stored
from trainer.config.additions import with_additions
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import OTHER, RULED_PNG, decode, decode_window, encoded_image, fault, readable
from trainer.data.images.pixels import (
    PixelRules,
    composited,
    eight_bits,
    flattened,
    png_follows_rules,
    png_has_alpha,
    png_needs_rules,
    rules_of,
)
from trainer.errors import UsageError

RANDOM = np.random.Generator(np.random.PCG64(6))
PICTURE = RANDOM.integers(0, 256, (9, 7, 4), np.uint8)
DEEP = RANDOM.integers(0, 65536, (9, 7, 4), np.uint16)


COMPOSED = compose().preprocess
Background = Literal["none", "white"] | tuple[int, int, int]
Levels = tuple[int, int] | None
BACKGROUNDS: tuple[Background, ...] = ("none", "white", (3, 120, 250))


def config(background: Background = "none", levels: Levels = None) -> PreprocessConfig:
    return dataclasses.replace(COMPOSED, background=background, sixteen_bit_range=levels)


def decoded(data: bytes, background: Background = "none", levels: Levels = None) -> np.ndarray:
    rules = config(background, levels)
    return np.asarray(decode(encoded_image(data, rules), rules))


@pytest.mark.parametrize("background", [0, 1, 77, 128, 255])
def test_compositing_is_pillows_for_every_colour_and_every_alpha(background: int) -> None:
    colour, alpha = (values.astype(np.int32)[..., np.newaxis] for values in np.mgrid[0:256, 0:256])
    over = Image.fromarray(np.concatenate([colour, colour, colour, alpha], -1).astype(np.uint8))
    expected = Image.alpha_composite(Image.new("RGBA", over.size, (background,) * 3 + (255,)), over)
    ours = composited(np.repeat(colour, 3, -1), alpha, np.full(3, background, np.int32))
    assert (ours == np.asarray(expected)[..., :3]).all()
    graph = composited(tf.constant(np.repeat(colour, 3, -1)), tf.constant(alpha), tf.fill([3], background))
    assert (graph.numpy() == ours).all()


def test_sixteen_bits_become_eight_in_equal_steps() -> None:
    every = np.arange(65536, dtype=np.int32)
    for darkest, lightest, expected in (
        (0, 65535, every >> 8),
        (0, 4095, np.minimum(every, 4095) >> 4),
        (0, 255, np.minimum(every, 255)),
        (1000, 3047, np.clip(every - 1000, 0, 2047) >> 3),
        (0, 1, np.minimum(every, 1) * 255),
        (10, 110, np.clip(every - 10, 0, 100) * 255 // 100),
    ):
        rules = PixelRules(None, darkest, lightest)
        assert (eight_bits(every, rules) == expected).all()
        assert (eight_bits(tf.constant(every), rules).numpy() == expected).all()


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_and_a_tiff_of_sixteen_bits_have_the_same_pixels_in_every_range(
    channels: int, background: Background
) -> None:
    samples = DEEP[..., 4 - channels :]
    for levels in (None, (0, 4095), (20000, 40000)):
        found = decoded(png(samples), background, levels)
        extra = 2 if channels in (2, 4) else None
        assert (found == decoded(tiff(samples, extra=extra), background, levels)).all()
        rules = rules_of(config(background, levels))
        colour = samples if extra is None else samples[..., :-1]
        expected = eight_bits(np.repeat(colour, 3 // colour.shape[-1], -1).astype(np.int32), rules)
        if rules.background is not None and extra is not None:
            alpha = samples[..., -1:].astype(np.int32) // 256
            expected = composited(expected, alpha, np.array(rules.background, np.int32))
        assert (found == expected).all()


def test_a_range_changes_no_image_of_eight_bits() -> None:
    for data in (png(PICTURE), png(PICTURE[..., :3]), saved(Image.fromarray(PICTURE[..., :3]), "TIFF")):
        assert (decoded(data, "white", (0, 4095)) == decoded(data, "white")).all()


def test_a_colour_key_of_sixteen_bits_is_compared_in_all_of_them() -> None:
    near = np.full((2, 2, 3), 0x1234, np.uint16)
    near[0, 0] = 0x1200  # the same upper bits
    assert decoded(png(near, key=(0x1234,) * 3), "white").tolist() == [[[0x12] * 3, [255] * 3], [[255] * 3] * 2]


def test_values_of_twelve_bits_are_seen_with_their_range() -> None:
    twelve = (PICTURE[..., :1].astype(np.uint16) << 4) + 5
    expected = np.repeat(PICTURE[..., :1], 3, -1)
    for data in (png(twelve), tiff(twelve), tiff(twelve, order=">", deflated=True, predictor=2)):
        assert decoded(data).max() < 16  # black
        assert (decoded(data, levels=(0, 4095)) == expected).all()


@pytest.mark.parametrize("length", [20, 24, 25, 26, 30, 60])
def test_a_png_that_ends_early_is_refused(length: int) -> None:
    for background in BACKGROUNDS:
        assert fault(png(DEEP)[:length], config(background, (0, 4095))) is not None


def test_a_window_of_a_png_with_alpha_has_the_pixels_of_the_whole() -> None:
    rules = config("white")
    encoded = encoded_image(png(PICTURE), rules)
    whole = decode(encoded, rules).numpy()
    for top, left, height, width in ((0, 0, 1, 1), (2, 3, 4, 2), (8, 6, 1, 1)):
        part = decode_window(encoded, tf.constant([top, left, height, width]), rules).numpy()
        assert (part == whole[top : top + height, left : left + width]).all()


PNGS = {
    # (the file, may it be transparent, has it 16 bits)
    "colour": (png(PICTURE[..., :3]), False, False),
    "alpha": (png(PICTURE), True, False),
    "grey and alpha": (png(PICTURE[..., 2:]), True, False),
    "colour key": (png(PICTURE[..., :3], key=(1, 2, 3)), True, False),
    "palette": (saved(Image.fromarray(PICTURE[..., :3]).quantize(14), "PNG"), False, False),
    "palette with transparency": (
        saved(Image.fromarray(PICTURE[..., :3]).quantize(4), "PNG", transparency=1),
        True,
        False,
    ),
    "1 bit": (saved(Image.fromarray(PICTURE[..., 0]).convert("1"), "PNG"), False, False),
    "16 bits": (png(DEEP[..., :3]), False, True),
    "16 bits and alpha": (png(DEEP), True, True),
    "JPEG": (saved(Image.fromarray(PICTURE[..., :3]), "JPEG"), False, False),
}


@pytest.mark.parametrize("name", PNGS)
def test_what_a_graph_finds_in_a_png_is_what_python_finds(name: str) -> None:
    data, transparent, deep = PNGS[name]
    if name != "JPEG":
        assert png_has_alpha(data) == transparent
    for background in BACKGROUNDS[:2]:
        for levels in (None, (0, 4095)):
            rules = rules_of(config(background, levels))
            expected = (transparent and background == "white") or (deep and levels is not None)
            assert bool(png_follows_rules(tf.constant(data), rules)) == expected
            if name != "JPEG":
                assert png_needs_rules(data, rules) == expected
                assert readable(data, config(background, levels))[1][3] == (RULED_PNG if expected else OTHER)


def test_pillow_is_asked_for_nothing_that_it_warns_of(recwarn: pytest.WarningsRecorder) -> None:
    palette = Image.fromarray(PICTURE[..., :3]).quantize(16)
    for kind in ("PNG", "GIF", "TIFF"):
        transparency = 3 if kind == "GIF" else bytes(range(0, 256, 16))
        image = Image.open(io.BytesIO(saved(palette, kind, transparency=transparency)))
        for background in (None, (255, 255, 255)):
            flattened(image, PixelRules(background, 0, 65535))
    assert [str(each.message) for each in recwarn] == []


def test_a_run_that_was_stored_without_the_keys_drops_alpha_and_reads_the_same_files() -> None:
    config = stored.read(ROOT / "tests" / "formats" / "2" / "config.yaml")
    assert rules_of(config.preprocess) == PixelRules(None, 0, 65535)
    assert rules_of(COMPOSED) == PixelRules((255, 255, 255), 0, 65535)
    folder = with_additions({"data": {"name": "image_folder"}})["data"]
    assert folder["extensions"] == ["bmp", "gif", "jpeg", "jpg", "png", "webp"]
    assert "extensions" not in with_additions({"data": {"name": "tfrecord"}})["data"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("preprocess.background=grey", r"preprocess.background is 'grey', but must be one of white, black, none, or a"),
        ("preprocess.background=[1,2]", r"preprocess.background has 2 entries, but must have 3"),
        (
            "preprocess.background=[1,2,256]",
            r"preprocess.background\[2\] is 256, but must be at least 0 and at most 255",
        ),
        ("preprocess.background=[1,2,0.5]", r"preprocess.background\[2\] is 0.5, but must be an integer"),
        (
            "preprocess.sixteen_bit_range=[9,9]",
            r"preprocess.sixteen_bit_range is \[9, 9\], but must be \[black, white\]",
        ),
        ("preprocess.sixteen_bit_range=[0]", r"preprocess.sixteen_bit_range has 1 entries, but must have 2"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(argument: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose(argument)
