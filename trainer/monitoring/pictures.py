"""Small pictures of examples for people; no part of training depends on them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import decode_file
from trainer.data.images.headers import ImageFault
from trainer.monitoring.confusion import Confusion

Pixels = npt.NDArray[np.uint8]

SIDE = 128  # pixels; the longer side of a thumbnail
CAPTION = 16  # pixels; the height of a line of the caption under a thumbnail in a sheet
GAP = 6
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (235, 235, 235)
LARGEST_MATRIX = 50  # classes; with more, the cells of a confusion matrix are too small to see


def thumbnail(encoded: bytes, config: PreprocessConfig) -> Image.Image | None:
    """An encoded image in at most ``SIDE`` × ``SIDE`` pixels, as the network gets it before it is cropped and resized:
    upright, on its background, 16 bits as 8. None when it cannot be read.
    """
    try:
        return fitted(Image.fromarray(decode_file(encoded, config).numpy()))
    except ImageFault:
        return None


def fitted(image: Image.Image) -> Image.Image:
    """``image`` with ``SIDE`` pixels on its longer side. The pixels of small images stay visible."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1.0 else Image.Resampling.LANCZOS)


def as_png(image: Image.Image) -> str:
    """The image as a PNG file in base64."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def of_input(image: npt.NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """The network's input float32 ``[S, S, 3]`` as a picture: normalisation undone, clipped to 0..1."""
    shown = np.clip(image * np.asarray(std) + np.asarray(mean), 0.0, 1.0)
    return fitted(Image.fromarray(np.round(np.nan_to_num(shown) * 255.0).astype(np.uint8)))


def sheet(images: Sequence[Image.Image], captions: Sequence[str]) -> Pixels:
    """Thumbnails in rows with a caption under each, uint8 ``[height, width, 3]``. A line of a caption that is wider
    than the thumbnail is cut.
    """
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    cell = (SIDE + GAP, SIDE + CAPTION * lines + GAP)
    paper = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(12)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + number % columns * cell[0], GAP + number // columns * cell[1]
        paper.paste(image, (left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
        for row, line in enumerate(caption.split("\n")):
            draw.text((left, top + SIDE + 1 + row * CAPTION), shortened(line, draw, font), INK, font)
    return np.asarray(paper)


def shortened(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of ``text`` as fits under a thumbnail."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    if draw.textlength(text, font) <= SIDE:
        return text
    while text and draw.textlength(f"{text}…", font) > SIDE:
        text = text[:-1]
    return f"{text}…"


def confusion_matrix(found: Confusion, class_names: Sequence[str]) -> Pixels:
    """Counts as a table, a row for each true class; a darker cell is a larger share of the true class.

    uint8 ``[height, width, 3]``.
    """
    classes, cell, names = len(class_names), 30, 110
    paper = Image.new("RGB", (names + classes * cell + GAP, (classes + 1) * cell + GAP), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(12)
    rows, shares = found.rows(classes), found.shares(classes)
    draw.text((GAP, cell // 2), "true / predicted", INK, font, anchor="lm")
    for true in range(classes):
        middle = (true + 1) * cell + cell // 2
        draw.text((names + true * cell + cell // 2, cell // 2), str(true), INK, font, anchor="mm")
        draw.text((GAP, middle), shortened(f"{true} {class_names[true]}", draw, font)[:16], INK, font, anchor="lm")
        for other in range(classes):
            count, share = rows[true][other], shares[true][other] or 0.0
            left, top = names + other * cell, (true + 1) * cell
            hue = (30, 100, 180) if true == other else (200, 60, 30)
            color = tuple(
                round(white + (strong - white) * math.sqrt(share)) for white, strong in zip(FAINT, hue, strict=True)
            )
            draw.rectangle((left, top, left + cell - 2, top + cell - 2), color)
            if count:
                ink = PAPER if share > 0.3 else INK
                draw.text((left + cell // 2, middle), str(count), ink, font, anchor="mm")
    return np.asarray(paper)
