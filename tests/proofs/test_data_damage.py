"""Damage at random places of tar shards and Parquet files, and of the indices beside them: it is named, or other data
are found than a run began with, or nothing changes. No damage ends in a crash, and none gives a record the bytes of
another.

Neither format notices one kind of damage: bytes inside an image. A tar file has no checksum of its data, a Parquet file
seldom. Such an image is still read from its place with its size, and all others are unchanged.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
from composing import compose
from damages import delete, flip, grow, truncate, zero
from parquet_files import parquet_source, write_by_datasets
from tar_shards import numbered, tar_source, write_samples

from trainer.data.images.decoding import fault
from trainer.data.sources.source import Source
from trainer.data.sources.tar_members import BLOCK
from trainer.errors import TrainerError
from trainer.fingerprint.behaviour import data_facts

CASES_IN_CI = 150
CASES = 1_000
RECORDS = 30  # in each of two files: more than the fingerprint looks at


class Kind(NamedTuple):
    """Makes a folder, opens its training split, and says where the image of a record lies in its file."""

    make: Callable[[Path], object]
    source: Callable[[Path], Source]
    place: Callable[[Source, int], tuple[int, int]]


def make_tars(root: Path) -> None:
    for name, start, mtime in (("train-0.tar", 0, None), ("train-1.tar", RECORDS, 0), ("val-0.tar", 900, None)):
        write_samples(root / name, numbered(start, RECORDS), mtime=mtime)


def place_in_tar(source: Any, record: int) -> tuple[int, int]:
    samples = source._stored._samples
    return int(samples.block[record]) * BLOCK, int(samples.size[record])


def make_parquet(root: Path) -> None:
    """One file as datasets writes it, one in compressed row groups with checksums."""
    for name, start in (("train-0.parquet", 0), ("train-1.parquet", RECORDS), ("validation-0.parquet", 900)):
        write_by_datasets(root / name, range(start, start + RECORDS))
    table = pyarrow.parquet.read_table(root / "train-1.parquet")
    pyarrow.parquet.write_table(table, root / "train-1.parquet", row_group_size=7, write_page_checksum=True)


def place_in_parquet(source: Any, record: int) -> tuple[int, int]:
    index = source._stored._images._index
    return int(index.begin[record]), int(index.size[record])


KINDS = {
    "tar": Kind(make_tars, tar_source, place_in_tar),
    "parquet": Kind(make_parquet, parquet_source, place_in_parquet),
}


def swap(path: Path, draw: random.Random) -> None:
    other = draw.choice([each for each in files_of(path.parent) if each != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, truncate, delete, grow, swap, zero, flip, zero)


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_file() and path.stat().st_size)


class Seen(NamedTuple):
    """What a run compares with what it began with; the images and labels of all records; the first error."""

    facts: list[Any]
    records: list[tuple[bytes, int]]
    said: str | None


def look(kind: Kind, root: Path) -> Seen:
    try:
        source = kind.source(root)
        facts = data_facts(source, "train")
        images, labels = source.read(np.arange(source.count))
    except TrainerError as error:
        return Seen([], [], str(error))
    return Seen(facts, list(zip(images, labels.tolist(), strict=True)), None)


def changed_image(kind: Kind, before: Source, contents: dict[Path, bytes], found: Seen, expected: Seen) -> bytes:
    """The one image that is not as it was, which must be what now lies in its place."""
    different = [n for n, (new, old) in enumerate(zip(found.records, expected.records, strict=True)) if new != old]
    assert different
    for record in different:
        begin, size = kind.place(before, record)
        assert begin > 0, f"{before.place(record)} is checked, and its change was not noticed"
        file = Path(before.place(record).split(" r")[0])
        now = file.read_bytes()
        assert len(now) == len(contents[file])
        assert now[begin : begin + size] != contents[file][begin : begin + size]
        assert found.records[record] == (now[begin : begin + size], expected.records[record][1])
    return found.records[different[0]][0]


def damage_and_look(kind: Kind, whole: Path, place: Path, cases: range) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    preprocess = compose().preprocess
    for case in cases:
        draw = random.Random(case)
        shutil.copytree(whole, place)
        before = kind.source(place)
        expected = look(kind, place)
        assert expected.said is None
        contents = {path: path.read_bytes() for path in files_of(place)}
        states = {path: path.stat() for path in contents}
        path, damage = draw.choice(files_of(place)), draw.choice(DAMAGES)
        name = f"case {case}: {damage.__name__} {path.name}"
        damage(path, draw)
        if draw.random() < 0.5:  # as on a disk that fails: nobody has written the file
            for each in files_of(place):
                os.utime(each, ns=(states[each].st_atime_ns, states[each].st_mtime_ns))
        found = look(kind, place)
        if found.said is not None:
            assert str(place) in found.said, f"{name}: {found.said}"
            outcomes["named"] += 1
        elif found.facts != expected.facts:
            outcomes["other data, refused"] += 1
        elif found.records == expected.records:
            outcomes["nothing changed"] += 1
        else:
            image = changed_image(kind, before, contents, found, expected)
            decodes = fault(image, preprocess) is None
            outcomes["inside an image, " + ("noticed by nothing" if decodes else "named by its decoder")] += 1
        shutil.rmtree(place)
    return outcomes


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, Path]:
    kind = KINDS[request.param]
    root = tmp_path_factory.mktemp("whole") / "data"
    root.mkdir()
    kind.make(root)
    return kind, root


def test_random_damage_of_data_is_noticed_or_changes_nothing(whole: tuple[Kind, Path], tmp_path: Path) -> None:
    outcomes = damage_and_look(*whole, tmp_path / "damaged", range(CASES_IN_CI))
    print(outcomes)
    assert outcomes["named"] >= CASES_IN_CI // 5


@pytest.mark.torture
def test_a_thousand_random_damages_of_data(whole: tuple[Kind, Path], tmp_path: Path) -> None:
    outcomes = damage_and_look(*whole, tmp_path / "damaged", range(CASES))
    print(outcomes)
    assert sum(outcomes.values()) == CASES
