"""Operations of a step run beside each other, in an order that nobody controls; its result does not depend on it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pythons
from conftest import NARROW, Trainer, assert_same_run

GROUPS = ("model.batch_norm.synchronized=false", "model.batch_norm.group_size=2")  # four of them
PROCESSES = 20
AT_ONCE = 3  # more than there are cores: each disturbs the others
FULL_WIDTH = (
    "model.width=1.0",
    "train.global_batch_size=32",
    "train.steps=10",
    "data.validation_examples=20",
    "checkpoint.every_steps=5",
    "runtime.threads=2",
)


def test_no_operation_that_executes_adds_more_than_two_at_once() -> None:
    """AddN begins with the input whose memory it can reuse: of three, the rounding depends on who else is done."""
    program = Path(__file__).with_name("executed_graph.py")
    arguments = [str(program), json.dumps([*NARROW, *GROUPS])]
    executed = json.loads(pythons.run(arguments, timeout=300).stdout.splitlines()[-1])
    assert executed["inter_op_threads"] == 2
    assert executed["added"] == [2]


@pytest.mark.long
def test_20_processes_that_disturb_each_other_end_in_the_same_bits_at_full_width(trainer: Trainer) -> None:
    def train(number: int) -> Path:
        run_dir = trainer.cwd / f"run-{number}"
        trainer.run("train", f"run_dir={run_dir}", *FULL_WIDTH)
        return run_dir

    with ThreadPoolExecutor(AT_ONCE) as pool:
        first, *others = pool.map(train, range(PROCESSES))
    for other in others:
        assert_same_run(first, other)
