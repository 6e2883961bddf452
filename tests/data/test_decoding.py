"""Every image that people have is decoded as Pillow does, whole or a window of it; what is no image is named."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from composing import compose
from handmade_images import bmp_with_alpha, saved
from handmade_images import png as handmade_png
from handmade_images import tiff as handmade_tiff
from PIL import Image, ImageOps

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import cut, decode, decode_window, encoded_image, fault
from trainer.data.images.draw import Draw
from trainer.data.images.headers import MAX_PIXELS, READ
from trainer.data.images.served import served_image
from trainer.data.images.transforms import TRANSFORMS, apply_transforms

CONFIG = compose("preprocess.background=none").preprocess
WIDTH, HEIGHT = 53, 41
ORIENTATION_TAG = 0x0112


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    coarse = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def with_hole(palette: Image.Image) -> Image.Image:
    """With a rectangle of the fourth colour of the palette."""
    image = palette.copy()
    image.paste(3, (5, 6, 30, 20))
    return image


def rotated(orientation: int, byte_order: str = "<", **options: object) -> bytes:
    """A JPEG whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif.endian = byte_order
    exif[ORIENTATION_TAG] = orientation
    return saved(picture(), "JPEG", exif=exif.tobytes(), **options)


RGB, GREY, PALETTE = picture(), picture().convert("L"), picture().quantize(64)
DEEP_WITH_ALPHA = np.random.Generator(np.random.PCG64(4)).integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)
DEEP = DEEP_WITH_ALPHA[..., :3]
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
    "PNG, 16 bits in colour": handmade_png(DEEP),
    "PNG, 16 bits and alpha": handmade_png(DEEP_WITH_ALPHA),
    "PNG, grey of 16 bits and alpha": handmade_png(DEEP_WITH_ALPHA[..., 2:]),
    "PNG, palette with several transparencies": saved(PALETTE, "PNG", transparency=bytes(range(0, 256, 4))),
    "PNG, palette of 2 bits with transparency": saved(picture().quantize(4), "PNG", transparency=1),
    "PNG, 1 bit with transparency": saved(RGB.convert("1"), "PNG", transparency=255),
    "PNG, transparent grey": saved(GREY, "PNG", transparency=GREY.getpixel((5, 5))),
    "PNG, palette": saved(PALETTE, "PNG"),
    "PNG, palette with transparency": saved(PALETTE, "PNG", transparency=3),
    "PNG, transparent colour": saved(RGB, "PNG", transparency=RGB.getpixel((5, 5))),
    "GIF": saved(PALETTE, "GIF"),
    "GIF, transparency": saved(PALETTE, "GIF", transparency=3),
    "GIF, transparency that its pixels have": saved(with_hole(PALETTE), "GIF", transparency=3),
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
    "BMP, alpha": bmp_with_alpha(with_alpha(RGB)),
    "TIFF": saved(RGB, "TIFF"),
    "TIFF, grey": saved(GREY, "TIFF"),
    "TIFF, white is zero": handmade_tiff(np.asarray(GREY)[..., np.newaxis], photometric=0),
    "TIFF, 1 bit": saved(RGB.convert("1"), "TIFF", compression="group4"),
    "TIFF, palette": saved(PALETTE, "TIFF", compression="packbits"),
    "TIFF, CMYK": saved(RGB.convert("CMYK"), "TIFF"),
    "TIFF, LZW": saved(RGB, "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": saved(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": saved(RGB, "TIFF", compression="jpeg"),
    "TIFF, alpha": saved(with_alpha(RGB), "TIFF"),
    "TIFF, grey and alpha": saved(with_alpha(GREY), "TIFF"),
    "TIFF, 16 bits": saved(SIXTEEN_BITS, "TIFF", compression="tiff_lzw"),
    "TIFF, 16 bits, big-endian": handmade_tiff(DEEP[..., :1], order=">"),
    "TIFF, 16 bits in colour": handmade_tiff(DEEP, deflated=True, predictor=2),
    "TIFF, 16 bits in colour and alpha": handmade_tiff(DEEP_WITH_ALPHA, extra=2, order=">"),
    "TIFF, turned": saved(RGB, "TIFF", tiffinfo={ORIENTATION_TAG: 6}),
    "TIFF, turned by XMP": handmade_tiff(np.asarray(RGB), xmp=b'<x tiff:Orientation="6"/>'),
    "TIFF, several pages": saved(RGB, "TIFF", save_all=True, append_images=[OTHERS[0].copy()]),
    "JPEG of one pixel": saved(picture(1, 1), "JPEG"),
    "PNG of one pixel": saved(picture(1, 1), "PNG"),
    "GIF of one pixel": saved(picture(1, 1), "GIF"),
}
ROUNDED = {name: 1 for name in FORMATS if "CMYK" in name or "YCCK" in name}  # how ink becomes light


BACKGROUNDS = {"none": None, "white": (255, 255, 255), "[7,99,201]": (7, 99, 201)}


def by_pillow(data: bytes, background: tuple[int, int, int] | None = None) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.load()  # turns a TIFF
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would cut off instead of scaling
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., np.newaxis], 3, -1)
    if background is not None:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("name", FORMATS)
