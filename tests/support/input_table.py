"""What becomes of every kind of image file on its four ways into a network: the table of ``docs/data.md``.

Each row is a kind of file, in all its variants, and the pixels that it should have. Training and evaluation read the
files from a folder, ``predict`` from paths, and the served model from bytes, in a graph without this project's Python.
To add a kind of file, add a ``Row`` to a section; ``found`` is the place for lines about anything else.
``scripts/make_input_table`` writes the table.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import handmade_images as handmade
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from composing import compose
from PIL import Image, ImageOps

from trainer.config.complete import complete, with_leaves
from trainer.config.schema import Config
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.images.draw import Draw
from trainer.data.images.headers import MAX_PIXELS
from trainer.data.images.transforms import TRANSFORMS
from trainer.data.order.sampling import Sampling
from trainer.data.sources.source import Source, open_source
from trainer.errors import BadRecord
from trainer.inference.export.saved_model import Classifier
from trainer.inference.predictor import Predictor

WAYS = ("training", "evaluation", "`predict`", "served")
WIDTH, HEIGHT = 45, 33  # of the images
SIZE = 75  # of the network's input: larger, so that every pixel is in it
SETTINGS = (
    "experiment=images",
    "data=image_folder",
    "data.on_bad_record=skip",
    f"preprocess.image_size={SIZE}",
    "preprocess.train=[decode,central_crop,resize]",  # as evaluation, so that all ways can be compared
    "preprocess.eval=[decode,central_crop,resize]",
    "preprocess.central_crop.fraction=1.0",
    "preprocess.resize.method=nearest",  # the pixels themselves
    "train.global_batch_size=32",
    "evaluation.batch_size=32",
)
BATCH = 32
ORIENTATION = 0x0112  # EXIF 2.32 section 4.6.4
BYTE, SHORT, LONG = 1, 3, 4  # types of TIFF 6.0
REFUSED = "refused"
OTHER = "OTHER PIXELS"

Pixels = npt.NDArray[np.uint8]
# of one file on one way: the probabilities of a network whose logits are its input, or why there are none
Outcome = npt.NDArray[np.float32] | str


def by_pillow(data: bytes) -> Pixels:
    """Upright, in RGB."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:  # about damaged EXIF
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def on_white(data: bytes) -> Pixels:
    """Upright, over white where it is transparent."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB"))


def twelve_bits(data: bytes) -> Pixels:
    """The upper 8 of 12 bits."""
    if data.startswith(b"\x89PNG"):
        decoded = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    else:
        decoded = np.asarray(Image.open(io.BytesIO(data)))[..., np.newaxis]
    return np.repeat(np.minimum(decoded, 4095) >> 4, 3 // decoded.shape[-1], -1).astype(np.uint8)


def stored_rgb(data: bytes) -> Pixels:
    """Of a TIFF, which Pillow turns when it reads it; of 16 bits the upper 8."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode.startswith("I;16"):
            return np.repeat((np.asarray(image) >> 8)[..., np.newaxis], 3, -1).astype(np.uint8)
        return np.asarray(image.convert("RGB"))


