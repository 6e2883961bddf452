"""Images of a single colour: nothing can be learned from them."""

from __future__ import annotations

import numpy as np

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import decode_file
from trainer.data.images.headers import ImageFault
from trainer.data.sources.source import Source
from trainer.errors import BadRecord

LOOKED_AT = 16


def is_blank(pixels: np.ndarray) -> bool:
    """Whether all pixels of ``[height, width, channels]`` are equal."""
    first = pixels[0, 0]
    return bool((pixels[0] == first).all() and (pixels == first).all())


def blank_note(source: Source, config: PreprocessConfig) -> str | None:
    """A warning when at least half of ``LOOKED_AT`` records, spread over the whole split, have a single colour.

    Records that cannot be used are left out: the run itself names them.
    """
    found, blank = 0, []
    for record in np.unique(np.linspace(0, source.count - 1, LOOKED_AT).astype(np.int64)):
        try:
            (image,), _ = source.read(np.array([record]))
            pixels = decode_file(image, config).numpy()
        except (BadRecord, ImageFault):
            continue
        found += 1
        blank += [record] if is_blank(pixels) else []
    if not blank or 2 * len(blank) < found:
        return None
    return (
        f"{len(blank)} of {found} training images looked at have a single colour, so there is nothing to learn from "
        f"them, the first {source.place(int(blank[0]))}; check-data finds all"
    )
