"""Of any number of processes and devices, as many compute as can take equal shares of every batch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from composing import compose
from processes import NARROW

from trainer.config.check import unequal_shares
from trainer.distributed.sharing import notes, share_out, usable

LOGICAL = (
    "train.logical_replicas=4",
    "train.global_batch_size=48",
    "evaluation.batch_size=48",
    "model.batch_norm.synchronized=false",
    "model.batch_norm.group_size=3",
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("overrides", "there", "computing"),
    [
        # a batch of 8, validated in batches of 16: processes and devices of each -> those that compute
        ((), (1, 1), (1, 1)),
        ((), (2, 1), (2, 1)),
        ((), (3, 1), (2, 1)),
        ((), (4, 1), (4, 1)),
        ((), (7, 1), (4, 1)),
        ((), (100, 1), (8, 1)),
        ((), (3, 4), (2, 4)),
        ((), (3, 3), (2, 2)),
        ((), (4, 3), (4, 2)),
        ((), (1, 3), (1, 2)),
        ((), (5, 8), (1, 8)),
        (("evaluation.batch_size=15",), (3, 1), (1, 1)),
        (("train.accumulate_steps=4",), (3, 1), (2, 1)),
        (("train.accumulate_steps=8",), (3, 4), (1, 1)),
        (("train.global_batch_size=1600", "evaluation.batch_size=1000"), (12, 1), (10, 1)),
        (("train.global_batch_size=12", "evaluation.batch_size=12"), (3, 4), (3, 4)),
        (("train.global_batch_size=6", "evaluation.batch_size=6"), (4, 4), (2, 3)),
        (LOGICAL, (2, 1), (2, 1)),
        (LOGICAL, (3, 1), (2, 1)),
        (LOGICAL, (8, 1), (4, 1)),
        (LOGICAL, (3, 4), (1, 4)),
        (LOGICAL, (3, 2), (2, 2)),
    ],
)
def test_the_largest_number_of_replicas_that_divides_every_batch_computes(
    overrides: tuple[str, ...], there: tuple[int, int], computing: tuple[int, int]
) -> None:
    config = compose(*NARROW, *overrides)
    shared = share_out(config, *there)
    assert (shared.processes, shared.devices) == computing
    assert unequal_shares(config, shared.processes * shared.devices) is None
    assert (shared.reason is None) == (computing == there)


def test_who_idles_is_named_with_the_reason_and_the_numbers_that_would_do() -> None:
    config = compose(*NARROW)
    workers = tuple(f"node{number}:12000" for number in range(1, 5))
    idle, numbers = notes(config, workers[:3], 1, share_out(config, 3, 1))
    assert idle == (
        "worker 2 at node3:12000 idles: train.global_batch_size=8 cannot be divided equally among 3 replicas; "
        "the nearest that work: 6 and 9"
    )
    assert numbers == "numbers of processes of which none idles: 1, 2, 4, 8"
    assert notes(config, workers, 1, share_out(config, 4, 1)) == (numbers,)
    of_each, numbers = notes(config, workers, 3, share_out(config, 4, 3))
    assert of_each.startswith("1 of 3 devices idle in each process: train.global_batch_size=8 cannot be divided")
    assert numbers == "numbers of processes of which none idles: 1, 2, 4"


def test_devices_that_do_not_divide_the_logical_replicas_idle_with_the_numbers_that_do() -> None:
    config = compose(*NARROW, *LOGICAL)
    workers = tuple(f"node{number}:12000" for number in range(1, 4))
    idle, numbers = notes(config, workers, 1, share_out(config, 3, 1))
    assert idle == (
        "worker 2 at node3:12000 idles: train.logical_replicas=4 cannot be divided equally among 3 replicas; "
        "the numbers that work: 1, 2, 4"
    )
    assert numbers == "numbers of processes of which none idles: 1, 2, 4"


def test_the_table_of_the_documentation_is_that_of_the_program() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| ([\d, ]+) <!--", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    for sizes, numbers in rows:
        for size in sizes.split(", "):
            config = compose(*NARROW, f"train.global_batch_size={size}", f"evaluation.batch_size={size}")
            assert ", ".join(str(each) for each in usable(config, 1) if each <= 32) == numbers


def test_numbers_that_leave_no_process_idle_are_those_whose_devices_divide_the_batches() -> None:
    config = compose(*NARROW, "train.global_batch_size=48", "evaluation.batch_size=96")
    assert usable(config, 1) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 48]
    assert usable(config, 4) == [1, 2, 3, 4, 6, 12]
    assert usable(config, 5) == []