def upper_bits(data: bytes) -> Pixels:
    """Of 16 bits the upper 8, where Pillow would cut off."""
    decoded = tf.io.decode_png(data, dtype=tf.uint16).numpy() >> 8
    turned = np.rot90(decoded, -1) if b"eXIf" in data else decoded
    return np.repeat(turned, 3 // turned.shape[-1], -1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Row:
    """``files`` are the variants of one kind of ``input``. ``said`` names what should become of them: the pixels that
    ``pixels`` gives, with ``tolerance`` levels of 255, or ``REFUSED``. ``settings`` are overrides of the configuration.
    ``but_served`` is what a served model alone does, where a graph cannot follow: it must be a refusal. ``endings`` are
    those of the files' names, by turns: the content decides the format.
    """

    input: str
    files: Sequence[bytes]
    said: str = "as Pillow"
    pixels: Callable[[bytes], Pixels] = by_pillow
    tolerance: int = 0
    settings: tuple[str, ...] = ()
    but_served: str | None = None
    endings: tuple[str, ...] = (".jpg",)

    def names(self, number: int) -> list[str]:
        """Of the files; ``number`` is that of the row."""
        endings = itertools.cycle(self.endings)
        return [f"{number:03d}-{place:03d}{next(endings)}" for place in range(len(self.files))]

    def expected(self, way: str) -> str:
        return self.but_served if way == "served" and self.but_served is not None else self.said


# files -------------------------------------------------------------------------------------------------------------


def picture() -> Image.Image:
    coarse = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # Pillow keeps settings of the encoder in the image
    return buffer.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def exif(value: int, order: str = "<", kind: int = SHORT, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A TIFF header with one entry, the orientation, and ``before`` and ``after`` it other entries of 12 bytes."""
    fields = {BYTE: f"{order}Bxxx", SHORT: f"{order}Hxx", LONG: f"{order}I"}
    entry = struct.pack(f"{order}HHI", ORIENTATION, kind, 1) + struct.pack(fields[kind], value)
    entries = before + entry + after
    begin = b"II*\0" if order == "<" else b"MM\0*"
    return begin + struct.pack(f"{order}IH", 8, len(entries) // 12) + entries + bytes(4)


def xmp(text: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {text}</x:xmpmeta>'.encode()


XMP = {
    form: [xmp(form.format(value)) for value in range(1, 9)]
    for form in ('tiff:Orientation="{}"/>', "><tiff:Orientation>{}</tiff:Orientation></rdf:Description>")
}


def jpeg_with(jpeg: bytes, *blocks: bytes, named: bytes = b"Exif\0\0") -> bytes:
    """A segment for each block before the others."""
    segments = (b"\xff\xe1" + struct.pack(">H", 2 + len(named + block)) + named + block for block in blocks)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def jpeg_with_xmp(jpeg: bytes, packet: bytes) -> bytes:
    return jpeg_with(jpeg, packet, named=b"http://ns.adobe.com/xap/1.0/\0")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(png: bytes, kind: bytes, content: bytes, *, at_end: bool = False) -> bytes:
    place = len(png) - 12 if at_end else 33  # before IEND, or behind IHDR
    return png[:place] + chunk(kind, content) + png[place:]


def interlaced(image: Image.Image) -> bytes:
    """A PNG in the seven passes of Adam7: PNG specification section 8.2."""
    pixels = np.asarray(image)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = [
        b"\0" + row.tobytes() for top, left, down, right in passes for row in pixels[top::down, left::right] if row.size
    ]
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def bitmap(bits: int, rows: bytes, *, palette: bytes = b"", compression: int = 0, height: int = HEIGHT) -> bytes:
    """A BMP of WIDTH columns with the header of Windows 3."""
    colors = len(palette) // 4
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(rows), 0, 0, colors, 0)
    begin = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin) + header + palette + rows


def four_bits() -> bytes:
    indices = np.pad(np.asarray(picture().quantize(16)), ((0, 0), (0, 48 - WIDTH)))
    palette = np.pad(np.array(picture().quantize(16).getpalette(), np.uint8).reshape(-1, 3)[:, ::-1], ((0, 0), (0, 1)))
    return bitmap(
        4, (indices[::-1, ::2] * 16 + indices[::-1, 1::2]).astype(np.uint8).tobytes(), palette=palette.tobytes()
    )


def turned_jpegs(jpeg: bytes) -> list[bytes]:
    return [jpeg_with(jpeg, exif(value)) for value in range(1, 9)]


def turned_pngs(png: bytes) -> list[bytes]:
    return [png_with(png, b"eXIf", exif(value)) for value in range(1, 9)]


def turned_webps(image: Image.Image, **options: object) -> list[bytes]:
    return [saved(image, "WEBP", exif=exif(value), **options) for value in range(1, 9)]


def small_frame(gif: bytes) -> bytes:
    """The canvas made wider than the frame."""
    return gif[:6] + struct.pack("<H", WIDTH + 3) + gif[8:]


def hole(palette: Image.Image) -> Image.Image:
    """With a rectangle of the fourth colour."""
    image = palette.copy()
    image.paste(3, (5, 6, 30, 20))
    return image


RGB, GREY, PALETTE = picture(), picture().convert("L"), picture().quantize(64)
JPEG, PNG = saved(RGB, "JPEG"), saved(RGB, "PNG")
WEBP, BMP, GIF = saved(RGB, "WEBP"), saved(RGB, "BMP"), saved(PALETTE, "GIF")
CMYK = saved(RGB.convert("CMYK"), "JPEG")
YCCK = CMYK.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")  # the transform of the APP14 segment
OTHERS = [RGB.transpose(Image.Transpose.FLIP_LEFT_RIGHT), RGB.transpose(Image.Transpose.ROTATE_180)]
DEEP = np.asarray(RGB).astype(np.uint16) * 255 + 77
DEEP_WITH_ALPHA = np.concatenate([DEEP, DEEP[::-1, :, :1]], -1)
OTHER_RULES = ("preprocess.background=none", "preprocess.sixteen_bit_range=[0,4095]")
OTHER_ENTRY = struct.pack("<HHII", 0x0110, SHORT, 1, 0)
OUTSIDE = struct.pack("<HHII", 0x010F, 2, 40, 10_000)  # a text of 40 bytes behind the end
PROFILE = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      34\n" + (b"Exif\0\0" + exif(6)).hex().encode())
STRIPES = np.arange(48 * HEIGHT, dtype=np.uint8).reshape(HEIGHT, 48) // 3 % 2  # a row is filled up to 48
TWO, GREYS = bytes((0, 0, 0, 0, 255, 255, 255, 0)), bytes(itertools.chain(*((level,) * 3 + (0,) for level in range(9))))
# files whose palette Pillow mistakes -> their pixels
BLACK_AND_WHITE = {
    bitmap(8, STRIPES[::-1].tobytes(), palette=TWO): STRIPES * 255,
    bitmap(4, (STRIPES[::-1, ::2] * 16 + STRIPES[::-1, 1::2]).tobytes(), palette=TWO): STRIPES * 255,
    bitmap(8, (STRIPES[::-1] * 7).tobytes(), palette=GREYS): STRIPES * 7,
}
BLACK_AND_WHITE = {data: np.repeat(grey[:, :WIDTH, np.newaxis], 3, -1) for data, grey in BLACK_AND_WHITE.items()}
NAMES = (".JPG", " a [b]=c.Png", " \u00e9.png", " e\u0301.png")
ITXT = b"XML:com.adobe.xmp\0\0\0\0\0"


def several() -> dict[str, Any]:
    """Options that write further pages or frames; each is a new image, because Pillow keeps an encoder's settings."""
    return {"save_all": True, "append_images": [each.copy() for each in OTHERS]}


def sections() -> dict[str, list[Row]]:
    """By heading. "1 to 8" means that each orientation of EXIF was tried."""
    inks: dict[str, Any] = {"said": "as Pillow, ± 1", "tolerance": 1}
    composed: dict[str, Any] = {"said": "on white", "pixels": on_white}
    dropped: dict[str, Any] = {"said": "colour under alpha", "settings": OTHER_RULES}
    twelve: dict[str, Any] = {"said": "the upper 8 of 12 bits", "pixels": twelve_bits, "settings": OTHER_RULES}
    tiff_alone: dict[str, Any] = {"pixels": stored_rgb, "but_served": REFUSED}
    upper: dict[str, Any] = {"said": "the upper 8 bits", "pixels": upper_bits}
    animated: dict[str, Any] = {"save_all": True, "append_images": OTHERS}
    return {
        "JPEG": [
            Row("baseline, 1 to 8", turned_jpegs(JPEG)),
            Row("progressive, 1 to 8", turned_jpegs(saved(RGB, "JPEG", progressive=True))),
            Row(
                "colour in full, halved and quartered, 1 to 8",
                [each for option in (0, 1, "4:1:1") for each in turned_jpegs(saved(RGB, "JPEG", subsampling=option))],
            ),
            Row("grey, 1 to 8", turned_jpegs(saved(GREY, "JPEG"))),
            Row("stored as RGB, 1 to 8", turned_jpegs(saved(RGB, "JPEG", keep_rgb=True))),
            Row("CMYK and YCCK of Adobe, 1 to 8", turned_jpegs(CMYK) + turned_jpegs(YCCK), **inks),
            Row("several pictures in one file (MPO)", [saved(RGB, "MPO", **animated)]),
        ],
        "PNG": [
            Row("RGB, 1 to 8", turned_pngs(PNG)),
            Row(
                "grey of 1 and 8 bits, 1 to 8",
                turned_pngs(saved(RGB.convert("1"), "PNG")) + turned_pngs(saved(GREY, "PNG")),
            ),
            Row("palette, 1 to 8", turned_pngs(saved(PALETTE, "PNG"))),
            Row("interlaced, 1 to 8", turned_pngs(interlaced(RGB))),
            Row("animated: the first frame", [saved(RGB, "PNG", **several())]),
            Row(
                "16 bits, grey and RGB, upright and turned",
                [
                    data
                    for channels in (DEEP[..., :1], DEEP)
                    for png in [bytes(tf.io.encode_png(channels).numpy())]
                    for data in (png, png_with(png, b"eXIf", exif(6)))
                ],
                **upper,
            ),
            Row(
                "RGB and grey with alpha, 1 to 8",
                turned_pngs(saved(with_alpha(RGB), "PNG")) + turned_pngs(saved(with_alpha(GREY), "PNG")),
                **composed,
            ),
            Row("the same, `preprocess.background=none`", [saved(with_alpha(RGB), "PNG")], **dropped),
            Row(
                "palette with transparency, transparent colour, 1 to 8",
                turned_pngs(saved(PALETTE, "PNG", transparency=3))
                + turned_pngs(saved(PALETTE, "PNG", transparency=bytes(range(0, 256, 4))))
                + turned_pngs(saved(RGB, "PNG", transparency=RGB.getpixel((5, 5))))
                + turned_pngs(saved(GREY, "PNG", transparency=GREY.getpixel((5, 5)))),
                **composed,
            ),
            Row(
                "16 bits with alpha",
                [handmade.png(DEEP_WITH_ALPHA), handmade.png(DEEP_WITH_ALPHA[..., 2:])],
                **composed,
            ),
            Row(
                "12 of 16 bits, `preprocess.sixteen_bit_range=[0,4095]`",
                [handmade.png(DEEP >> 4), handmade.png(DEEP[..., :1] >> 4), handmade.png(DEEP[..., :1])],
                **twelve,
            ),
        ],
        "WebP": [
            Row("lossy, 1 to 8", turned_webps(RGB)),
            Row("lossless, 1 to 8", turned_webps(RGB, lossless=True)),
            Row(
                "with alpha, lossy and lossless, 1 to 8",
                turned_webps(with_alpha(RGB)) + turned_webps(with_alpha(RGB), lossless=True, exact=True),
                **composed,
            ),
            Row("the same, `preprocess.background=none`", turned_webps(with_alpha(RGB), exact=True), **dropped),
            Row("animated: the first frame, 1 to 8", turned_webps(RGB, lossless=True, **animated)),
        ],
        "GIF": [
            Row("still and interlaced", [GIF, saved(PALETTE, "GIF", interlace=1)]),
            Row("transparent colour", [saved(hole(PALETTE), "GIF", transparency=3)], **composed),
            Row("the same, `preprocess.background=none`", [saved(hole(PALETTE), "GIF", transparency=3)], **dropped),
            Row(
                "animated: the first frame",
                [saved(PALETTE, "GIF", save_all=True, append_images=[each.quantize(64) for each in OTHERS])],
            ),
            Row("a first frame that does not fill the image", [small_frame(GIF)], but_served=REFUSED),
        ],
        "BMP": [
            Row("24 bits, from the bottom and from the top", [BMP, bitmap(24, saved(RGB, "BMP")[54:], height=-HEIGHT)]),
            Row("palette of 1, 4 and 8 bits", [saved(RGB.convert("1"), "BMP"), four_bits(), saved(PALETTE, "BMP")]),
            Row("grey", [saved(GREY, "BMP")]),
            Row(
                "black and white in 4 and 8 bits, greys in 8",
                list(BLACK_AND_WHITE),
                "as in the palette",
                BLACK_AND_WHITE.__getitem__,
            ),
            Row("32 bits", [saved(with_alpha(RGB), "BMP")]),
            Row("32 bits with alpha", [handmade.bmp_with_alpha(with_alpha(RGB))], **composed),
            Row("the same, `preprocess.background=none`", [handmade.bmp_with_alpha(with_alpha(RGB))], **dropped),
            Row(
                "16 bits, compressed",
                [
                    bitmap(16, bytes(92 * HEIGHT)),
                    bitmap(8, b"\x2d\1\0\0" * HEIGHT + b"\0\1", palette=bytes(range(252)) + bytes(772), compression=1),
                ],
                but_served=REFUSED,
            ),
        ],
        "TIFF": [
            Row(
                "RGB, grey, palette, 1 bit, CMYK, uncompressed or packed, turned",
                [
                    saved(RGB, "TIFF"),
                    saved(GREY, "TIFF", compression="tiff_lzw"),
                    saved(PALETTE, "TIFF", compression="packbits"),
                    saved(RGB.convert("1"), "TIFF", compression="group4"),
                    saved(RGB.convert("CMYK"), "TIFF"),
                    *(
                        saved(RGB, "TIFF", compression="tiff_deflate", tiffinfo={ORIENTATION: each})
                        for each in range(1, 9)
                    ),
                ],
                **tiff_alone,
            ),
            Row(
                "with alpha", [saved(with_alpha(each), "TIFF") for each in (RGB, GREY)], **composed, but_served=REFUSED
            ),
            Row(
                "16 bits, grey and RGB",
                [handmade.tiff(samples, order=order) for samples in (DEEP[..., :1], DEEP) for order in "<>"],
                "the upper 8 bits",
                **tiff_alone,
            ),
            Row(
                "12 of 16 bits, `preprocess.sixteen_bit_range=[0,4095]`",
                [handmade.tiff(DEEP[..., :1] >> 4)],
                **twelve,
                but_served=REFUSED,
            ),
            Row(
                "several pages: the first one",
                [saved(RGB, "TIFF", **several()), saved(GREY, "TIFF", compression="tiff_lzw", **several())],
                **tiff_alone,
            ),
            Row(
                "signed integers, floating-point numbers",
                [handmade.tiff(DEEP[..., :1], tags={339: 2}), saved(GREY.convert("F"), "TIFF")],
                REFUSED,
            ),
        ],
        "Where the orientation is": [
            Row("EXIF, big-endian", [jpeg_with(JPEG, exif(value, ">")) for value in range(1, 9)]),
            Row(
                "EXIF, LONG instead of SHORT, either order",
                [jpeg_with(JPEG, exif(value, order, LONG)) for order in "<>" for value in range(1, 9)],
            ),
            Row("EXIF, another type", [jpeg_with(JPEG, exif(6, kind=BYTE))]),
            Row("EXIF, values out of 1 to 8", [jpeg_with(JPEG, exif(value)) for value in (0, 9, 65535)]),
            Row("EXIF twice in one directory", [jpeg_with(JPEG, exif(6, after=exif(3)[10:22]))]),
            Row("two Exif segments", [jpeg_with(JPEG, exif(6), exif(3)), jpeg_with(JPEG, exif(1), exif(3))]),
            Row("EXIF over two segments", [jpeg_with(JPEG, exif(6)[:15], exif(6)[15:])]),
            Row(
                "EXIF of the thumbnail alone", [jpeg_with(JPEG, b"II*\0" + struct.pack("<IHI", 8, 0, 14) + exif(6)[8:])]
            ),
            Row("EXIF cut off", [jpeg_with(JPEG, exif(6)[:length]) for length in (0, 4, 8, 9, 15, 21)]),
            Row(
                "EXIF, directory outside the block",
                [jpeg_with(JPEG, exif(6).replace(b"II*\0\x08\0", b"II*\0\xff\xff"))],
            ),
            Row("EXIF, directories in a loop", [jpeg_with(JPEG, exif(6)[:-4] + struct.pack("<I", 8))]),
            Row("EXIF, a value outside before it", [jpeg_with(JPEG, exif(6, before=OUTSIDE))]),
            Row(
                "EXIF, not a TIFF header",
                [jpeg_with(saved(RGB, "JPEG"), b"XX*\0" + exif(6)[4:])],
                "as stored",
                lambda data: by_pillow(JPEG),
            ),
            Row(
                "XMP alone, as attribute and as element",
                [jpeg_with_xmp(JPEG, packet) for packets in XMP.values() for packet in packets],
            ),
            Row(
                "XMP beside EXIF: EXIF counts",
                [jpeg_with_xmp(jpeg_with(JPEG, exif(value)), xmp('tiff:Orientation="8"/>')) for value in (1, 6, 9)],
            ),
            Row(
                "XMP beside EXIF without orientation",
                [
                    jpeg_with_xmp(
                        jpeg_with(JPEG, exif(6).replace(b"\x12\x01", b"\x13\x01")), xmp('tiff:Orientation="8"/>')
                    )
                ],
            ),
            Row("PNG, eXIf behind the pixels", [png_with(PNG, b"eXIf", exif(6), at_end=True)]),
            Row("PNG, XMP", [png_with(PNG, b"iTXt", ITXT + packet) for packet in XMP['tiff:Orientation="{}"/>']]),
            Row("PNG, EXIF as a packed text", [png_with(PNG, b"zTXt", PROFILE)], but_served=REFUSED),
            Row("WebP, XMP", [saved(RGB, "WEBP", xmp=packet) for packet in XMP['tiff:Orientation="{}"/>']]),
        ],
        "Names": [
            Row("an ending of another format", [PNG, JPEG, BMP], endings=(".gif", ".webp", ".jpeg")),
            Row("capitals, spaces, signs, accents in either form of Unicode", [PNG] * 4, endings=NAMES),
        ],
        "Not an image": [
            Row("empty, text", [b"", b"<html>404</html>"], REFUSED),
            Row(
                "AVIF, JPEG 2000, icon, PDF", [saved(RGB, each) for each in ("AVIF", "JPEG2000", "ICO", "PDF")], REFUSED
            ),
            Row("cut off in its header", [JPEG[:100], PNG[:20], WEBP[:20], GIF[:8], BMP[:20]], REFUSED),
            Row("cut off in its pixels", [JPEG[:-200], PNG[:-200], WEBP[:-100], GIF[:-300], BMP[:-100]], REFUSED),
            Row("a damaged JPEG marker, no JPEG frame", [b"\xff\xd8\xff\xe0\0\2abc", b"\xff\xd8\xff\xd9"], REFUSED),
            Row(
                f"more than {MAX_PIXELS:,} pixels",
                [bitmap(24, b"").replace(struct.pack("<i", WIDTH), struct.pack("<i", 10**7))],
                REFUSED,
            ),
        ],
    }


# the four ways -----------------------------------------------------------------------------------------------------


@functools.cache
def preprocess(settings: tuple[str, ...]) -> PreprocessConfig:
    return compose(*SETTINGS, *settings, "data.root=x").preprocess


def configured(settings: Iterable[str], root: Path, records: int) -> Config:
    config = compose(*SETTINGS, *settings, f"data.root={root}")
    return with_leaves(complete(config, records, records), {"runtime.threads": 2})


@functools.cache
def echo() -> keras.Model:
    """A network whose logits are its input."""
    return keras.Sequential([keras.Input([SIZE, SIZE, 3]), keras.layers.Flatten()])


def probabilities(image: tf.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tf.nn.softmax(echo()(image[tf.newaxis]))[0])


def walk(files: Mapping[str, bytes], settings: tuple[str, ...], folder: Path) -> dict[str, dict[str, Outcome]]:
    """By way, the outcome of every file by its name."""
    for split, label in itertools.product(("train", "val"), ("a", "b")):
        (folder / split / label).mkdir(parents=True)
        for name, data in files.items() if label == "a" else [("0.png", PNG)]:
            (folder / split / label / name).write_bytes(data)
    config = configured(settings, folder, len(files) + 1)
    return {
        "training": _trained(config),
        "evaluation": _evaluated(config),
        "`predict`": _predicted(config, [folder / "val" / "a" / name for name in files]),
        "served": _served(config, files, folder / "served"),
    }


def _names(source: Source) -> list[str]:
    """Of the files, in the order of the records."""
    return [Path(source.place(record).rpartition(" (record ")[0]).name for record in range(source.count)]


def _trained(config: Config) -> dict[str, Outcome]:
    source = open_source(config.data, "train")
    names = _names(source)
    outcomes: dict[str, Outcome] = dict.fromkeys(names, REFUSED)
    records = Sampling(source, config).records_at(np.arange(source.count))
    batches = training_batches(source, config, 0, 0, warn=lambda text: None)
    for first, batch in zip(range(0, source.count, BATCH), batches, strict=False):
        for row in range(min(BATCH, source.count - first)):
            if not batch["substituted"][row]:
                outcomes[names[records[first + row]]] = probabilities(batch["image"][row])
    return outcomes


def _evaluated(config: Config) -> dict[str, Outcome]:
    source = open_source(config.data, "validation")
    found: list[Outcome] = []
    for batch in evaluation_batches(source, config, warn=lambda text: None):
        found += [
            REFUSED if skipped else probabilities(image)
            for image, skipped in zip(batch["image"], batch["skipped"].numpy(), strict=True)
        ]
    return dict(zip(_names(source), found, strict=False))  # without what fills the last batch up


def _predicted(config: Config, paths: Sequence[Path]) -> dict[str, Outcome]:
    names = tuple(map(str, range(SIZE * SIZE * 3)))
    predictor = Predictor(echo(), names, config, Path("checkpoint"), 0, "raw", lambda x: tf.nn.softmax(echo()(x)))

    def one(path: Path) -> Outcome:
        try:
            return predictor.predict([path])[0]
        except BadRecord:
            return REFUSED

    return {path.name: one(path) for path in paths}


def classifier(config: Config) -> Classifier:
    return Classifier(echo(), config, tuple(map(str, range(SIZE * SIZE * 3))))


def _served(config: Config, files: Mapping[str, bytes], place: Path) -> dict[str, Outcome]:
    made = classifier(config)
    tf.saved_model.save(made, str(place), signatures=made.classify)
    classify = tf.saved_model.load(str(place)).signatures["serving_default"]

    def one(data: bytes) -> Outcome:
        try:
            return np.asarray(classify(image_bytes=tf.constant([data]))["probabilities"][0])
        except tf.errors.InvalidArgumentError:
            return REFUSED

    return {name: one(data) for name, data in files.items()}


# the table ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Line:
    """One row as it was found: for each way what was ``said`` of all variants, and whether all are equal to the bit."""

    input: str
    cells: Mapping[str, str]
    equal: bool


def found() -> dict[str, list[Line]]:
    """The table, by heading: every file on every way."""
    rows = sections()
    every = [row for section in rows.values() for row in section]
    outcomes: dict[int, dict[str, list[Outcome]]] = {}
    for settings in dict.fromkeys(row.settings for row in every):
        chosen = [(row, row.names(number)) for number, row in enumerate(every) if row.settings == settings]
        files = {name: data for row, names in chosen for name, data in zip(names, row.files, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            walked = walk(files, settings, Path(folder))
        for row, names in chosen:
            outcomes[id(row)] = {way: [walked[way][name] for name in names] for way in WAYS}
    return {heading: [_line(row, outcomes[id(row)]) for row in section] for heading, section in rows.items()}


def _line(row: Row, outcomes: Mapping[str, list[Outcome]]) -> Line:
    cells = {
        way: " / ".join(dict.fromkeys(_said(row, data, outcome) for data, outcome in zip(row.files, each, strict=True)))
        for way, each in outcomes.items()
    }
    read = [
        [outcome for outcome in each if not isinstance(outcome, str)] for each in zip(*outcomes.values(), strict=True)
    ]
    equal = all((one == other).all() for variant in read for one, other in itertools.pairwise(variant))
    return Line(row.input, cells, equal)


def _said(row: Row, data: bytes, outcome: Outcome) -> str:
    if isinstance(outcome, str) or row.said == REFUSED:
        return outcome if isinstance(outcome, str) else OTHER
    draw = Draw(0, tf.constant(0, tf.int64))  # resize draws nothing
    expected = TRANSFORMS["resize"](tf.constant(row.pixels(data)), preprocess(row.settings), draw)
    if row.tolerance == 0:
        return row.said if (probabilities(expected) == outcome).all() else OTHER
    # the logarithm of a quotient of probabilities is a difference of logits, which are 0 to 1
    logits = np.log(outcome.astype(np.float64))
    wanted = np.asarray(expected, np.float64).ravel()
    difference = (logits - logits.mean()) - (wanted - wanted.mean())
    return row.said if np.abs(difference).max() * 255 < row.tolerance + 0.5 else OTHER


def rendered(lines: Mapping[str, Sequence[Line]]) -> str:
    """The table in Markdown."""
    head = [f"| input | {' | '.join(WAYS)} |", f"|{'---|' * (1 + len(WAYS))}"]
    body = []
    for heading, section in lines.items():
        body.append(f"| **{heading}** |{'  |' * len(WAYS)}")
        body += [f"| {line.input} | {' | '.join(line.cells[way] for way in WAYS)} |" for line in section]
    return "\n".join([*head, *body]) + "\n"


BEGIN, END = "<!-- written by scripts/make_input_table; do not edit -->\n", "<!-- end -->\n"


def shown(document: str) -> str:
    """The table in the text of a document."""
    return document.partition(BEGIN)[2].partition(END)[0]


def replaced(document: str, table: str) -> str:
    """The text of a document with another table."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"the document has no place for the table: {BEGIN}{END}"
    return before + begin + table + end + after
