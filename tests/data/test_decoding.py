"""Every image that people have is decoded as Pillow does, whole or a window of it; what is no image is named."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from composing import compose
from PIL import Image, ImageOps

from trainer.data.images.decoding import cut, decode, decode_window, encoded_image, fault
from trainer.data.images.draw import Draw
from trainer.data.images.headers import MAX_PIXELS
from trainer.data.images.transforms import TRANSFORMS, apply_transforms

CONFIG = compose().preprocess
WIDTH, HEIGHT = 53, 41
ORIENTATION_TAG = 0x0112


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    coarse = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def rotated(orientation: int, byte_order: str = "<", **options: object) -> bytes:
    """A JPEG whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif.endian = byte_order
    exif[ORIENTATION_TAG] = orientation
    return saved(picture(), "JPEG", exif=exif.tobytes(), **options)


RGB, GREY, PALETTE = picture(), picture().convert("L"), picture().quantize(64)
SIXTEEN_BITS = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 255 + 77)
CMYK = saved(RGB.convert("CMYK"), "JPEG")
OTHERS = [RGB.transpose(Image.Transpose.FLIP_LEFT_RIGHT), RGB.transpose(Image.Transpose.ROTATE_180)]

FORMATS = {
    "JPEG": saved(RGB, "JPEG"),
    "JPEG, colour in full": saved(RGB, "JPEG", subsampling=0),
    "JPEG, colour halved in width": saved(RGB, "JPEG", subsampling=1),
    "JPEG, colour quartered in width": saved(RGB, "JPEG", subsampling="4:1:1"),
    "JPEG, grey": saved(GREY, "JPEG"),
    "JPEG, progressive": saved(RGB, "JPEG", progressive=True),
    "JPEG, stored as RGB": saved(RGB, "JPEG", keep_rgb=True),
    "JPEG, CMYK inverted by Adobe": CMYK,
    "JPEG, CMYK progressive": saved(RGB.convert("CMYK"), "JPEG", progressive=True),
    "JPEG, YCCK": CMYK.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"),  # the transform of the APP14 segment
    "JPEG of several pictures": saved(RGB, "MPO", save_all=True, append_images=OTHERS),
    "PNG": saved(RGB, "PNG"),
    "PNG, grey": saved(GREY, "PNG"),
    "PNG, 1 bit": saved(RGB.convert("1"), "PNG"),
    "PNG, 16 bits": saved(SIXTEEN_BITS, "PNG"),
    "PNG, alpha": saved(with_alpha(RGB), "PNG"),
    "PNG, grey and alpha": saved(with_alpha(GREY), "PNG"),
    "PNG, palette": saved(PALETTE, "PNG"),
    "PNG, palette with transparency": saved(PALETTE, "PNG", transparency=3),
    "PNG, transparent colour": saved(RGB, "PNG", transparency=RGB.getpixel((5, 5))),
    "GIF": saved(PALETTE, "GIF"),
    "GIF, transparency": saved(PALETTE, "GIF", transparency=3),
    "GIF, several frames": saved(PALETTE, "GIF", save_all=True, append_images=[each.quantize(64) for each in OTHERS]),
    "WebP": saved(RGB, "WEBP"),
    "WebP, lossless": saved(RGB, "WEBP", lossless=True),
    "WebP, alpha": saved(with_alpha(RGB), "WEBP", lossless=True, exact=True),
    "WebP, lossy with alpha": saved(with_alpha(RGB), "WEBP"),
    "WebP, metadata": saved(RGB, "WEBP", icc_profile=b"none"),
    "WebP, several frames": saved(RGB, "WEBP", save_all=True, append_images=OTHERS, lossless=True),
    "BMP": saved(RGB, "BMP"),
    "BMP, grey": saved(GREY, "BMP"),
    "BMP, palette": saved(PALETTE, "BMP"),
    "BMP, 1 bit": saved(RGB.convert("1"), "BMP"),
    "BMP, 32 bits": saved(with_alpha(RGB), "BMP"),
    "JPEG of one pixel": saved(picture(1, 1), "JPEG"),
    "PNG of one pixel": saved(picture(1, 1), "PNG"),
    "GIF of one pixel": saved(picture(1, 1), "GIF"),
}
ROUNDED = {name: 1 for name in FORMATS if "CMYK" in name or "YCCK" in name}  # how ink becomes light


def by_pillow(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":  # Pillow would cut off instead of scaling
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., np.newaxis], 3, -1)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_is_decoded_as_pillow_decodes_it(name: str) -> None:
    decoded = decode(encoded_image(FORMATS[name], CONFIG))
    assert decoded.dtype == tf.uint8
    expected = by_pillow(FORMATS[name])
    assert decoded.shape == expected.shape
    difference = np.abs(decoded.numpy().astype(int) - expected.astype(int)).max()
    assert difference <= (ROUNDED[name] if name in ROUNDED else 0)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_says(orientation: int, byte_order: str) -> None:
    data = rotated(orientation, byte_order)
    assert (decode(encoded_image(data, CONFIG)).numpy() == by_pillow(data)).all()


def test_an_orientation_that_makes_no_sense_turns_nothing() -> None:
    upright = by_pillow(FORMATS["JPEG"])
    for data in (rotated(0), rotated(9), rotated(6).replace(b"II*\0\x08\0\0\0", b"II*\0\xff\xff\0\0")):
        assert data != FORMATS["JPEG"]
        assert (decode(encoded_image(data, CONFIG)).numpy() == upright).all()


