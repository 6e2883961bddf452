"""Reads every record once: what the data holds, what cannot be used, and what occurs more than once."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import fault, readable
from trainer.data.images.headers import read_header
from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.progress import tracked
from trainer.data.sources.source import Source
from trainer.errors import BadRecord

Numbers = npt.NDArray[np.int64]

Places = dict[Split, list[str]]

RECORDS_A_TASK = 32


@dataclasses.dataclass(frozen=True)
class Record:
    """The findings about one record. ``bad`` says why it cannot be used; ``size`` is height and width, upright;
    ``digest`` the first 64 bits of the SHA-256 of the encoded image, 0 where there is no image.
    """

    label: int
    kind: str
    size: tuple[int, int]
    digest: int
    bad: str | None


@dataclasses.dataclass(frozen=True)
class SplitAudit:
    """All records of a split. ``smallest`` and ``largest`` are record numbers by area, None without a usable one."""

    split: Split
    source: Source
    class_counts: dict[str, int]  # usable records
    kinds: Counter[str]
    smallest: tuple[int, tuple[int, int]] | None
    largest: tuple[int, tuple[int, int]] | None
    bad: list[str]
    digests: npt.NDArray[np.uint64]

    @property
    def usable(self) -> int:
        return self.source.count - len(self.bad)


def audit(source: Source, split: Split, config: PreprocessConfig) -> SplitAudit:
    """Read and decode every record of ``source`` once, in parallel, as training with ``config`` would."""
    counts = np.zeros(len(source.class_names), np.int64)
    digests = np.zeros(source.count, np.uint64)
    kinds: Counter[str] = Counter()
    bad: list[str] = []
    smallest: tuple[int, tuple[int, int]] | None = None
    largest: tuple[int, tuple[int, int]] | None = None
    for number, record in enumerate(_examined(source, split, config)):
        digests[number] = record.digest
        if record.bad is not None:
            bad.append(record.bad)
            continue
        counts[record.label] += 1
        kinds[record.kind] += 1
        area = record.size[0] * record.size[1]
        if smallest is None or area < smallest[1][0] * smallest[1][1]:
            smallest = number, record.size
        if largest is None or area > largest[1][0] * largest[1][1]:
            largest = number, record.size
    class_counts = dict(zip(source.class_names, counts.tolist(), strict=True))
    return SplitAudit(split, source, class_counts, kinds, smallest, largest, bad, digests)


def _examined(source: Source, split: Split, config: PreprocessConfig) -> Iterator[Record]:
    """Every record in order."""

    def part(first: int) -> list[Record]:
        return [_examine(source, record, config) for record in range(first, min(first + RECORDS_A_TASK, source.count))]

    firsts = range(0, source.count, RECORDS_A_TASK)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for records in tracked(pool.map(part, firsts), f"checking {split}", len(firsts)):
            yield from records


def _examine(source: Source, record: int, config: PreprocessConfig) -> Record:
    try:
        (image,), (label,) = source.read(np.array([record], np.int64))
    except BadRecord as error:
        return Record(UNKNOWN, "", (0, 0), 0, str(error).splitlines()[0])
    digest = int.from_bytes(hashlib.sha256(image).digest()[:8], "big")
    reason = fault(image, config)
    if reason is not None:
        return Record(int(label), "", (0, 0), digest, f"{source.place(record)} cannot be decoded: {reason}")
    height, width, *_ = readable(image, config)[1]
    return Record(int(label), read_header(image, config.orientation).format, (height, width), digest, None)


def duplicates(audits: Sequence[SplitAudit]) -> list[Places]:
    """For each image that more than one record holds, the places of all of them; in the order of the first."""
    digests = np.concatenate([each.digests for each in audits])
    firsts = np.cumsum([0, *(len(each.digests) for each in audits)])
    order = np.argsort(digests, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(digests[order])) + 1)
    repeated = sorted((group for group in groups if len(group) > 1 and digests[group[0]]), key=lambda group: group[0])

    def places(group: Numbers) -> Places:
        found: Places = {}
        for number in group:
            split = int(np.searchsorted(firsts, number, side="right")) - 1
            found.setdefault(audits[split].split, []).append(audits[split].source.place(int(number - firsts[split])))
        return found

    return [places(group) for group in repeated]
