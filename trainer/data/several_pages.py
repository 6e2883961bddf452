"""Training images that are the first of several in their files."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.data.images.pages import pages
from trainer.data.sources.source import Source


def pages_note(source: Source, looked_at: Iterable[tuple[int, bytes]]) -> str | None:
    """A warning when one of the records ``looked_at``, see ``sample.spread``, has several pages or frames."""
    counts = {record: pages(image) for record, image in looked_at}
    several = [record for record, count in counts.items() if count > 1]
    if not several:
        return None
    place, count = source.place(several[0]), counts[several[0]]
    return (
        f"{len(several)} of {len(counts)} training images looked at have several pages or frames, of which only the "
        f"first is read: the first is {place}, with {count}; check-data names all"
    )