def windows(height: int, width: int) -> list[list[int]]:
    random = np.random.Generator(np.random.PCG64(1))
    sides = [(random.integers(1, height + 1), random.integers(1, width + 1)) for _ in range(12)]
    found = [[random.integers(height - h + 1), random.integers(width - w + 1), h, w] for h, w in sides]
    return [[0, 0, height, width], [height - 1, width - 1, 1, 1], [height // 2, 16, 2, 16], *found]


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(rotated(each, subsampling=0), id=f"orientation {each}") for each in range(1, 9)),
        *(
            pytest.param(FORMATS[name], id=name)
            for name in ("JPEG, grey", "JPEG, CMYK inverted by Adobe", "PNG", "GIF")
        ),
    ],
)
def test_a_window_alone_has_the_pixels_of_the_whole_image(data: bytes) -> None:
    encoded = encoded_image(data, CONFIG)
    whole = decode(encoded)
    for window in windows(*whole.shape[:2]):
        assert (decode_window(encoded, tf.constant(window)).numpy() == cut(whole, tf.constant(window)).numpy()).all()


@pytest.mark.parametrize("name", ["JPEG", "JPEG, progressive", "JPEG, colour halved in width"])
def test_of_subsampled_colour_the_outermost_columns_alone_may_differ(name: str) -> None:
    encoded = encoded_image(FORMATS[name], CONFIG)
    whole = decode(encoded)
    for window in windows(*whole.shape[:2]):
        alone, cut_out = (pixels.numpy() for pixels in (decode_window(encoded, window), cut(whole, window)))
        assert (alone[:, 1:-1] == cut_out[:, 1:-1]).all()


@pytest.mark.parametrize("crop", ["random_area_crop", "central_crop"])
def test_a_crop_keeps_the_same_window_fused_or_not(crop: str) -> None:
    for data in (FORMATS["JPEG, colour in full"], rotated(6, subsampling=0), FORMATS["PNG"], FORMATS["GIF"]):
        encoded = encoded_image(data, CONFIG)
        for example in range(5):
            draw = Draw(3, tf.constant(example, tf.int64))
            fused = apply_transforms(encoded, ("decode", crop), CONFIG, draw)
            assert (fused.numpy() == TRANSFORMS[crop](decode(encoded), CONFIG, draw).numpy()).all()


def png_of(width: int, height: int) -> bytes:
    """A valid PNG header and nothing else."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))


def resized(data: bytes, place: int, layout: str, *sizes: int) -> bytes:
    return data[:place] + struct.pack(layout, *sizes) + data[place + struct.calcsize(layout) :]


HUGE = f"its header says 60000 x 60000 pixels, but at most {MAX_PIXELS} are read"
FRAME = FORMATS["JPEG"].index(b"\xff\xc0") + 5
FAULTS = {
    # what is wrong: (the bytes, the reason that is given)
    "zero bytes": (b"", "it is empty (0 bytes)"),
    "text": (b"<html>404</html>", "it is not a JPEG, PNG, GIF, BMP or WebP image: it begins with b'<html>40'"),
    "TIFF": (saved(RGB, "TIFF"), "it is not a JPEG, PNG, GIF, BMP or WebP image: it begins with b'II*"),
    "sound": (b"RIFF\0\0\0\0WAVEfmt ", "it is not a JPEG, PNG, GIF, BMP or WebP image: it begins with b'RIFF"),
    "JPEG cut in its header": (FORMATS["JPEG"][:100], "it ends inside its header, after 100 bytes"),
    "JPEG cut in its pixels": (FORMATS["JPEG"][:-200], "Invalid JPEG data or crop window"),
    "JPEG without an image": (b"\xff\xd8\xff\xd9", "it is a JPEG without an image in it"),
    "JPEG with a damaged marker": (b"\xff\xd8\xff\xe0\0\2abc", "its JPEG marker at byte 6 is damaged"),
    "PNG cut in its header": (FORMATS["PNG"][:20], "it ends inside its header, after 20 bytes"),
    "PNG cut in its pixels": (FORMATS["PNG"][:-200], "Invalid PNG data"),
    "GIF cut": (FORMATS["GIF"][:-500], "image file is truncated"),
    "WebP cut": (FORMATS["WebP"][:-100], "Failed to decode WebP image"),
    "BMP cut": (FORMATS["BMP"][:-100], "image file is truncated"),
    "no pixels": (png_of(0, 7), "its header says 0 x 7 pixels"),
    "huge PNG": (png_of(60000, 60000), HUGE),
    "huge JPEG": (resized(FORMATS["JPEG"], FRAME, ">HH", 60000, 60000), HUGE),
    "huge GIF": (resized(FORMATS["GIF"], 6, "<HH", 60000, 60000), HUGE),
    "huge BMP": (resized(FORMATS["BMP"], 18, "<ii", 60000, -60000), HUGE),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_cannot_be_decoded_is_refused_with_a_reason(what: str) -> None:
    data, reason = FAULTS[what]
    found = fault(data, CONFIG)
    assert found is not None
    assert reason in found
    assert "{{" not in found, found


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WebP", "WebP, alpha", "BMP, palette"])
def test_no_damage_escapes_as_another_error(name: str) -> None:
    """Cut anywhere, or with bytes changed anywhere: a reason or pixels, never an exception."""
    whole = FORMATS[name]
    assert fault(whole, CONFIG) is None
    random = np.random.Generator(np.random.PCG64(2))
    damaged: list[bytes] = [whole[:length] for length in range(0, len(whole) - 1, max(1, len(whole) // 40))]
    for _ in range(40):
        changed = bytearray(whole)
        for place in random.integers(0, min(len(whole), 400), 3):
            changed[place] = random.integers(256)
        damaged.append(bytes(changed))
    assert sum(fault(data, CONFIG) is not None for data in damaged) > 40
