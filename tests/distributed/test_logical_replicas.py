"""What logical replicas refuse, and what the graph costs. That they keep every bit: tests/proofs/test_elastic.py."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import pythons
from composing import compose
from processes import NARROW, Trainer
from small_plugin import SMALL
from steps import batch_of

from trainer.config.complete import complete
from trainer.errors import UsageError
from trainer.training.state import build_state
from trainer.training.step import make_train_step

GROUPS = ("model.batch_norm.synchronized=false", "model.batch_norm.group_size=2")
LOGICAL = ("train.logical_replicas=4", "train.global_batch_size=16", *GROUPS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.logical_replicas=1",), "train.logical_replicas"),
        (
            ("train.logical_replicas=6",),
            "train.logical_replicas=6 is not a power of two; the nearest that work: 4 and 8",
        ),
        (
            ("model.batch_norm.synchronized=true", "model.batch_norm.group_size=32"),
            "needs all at every layer; normalise over groups within a share: "
            "model.batch_norm.synchronized=false model.batch_norm.group_size=4",
        ),
        (("runtime.deterministic=false",), "runtime.deterministic=false promises none"),
        (("runtime.xla=true",), "runtime.xla=true was not shown to keep"),
        (
            ("train.global_batch_size=4",),
            "train.global_batch_size=4 cannot be divided equally among train.logical_replicas=4 x groups of "
            "model.batch_norm.group_size=2; the nearest that work: 8",
        ),
        (
            ("train.accumulate_steps=4",),
            "among train.logical_replicas=4 x train.accumulate_steps=4 x groups of model.batch_norm.group_size=2; the "
            "nearest that work: 32",
        ),
        (
            ("mixing=mixup", "model.batch_norm.group_size=3", "train.global_batch_size=12"),
            "x pairs that are mixed; the nearest that work: 24",
        ),
        (("evaluation.batch_size=18",), "evaluation.batch_size=18 cannot be divided equally among train.logical"),
        (
            ("evaluation.batch_size=4",),
            "evaluation.batch_size=4 gives each of train.logical_replicas=4 1 example, which other kernels compute "
            "than several; the least is 8",
        ),
    ],
)
def test_what_could_not_keep_the_bits_is_refused_by_name(overrides: tuple[str, ...], message: str) -> None:
    compose(*NARROW, *LOGICAL)
    with pytest.raises(UsageError) as refused:
        compose(*NARROW, *LOGICAL, *overrides)
    assert message in str(refused.value)


# one step of each configuration, in a directory where the small network is installed
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import executed_graph
for overrides in json.loads(sys.argv[2]):
    executed_graph.main(overrides)
"""


@pytest.mark.usefixtures("small")
def test_twice_the_logical_replicas_make_the_graph_one_function_larger() -> None:
    nodes = []
    for count in (2, 4, 8, 16):
        sizes = (f"train.global_batch_size={2 * count}", f"evaluation.batch_size={2 * count}")
        config = complete(compose(*SMALL, *GROUPS, f"train.logical_replicas={count}", *sizes), 40, 10)
        state = build_state(config)
        graph = make_train_step(state, config).get_concrete_function(batch_of(state, 2 * count)).graph.as_graph_def()
        nodes.append(len(graph.node) + sum(len(function.node_def) for function in graph.library.function))
    grown = {after - before for before, after in itertools.pairwise(nodes)}
    assert len(grown) == 1, nodes
    assert 0 < grown.pop() < nodes[0] / 4, nodes


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_tensorflow_executes_the_functions_of_logical_replicas_and_puts_none_in_the_place_of_its_calls(
    trainer: Trainer,
) -> None:
    support = Path(__file__).parents[1] / "support"
    sizes = ("train.logical_replicas=2", "train.logical_replicas=8")
    steps = [[*SMALL, *GROUPS, "train.global_batch_size=16", size] for size in sizes]
    printed = pythons.run(["-c", PROGRAM, str(support), json.dumps(steps)], cwd=trainer.cwd, timeout=300).stdout
    few, many = [json.loads(line)["largest"] for line in printed.splitlines() if line.startswith("{")]
    assert few == many
