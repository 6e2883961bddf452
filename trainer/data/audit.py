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
from trainer.data.images.decoding import decode_file, fault
from trainer.data.images.examination import Findings, examine, is_blank
from trainer.data.images.headers import ImageFault, read_header
from trainer.data.images.libjpeg import listening
from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.progress import tracked
from trainer.data.sources.source import Source
from trainer.errors import BadRecord

Numbers = npt.NDArray[np.int64]

RECORDS_A_TASK = 32


@dataclasses.dataclass(frozen=True)
class Record:
    """The findings about one record. ``bad`` says why it cannot be used; ``size`` is height and width, upright;
    ``digest`` the first 64 bits of the SHA-256 of the encoded image, 0 where there is no image. ``blank``: all of its
    pixels are equal.
    """

    label: int
    kind: str
    size: tuple[int, int]
    digest: int
    bad: str | None
    blank: bool
    pixels: Findings | None = None


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """A record with an image that other records have, too. ``class_name`` is None where it has no usable label."""

    split: Split
    place: str
    class_name: str | None


@dataclasses.dataclass
class PixelAudit:
    """What the pixels of a split have that a network may not see as a person does. Record numbers: ``transparent``,
    of these ``blank`` (one colour on the background), ``sixteen_bits`` with the smallest and the largest value;
    ``warnings`` of decoders, with the place; ``several`` with the number of pages or frames, of which one is read.
    """

    transparent: list[int] = dataclasses.field(default_factory=list)
    blank: list[int] = dataclasses.field(default_factory=list)
    sixteen_bits: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    several: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def add(self, number: int, found: Findings, place: str) -> None:
        if found.transparent:
            self.transparent.append(number)
        if found.blank:
            self.blank.append(number)
        if found.values is not None:
            self.sixteen_bits.append((number, *found.values))
        if found.pages > 1:
            self.several.append((number, found.pages))
        self.warnings += [f"{place}: {text}" for text in found.warnings]


@dataclasses.dataclass(frozen=True)
class SplitAudit:
    """All records of a split. ``smallest`` and ``largest`` are record numbers by area, None without a usable one.
    ``labels`` int64 ``[count]`` has ``UNKNOWN`` for records without one. ``blank`` are the numbers of usable images of
    a single colour.
    """

    split: Split
    source: Source
    class_counts: dict[str, int]  # usable records
    kinds: Counter[str]
    smallest: tuple[int, tuple[int, int]] | None
    largest: tuple[int, tuple[int, int]] | None
    bad: list[str]
    blank: list[int]
    labels: Numbers
    digests: npt.NDArray[np.uint64]
    pixels: PixelAudit

    @property
    def usable(self) -> int:
        return self.source.count - len(self.bad)


def audit(source: Source, split: Split, config: PreprocessConfig) -> SplitAudit:
    """Read and decode every record of ``source`` once, in parallel, as training with ``config`` would."""
    counts = np.zeros(len(source.class_names), np.int64)
    digests = np.zeros(source.count, np.uint64)
    labels = np.zeros(source.count, np.int64)
    kinds: Counter[str] = Counter()
    bad: list[str] = []
    blank: list[int] = []
    unusable: list[int] = []
    smallest: tuple[int, tuple[int, int]] | None = None
    largest: tuple[int, tuple[int, int]] | None = None
    pixels = PixelAudit()
    heard: list[str] = []
    for number, record in enumerate(_examined(source, split, config, heard)):
        digests[number], labels[number] = record.digest, record.label
        if record.bad is not None:
            bad.append(record.bad)
            unusable.append(number)
            continue
        counts[record.label] += 1
        kinds[record.kind] += 1
        blank += [number] if record.blank else []
        if record.pixels is not None:
            pixels.add(number, record.pixels, source.place(number))
        area = record.size[0] * record.size[1]
        if smallest is None or area < smallest[1][0] * smallest[1][1]:
            smallest = number, record.size
        if largest is None or area > largest[1][0] * largest[1][1]:
            largest = number, record.size
    if heard:
        pixels.warnings += warned_by_libjpeg(source, config, set(unusable), f"looking for warnings in {split}")
    class_counts = dict(zip(source.class_names, counts.tolist(), strict=True))
    return SplitAudit(split, source, class_counts, kinds, smallest, largest, bad, blank, labels, digests, pixels)


def _examined(source: Source, split: Split, config: PreprocessConfig, heard: list[str]) -> Iterator[Record]:
    """Every record in order. Afterwards ``heard`` has what libjpeg has written to stderr meanwhile, without names."""

    def part(first: int) -> list[Record]:
        source.expect(np.arange(first, min(first + RECORDS_A_TASK + source.ahead, source.count)))
        return [_examine(source, record, config) for record in range(first, min(first + RECORDS_A_TASK, source.count))]

    firsts = range(0, source.count, RECORDS_A_TASK)
    with listening() as lines, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for records in tracked(pool.map(part, firsts), f"checking {split}", len(firsts)):
            yield from records
    heard += lines


def warned_by_libjpeg(source: Source, config: PreprocessConfig, left_out: set[int], title: str) -> list[str]:
    """The warnings of libjpeg, each with its record. Its threads do not say which image they warn of, so the images are
    decoded again, one at a time; this is done only after a warning. ``title`` stands at a bar of progress.
    """
    found = []
    for record in tracked(range(source.count), title, source.count):
        if record in left_out:
            continue
        (image,), _ = source.read(np.array([record], np.int64))
        with listening() as lines:
            fault(image, config)
        found += [f"{source.place(record)}: {line}" for line in dict.fromkeys(lines)]
    return found


def _examine(source: Source, record: int, config: PreprocessConfig) -> Record:
    try:
        (image,), (label,) = source.read(np.array([record], np.int64))
    except BadRecord as error:
        return Record(UNKNOWN, "", (0, 0), 0, str(error).splitlines()[0], blank=False)
    digest = int.from_bytes(hashlib.sha256(image).digest()[:8], "big")
    try:
        pixels = decode_file(image, config).numpy()
    except ImageFault as error:
        reason = f"{source.place(record)} cannot be decoded: {error}"
        return Record(int(label), "", (0, 0), digest, reason, blank=False)
    height, width, _ = pixels.shape
    kind = read_header(image, config.orientation).format
    return Record(int(label), kind, (height, width), digest, None, is_blank(pixels), examine(image, pixels, config))


def repeated(audits: Sequence[SplitAudit]) -> list[list[Occurrence]]:
    """For each image that more than one record holds, all of these records; in the order of the first."""
    digests = np.concatenate([each.digests for each in audits])
    firsts = np.cumsum([0, *(len(each.digests) for each in audits)])
    order = np.argsort(digests, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(digests[order])) + 1)
    several = sorted((group for group in groups if len(group) > 1 and digests[group[0]]), key=lambda group: group[0])

    def occurrence(number: int) -> Occurrence:
        index = int(np.searchsorted(firsts, number, side="right")) - 1
        audit, record = audits[index], number - int(firsts[index])
        label = int(audit.labels[record])
        name = None if label == UNKNOWN else audit.source.class_names[label]
        return Occurrence(audit.split, audit.source.place(record), name)

    return [[occurrence(int(number)) for number in group] for group in several]
