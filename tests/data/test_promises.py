"""What every source of stored images promises, tried on each of them; docs/data.md has the results as a table."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
from composing import compose
from every_source import COUNT, IMAGES, KINDS, Kind
from image_data import jpeg
from range_server import serving

from trainer.data.order.sampling import Sampling
from trainer.errors import BadRecord, UsageError
from trainer.fingerprint.behaviour import data_facts

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
BAD, REPLACED = 8, 20  # BAD is a record that the fingerprint does not look at


def with_one(number: int, image: bytes) -> list[bytes]:
    return [*IMAGES[:number], image, *IMAGES[number + 1 :]]


def same_bytes_in_any_order(kind: Kind, root: Path) -> str:
    kind.write(root, IMAGES)
    source = kind.source(root)
    order = np.random.default_rng(0).permutation(COUNT)
    wanted = [IMAGES[number] for number in range(COUNT)]
    images, labels = source.read(np.array([kind.record(int(number)) for number in order]))
    assert images == [wanted[number] for number in order]
    assert labels.tolist() == [int(number) % 3 for number in order]
    sampling = Sampling(source, compose(f"data.root={root}", "data=image_folder"))
    far = sampling.records_at(np.arange(10**9, 10**9 + 5))
    assert source.read(far)[0] == [source.read(far[place : place + 1])[0][0] for place in range(5)]
    return "the same"


def bad_record(kind: Kind, root: Path) -> str:
    kind.write(root, with_one(BAD, b""))
    record = kind.record(BAD)
    with pytest.raises(UsageError) as error:
        kind.source(root).read(np.array([record]))
    assert str(root) in str(error.value)
    assert re.search(rf"/{BAD:03d}\.jpg|\b(record|row) {record}\b", str(error.value))
    skipping = kind.source(root, "train", "data.on_bad_record=skip")
    assert skipping.skip_bad
    assert skipping.read(np.array([kind.record(BAD + 1)]))[0] == [IMAGES[BAD + 1]]
    return "named, or left out"


def replaced_record(kind: Kind, root: Path) -> str:
    kind.write(root, IMAGES)
    before = data_facts(kind.source(root), "train")
    kind.write(root, IMAGES)
    assert data_facts(kind.source(root), "train") == before
    kind.write(root, with_one(REPLACED, jpeg(999)))
    assert data_facts(kind.source(root), "train") != before
    return "refused by a resume"


def flipped_bit(kind: Kind, root: Path) -> str:
    kind.write(root, IMAGES)
    (file,) = [
        path for path in root.rglob("*") if path.is_file() and "train" in str(path) and IMAGES[BAD] in path.read_bytes()
    ]
    content = bytearray(file.read_bytes())
    content[content.index(IMAGES[BAD]) + len(IMAGES[BAD]) // 2] ^= 1
    file.write_bytes(content)
    source = kind.source(root)
    try:
        ((image,), _) = source.read(np.array([kind.record(BAD)]))
    except BadRecord:
        return "named"
    assert image != IMAGES[BAD]
    assert source.read(np.array([kind.record(BAD + 1)]))[0] == [IMAGES[BAD + 1]]
    return "left to the decoder"


def from_another_machine(kind: Kind, root: Path) -> str:
    kind.write(root, IMAGES)
    with serving(root) as server:
        try:
            there = kind.source(server.url)
        except UsageError as error:
            said = str(error)
            there = None
        if there is None:
            assert server.url in said
            return "refused by name"
        here = kind.source(root)
        assert data_facts(there, "train") == data_facts(here, "train")
        numbers = np.random.default_rng(0).permutation(COUNT)
        assert there.read(numbers)[0] == here.read(numbers)[0]
        assert there.read(numbers)[1].tolist() == here.read(numbers)[1].tolist()
    return "the same"


PROMISES = (same_bytes_in_any_order, bad_record, replaced_record, flipped_bit, from_another_machine)


@pytest.mark.parametrize("name", KINDS)
def test_the_table_of_promises_has_what_is_found(name: str, tmp_path: Path) -> None:
    found = [promise(KINDS[name], tmp_path / promise.__name__) for promise in PROMISES]
    _, _, table = DOCUMENT.read_text().partition("<!-- promises -->")
    table = table.partition("\n\n")[0]
    (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", table, re.MULTILINE)
    assert row.split(" | ") == found


@pytest.mark.parametrize("name", KINDS)
def test_a_source_that_nobody_uses_has_no_file_open(name: str, tmp_path: Path) -> None:
    """A search opens its data for every trial, in one process."""
    KINDS[name].write(tmp_path, IMAGES)
    for _ in range(2):
        source = KINDS[name].source(tmp_path)
        source.read(np.arange(COUNT))
    assert _open_below(tmp_path) == (1 if name in ("tfrecord", "webdataset", "parquet") else 0)
    del source
    assert _open_below(tmp_path) == 0


def _open_below(directory: Path) -> int:
    """The number of files there that this process has open."""
    gc.collect()
    descriptors = Path("/proc/self/fd")
    opened = [os.readlink(each) for each in descriptors.iterdir() if each.is_symlink()]
    return sum(path.startswith(f"{directory}/") for path in opened)
