"""TIFF of 16 bits a channel: the samples that were stored, whatever the layout of the file."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
from composing import compose
from handmade_images import saved, tiff
from PIL import Image, ImageOps

from trainer.data.images.decoding import readable
from trainer.data.images.headers import ImageFault, read_header
from trainer.data.images.tiff import sixteen_bit_samples

SAMPLES = np.random.Generator(np.random.PCG64(7)).integers(0, 65536, (6, 8, 4), np.uint16)
CONFIG = compose().preprocess
ORIENTATION = 274
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {},
    "deflated": {"deflated": True},
    "differences": {"deflated": True, "predictor": 2},
    "a predictor that does not count": {"tags": {317: 2}},  # without compression
    "tiles": {"tile": 4},
    "tiles of differences": {"tile": 4, "deflated": True, "predictor": 2},
}


def turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """By Pillow, through the numbers of the pixels."""
    numbers = Image.fromarray(np.arange(samples.shape[0] * samples.shape[1], dtype=np.int32).reshape(samples.shape[:2]))
    numbers.getexif()[ORIENTATION] = orientation
    return samples.reshape(-1, samples.shape[-1])[np.asarray(ImageOps.exif_transpose(numbers))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_samples_are_those_that_were_stored(layout: str) -> None:
    for order, channels in itertools.product("<>", (1, 2, 3, 4)):
        samples = SAMPLES[..., :channels]
        colour, alpha = sixteen_bit_samples(
            tiff(samples, order=order, extra=2 if channels in (2, 4) else None, **LAYOUTS[layout])
        )
        assert (colour == samples[..., : 3 if channels > 2 else 1]).all()
        assert (alpha is None) == (channels in (1, 3))
        assert alpha is None or (alpha == samples[..., -1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_pillow_turns_it(orientation: int) -> None:
    xmp = f'<x tiff:Orientation="{orientation}"/>'.encode()
    expected = turned(SAMPLES, orientation)
    for data in (tiff(SAMPLES, extra=2, tags={ORIENTATION: orientation}), tiff(SAMPLES, extra=2, xmp=xmp)):
        colour, alpha = sixteen_bit_samples(data)
        assert alpha is not None
        assert (np.concatenate([colour, alpha[..., np.newaxis]], -1) == expected).all()
        header = read_header(data, "all")
        assert (header.height, header.width) == expected.shape[:2]


def test_white_may_be_zero_and_colours_may_be_multiplied_by_alpha() -> None:
    colour, _ = sixteen_bit_samples(tiff(SAMPLES[..., :1], photometric=0))
    assert (colour == 65535 - SAMPLES[..., :1]).all()
    alpha = np.maximum(SAMPLES[..., 3:], 1).astype(np.int64)
    multiplied = (SAMPLES[..., :3].astype(np.int64) * alpha // 65535).astype(np.uint16)
    samples = np.concatenate([multiplied, alpha.astype(np.uint16)], -1)
    colour, _ = sixteen_bit_samples(tiff(samples, extra=1))
    assert (np.abs(colour.astype(np.int64) - SAMPLES[..., :3]) <= 65535 // alpha + 1).all()
    _, unknown = sixteen_bit_samples(tiff(SAMPLES, extra=0))  # a fourth channel that is not said to be alpha
    assert unknown is None


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_what_pillow_writes_is_read(compression: str) -> None:
    grey = SAMPLES[..., 0]
    for options in ({}, {"tiffinfo": {317: 2}}):
        colour, _ = sixteen_bit_samples(saved(Image.fromarray(grey), "TIFF", compression=compression, **options))
        assert (colour[..., 0] == grey).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(SAMPLES[..., :1], tags={339: 2}), "a TIFF of signed integers"),
        (tiff(SAMPLES[..., :3], tags={284: 2}), "neither grey nor RGB, or has its channels apart"),
        (tiff(SAMPLES, photometric=5), "neither grey nor RGB"),
        (tiff(SAMPLES[..., :1], photometric=34892), "colours of kind 34892"),
        (tiff(SAMPLES)[:40], "does not say what its values mean|ends inside its header"),
        (b"II\x2b\0\x08\0\0\0", "BigTIFF, which is not read"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ImageFault, match=reason):
        read_header(data, "all")


def test_no_damage_escapes_as_another_error() -> None:
    whole = tiff(SAMPLES, extra=2, deflated=True, predictor=2, tags={ORIENTATION: 6})
    random = np.random.Generator(np.random.PCG64(8))
    for _ in range(300):
        changed = bytearray(whole)
        for place in random.integers(4, min(len(whole), 260), 2):
            changed[place] = random.integers(256)
        with contextlib.suppress(ImageFault):
            readable(bytes(changed), CONFIG)
