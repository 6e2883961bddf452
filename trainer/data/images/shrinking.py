"""Images made smaller once, on disk, so that not every epoch decodes all pixels of a camera."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import DCT_METHOD, decode_file
from trainer.data.images.headers import Header, ImageFault, read_header
from trainer.data.images.orientation import ORIENTATIONS

# libjpeg's own scales; a scaled image keeps this many times the pixels of a side that are wanted, and the resize that
# follows averages over them
SCALES, SPARE = (8, 4, 2), 2
ALL_COLOURS = 0  # Pillow's name for colours at full resolution (4:4:4)


def shrunk(data: bytes, max_side: int, quality: int, config: PreprocessConfig) -> bytes:
    """The image file ``data``, as it is where no side is longer than ``max_side`` pixels. Otherwise a JPEG of
    ``quality`` (1 to 100) without metadata, upright, whose longer side has ``max_side`` pixels, of the pixels that
    ``config`` decodes. The same input gives the same bytes with the same version of Pillow and TensorFlow.

    Raises:
        ImageFault: the image cannot be decoded; the message is the end of a sentence.
    """
    header = read_header(data, config.orientation)
    longest = max(header.height, header.width)
    if longest <= max_side:
        decode_file(data, config)  # a fault is found now
        return data
    pixels = _scaled_jpeg(data, header, max_side) if header.format == "JPEG" else decode_file(data, config).numpy()
    height, width = pixels.shape[:2]
    longest = max(height, width)
    size = tuple(max(1, round(side * max_side / longest)) for side in (width, height))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=ALL_COLOURS)
    return buffer.getvalue()


def _scaled_jpeg(data: bytes, header: Header, max_side: int) -> npt.NDArray[np.uint8]:
    """The pixels, uint8 ``[height, width, 3]``, upright; with sides of at least ``SPARE`` times ``max_side`` where the
    image has that many.
    """
    longest = max(header.height, header.width)
    ratio = next((scale for scale in SCALES if longest >= SPARE * max_side * scale), 1)
    try:
        pixels: npt.NDArray[np.uint8] = tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method=DCT_METHOD).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ImageFault(str(error.message).partition(" [Op:")[0].rpartition("}} ")[2]) from error
    transposed, rows, columns = ORIENTATIONS[header.orientation]
    pixels = pixels.transpose(1, 0, 2) if transposed else pixels
    pixels = pixels[::-1] if rows else pixels
    return np.ascontiguousarray(pixels[:, ::-1] if columns else pixels)
