"""Training images that are the first of several in their files."""

from __future__ import annotations

from trainer.data.images.pages import pages
from trainer.data.sources.sample import spread
from trainer.data.sources.source import Source

LOOKED_AT = 16


def pages_note(source: Source) -> str | None:
    """A warning when one of ``LOOKED_AT`` records, spread over the whole split, has several pages or frames."""
    counts = {record: pages(image) for record, image in spread(source, LOOKED_AT)}
    several = [record for record, count in counts.items() if count > 1]
    if not several:
        return None
    place, count = source.place(several[0]), counts[several[0]]
    return (
        f"{len(several)} of {len(counts)} training images looked at have several pages or frames, of which only the "
        f"first is read: the first is {place}, with {count}; check-data names all"
    )