def test_an_image_is_decoded_as_pillow_decodes_it(name: str, background: str) -> None:
    config = with_rules(background)
    decoded = decode(encoded_image(FORMATS[name], config), config)
    assert decoded.dtype == tf.uint8
    expected = by_pillow(FORMATS[name], BACKGROUNDS[background])
    assert decoded.shape == expected.shape
    difference = np.abs(decoded.numpy().astype(int) - expected.astype(int)).max()
    assert difference <= (ROUNDED[name] if name in ROUNDED else 0)


def test_a_served_graph_makes_the_same_pixels_or_refuses_by_name() -> None:
    config = with_rules("[7,99,201]", "[999,39999]")

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def served(data: tf.Tensor) -> tf.Tensor:
        return decode(served_image(data, tf.constant("image 0"), config), config)

    for name, data in FORMATS.items():
        if name.startswith("TIFF"):
            with pytest.raises(tf.errors.InvalidArgumentError, match="it is a TIFF, which a served network does not"):
                served(data)
        else:
            expected = decode(encoded_image(data, config), config).numpy()
            found = served(data).numpy()
            assert found.shape == expected.shape, name
            assert (found == expected).all(), name


TRANSPARENT = [name for name in FORMATS if ("transparen" in name or "alpha" in name) and name != "GIF, transparency"]


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_lies_under_a_transparent_pixel_shows_only_without_a_background(name: str) -> None:
    dropped, white, coloured = (
        decode(encoded_image(FORMATS[name], config), config).numpy()
        for config in map(with_rules, ("none", "white", "[7,99,201]"))
    )
    assert (dropped != coloured).any()
    assert (white != coloured).any()


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_says(orientation: int, byte_order: str) -> None:
    data = rotated(orientation, byte_order)
    assert (decode(encoded_image(data, CONFIG), CONFIG).numpy() == by_pillow(data)).all()


def test_an_orientation_that_makes_no_sense_turns_nothing() -> None:
    upright = by_pillow(FORMATS["JPEG"])
    for data in (rotated(0), rotated(9), rotated(6).replace(b"II*\0\x08\0\0\0", b"II*\0\xff\xff\0\0")):
        assert data != FORMATS["JPEG"]
        assert (decode(encoded_image(data, CONFIG), CONFIG).numpy() == upright).all()


@functools.cache
def with_rules(background: str, levels: str = "null") -> PreprocessConfig:
    return compose(f"preprocess.background={background}", f"preprocess.sixteen_bit_range={levels}").preprocess


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
    whole = decode(encoded, CONFIG)
    for window in windows(*whole.shape[:2]):
        assert (
            decode_window(encoded, tf.constant(window), CONFIG).numpy() == cut(whole, tf.constant(window)).numpy()
        ).all()


@pytest.mark.parametrize("name", ["JPEG", "JPEG, progressive", "JPEG, colour halved in width"])
def test_of_subsampled_colour_the_outermost_columns_alone_may_differ(name: str) -> None:
    encoded = encoded_image(FORMATS[name], CONFIG)
    whole = decode(encoded, CONFIG)
    for window in windows(*whole.shape[:2]):
        alone, cut_out = (pixels.numpy() for pixels in (decode_window(encoded, window, CONFIG), cut(whole, window)))
        assert (alone[:, 1:-1] == cut_out[:, 1:-1]).all()


@pytest.mark.parametrize("crop", ["random_area_crop", "central_crop"])
def test_a_crop_keeps_the_same_window_fused_or_not(crop: str) -> None:
    for data in (FORMATS["JPEG, colour in full"], rotated(6, subsampling=0), FORMATS["PNG"], FORMATS["GIF"]):
        encoded = encoded_image(data, CONFIG)
        for example in range(5):
            draw = Draw(3, tf.constant(example, tf.int64))
            fused = apply_transforms(encoded, ("decode", crop), CONFIG, draw)
            assert (fused.numpy() == TRANSFORMS[crop](decode(encoded, CONFIG), CONFIG, draw).numpy()).all()


