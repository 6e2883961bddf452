"""Images as a program has them, as the bytes of an image file, so that all of them take the one path of files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.pixels import flattened, rules_of
from trainer.errors import UsageError

Image: TypeAlias = str | os.PathLike[str] | npt.NDArray[np.uint8] | PIL.Image.Image
KINDS = (
    "a path, an image of Pillow, or an array uint8 [height, width] of grey, [height, width, 3] or [height, width, 4]"
)
STORED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # of Pillow, which PNG stores as they are
CONVERTED_MODES = ("CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBX", "La", "RGBa")
JPEG_FORMATS = (None, "JPEG", "MPO")  # None: an image that was changed since it was read


def contents(image: Image, config: PreprocessConfig) -> bytes:
    """The bytes of an image file that holds ``image``; pixels are encoded without loss. As in a file, transparent
    pixels will lie on ``preprocess.background``, and a photo of Pillow's is turned as its EXIF says.

    Raises:
        UsageError: a file cannot be read, or ``image`` is something else.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UsageError(f"{os.fspath(image)} cannot be read: {error.strerror}") from error
    if isinstance(image, PIL.Image.Image):
        return _of_pillow(image, config)
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not _is_picture(image.shape):
        raise UsageError(f"an image is {found}, but must be {KINDS}")
    return bytes(tf.io.encode_png(image[..., np.newaxis] if image.ndim == 2 else image).numpy())


def _is_picture(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))


def _of_pillow(image: PIL.Image.Image, config: PreprocessConfig) -> bytes:
    if config.orientation == "all" or image.format in JPEG_FORMATS:
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode in CONVERTED_MODES:
        image = flattened(image, rules_of(config))
    if image.mode not in STORED_MODES or 0 in image.size:
        raise UsageError(
            f"an image of Pillow has {image.width} x {image.height} pixels of the mode {image.mode}, which has no one "
            "meaning as a picture; convert it to L, RGB or RGBA"
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0, exif=b"", xmp=b"")
    return buffer.getvalue()
