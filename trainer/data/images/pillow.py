"""Images opened by Pillow, whose warnings are returned instead of printed: only the caller knows the file's name."""

from __future__ import annotations

import io
import os
import threading
import warnings

import PIL
from PIL import Image

# what its readers raise
PILLOW_FAULTS = (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError)
PLACE = os.path.join(os.path.dirname(PIL.__file__), "")

# Python keeps the filters of warnings for the whole process, so two threads must not change them at a time
_alone = threading.Lock()


def opened(data: bytes, form: str) -> tuple[Image.Image, list[str]]:
    """An image of the format ``form`` that reads its pixels from ``data``, and what Pillow warns of in its metadata.
    Pixels are not decoded yet, apart from those of a TIFF.

    Raises:
        OSError and the other ``PILLOW_FAULTS``: it cannot be read.
    """
    with _alone, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = Image.open(io.BytesIO(data), formats=(form.upper(),))
            if form == "TIFF":
                image.load()  # reads tags as well
        finally:
            texts = [str(each.message) for each in caught if each.filename.startswith(PLACE)]
            others = [each for each in caught if not each.filename.startswith(PLACE)]
    for each in others:  # of other threads meanwhile
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return image, list(dict.fromkeys(texts))