@functools.cache
def large(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return saved(picture(528, 408), "JPEG", exif=exif.tobytes())


def made_smaller(data: bytes, ratio: int) -> np.ndarray:
    """The upright pixels, of an image that libjpeg made smaller for Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (image.width // ratio, image.height // ratio))
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_shrunk_window_has_the_pixels_of_the_image_that_libjpeg_makes_smaller(ratio: int) -> None:
    for orientation in range(1, 9):
        encoded = encoded_image(large(orientation), CONFIG)
        window = tf.concat([[0, 0], encoded.size], 0)
        found = decode_window(encoded, window, CONFIG, 408 // ratio).numpy()
        assert (found == made_smaller(large(orientation), ratio)).all(), orientation
    small, encoded = made_smaller(large(), ratio), encoded_image(large(), CONFIG)
    for top, left, height, width in ([0, 0, 300, 400], [15, 37, 299, 391], [107, 127, 301, 401]):
        first, end = np.array([top, left]), np.array([top + height, left + width])
        (y, x), (lower, right) = (np.floor(edges / ratio + 0.5).astype(int) for edges in (first, end))
        found = decode_window(encoded, tf.constant([top, left, height, width]), CONFIG, height // ratio).numpy()
        assert (found[:, 1:-1] == small[y:lower, x + 1 : right - 1]).all()


@pytest.mark.parametrize("side", [50, 99, 100, 101, 199, 200, 201, 399, 400, 401])
def test_no_side_is_decoded_below_what_is_asked_for_and_none_at_twice_that(side: int) -> None:
    encoded = encoded_image(large(), CONFIG)
    for first in range(9):
        height, width, _ = decode_window(encoded, tf.constant([first, first, side, side + 4]), CONFIG, 50).shape
        assert 50 <= height < 101
        assert height <= width
    png = encoded_image(saved(picture(530, 410), "PNG"), CONFIG)
    assert decode_window(png, tf.constant([0, 0, 400, 400]), CONFIG, 50).shape == (400, 400, 3)


def test_a_shrunk_image_is_nearer_to_the_mean_of_its_pixels_than_one_that_resize_takes_pixels_from() -> None:
    """And only where resize comes next: what colour and size an earlier transform sees is never decided by it."""
    noise = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (640, 640, 3), np.uint8)
    photograph = Image.blend(picture(640, 640), Image.fromarray(noise), 0.3)
    data, draw = saved(photograph, "JPEG", quality=95, subsampling=0), Draw(3, tf.constant(0, tf.int64))
    mean = np.asarray(photograph.resize((80, 80), Image.Resampling.BOX)) / 255
    distances = {}
    for decode_as in ("whole", "shrunk"):
        config = compose("preprocess.image_size=80", f"preprocess.decode={decode_as}").preprocess
        pixels = apply_transforms(encoded_image(data, config), ("decode", "resize"), config, draw).numpy()
        distances[decode_as] = np.abs(pixels - mean).mean()
        unresized = apply_transforms(encoded_image(data, config), ("decode", "horizontal_flip"), config, draw)
        assert unresized.shape == (640, 640, 3)
    assert distances["shrunk"] < 0.2 * distances["whole"]


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
    "text": (b"<html>404</html>", f"it is not a {READ} image: it begins with b'<html>40'"),
    "AVIF": (saved(RGB, "AVIF"), f"it is not a {READ} image, but AVIF, which is not read"),
    "sound": (b"RIFF\0\0\0\0WAVEfmt ", f"it is not a {READ} image: it begins with b'RIFF"),
    "TIFF cut in its header": (FORMATS["TIFF"][:6], "it ends inside its header, after 6 bytes"),
    "TIFF cut in its pixels": (FORMATS["TIFF"][:-500], "image file is truncated"),
    "TIFF of 16 bits cut": (FORMATS["TIFF, 16 bits in colour and alpha"][:-500], "image file is truncated"),
    "TIFF of numbers with a sign": (
        handmade_tiff(DEEP[..., :1], tags={339: 2}),
        "it is a TIFF of signed integers; unsigned integers of 8 or 16 bits are read",
    ),
    "TIFF of floating-point numbers": (saved(GREY.convert("F"), "TIFF"), "it is a TIFF of floating-point numbers"),
    "TIFF of 12 bits": (handmade_tiff(DEEP[..., :1], tags={258: 12}), "it is a TIFF of 12 bits a channel"),
    "TIFF of CIELAB": (saved(RGB.convert("LAB"), "TIFF"), "it is a TIFF with colours in CIELAB"),
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
