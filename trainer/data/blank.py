"""Images of a single colour: nothing can be learned from them."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import decode_file
from trainer.data.images.examination import is_blank
from trainer.data.images.headers import ImageFault
from trainer.data.sources.source import Source


def blank_note(source: Source, looked_at: Iterable[tuple[int, bytes]], config: PreprocessConfig) -> str | None:
    """A warning when at least half of the records ``looked_at``, see ``sample.spread``, have a single colour.

    Records that cannot be decoded are left out: the run itself names them.
    """
    found, blank = 0, []
    for record, image in looked_at:
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
