"""Images of a single colour: nothing can be learned from them."""

from __future__ import annotations

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import decode_file
from trainer.data.images.examination import is_blank
from trainer.data.images.headers import ImageFault
from trainer.data.sources.sample import spread
from trainer.data.sources.source import Source

LOOKED_AT = 16


def blank_note(source: Source, config: PreprocessConfig) -> str | None:
    """A warning when at least half of ``LOOKED_AT`` records, spread over the whole split, have a single colour.

    Records that cannot be used are left out: the run itself names them.
    """
    found, blank = 0, []
    for record, image in spread(source, LOOKED_AT):
        try:
            pixels = decode_file(image, config).numpy()
        except ImageFault:
            continue
        found += 1
        blank += [record] if is_blank(pixels) else []
    if not blank or 2 * len(blank) < found:
        return None
    return (
        f"{len(blank)} of {found} training images looked at have a single colour, so there is nothing to learn from "
        f"them, the first {source.place(blank[0])}; check-data finds all"
    )
