"""A program: what two replicas exchange in a train step, read from its graph, as JSON. Usage: exchanges.py OVERRIDES

The number of values of every reduction, by type, and of all gradients, moving statistics, loss and hits together.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys

from test_config import compose
from test_gpu_readiness import batch_of

from trainer import runtime
from trainer.config.complete import complete
from trainer.replicas import replicas_for
from trainer.state import build_state
from trainer.step import make_train_step

REDUCTIONS = ("CollectiveReduce", "CollectiveReduceV2", "CollectiveReduceV3", "NcclAllReduce")


def main(overrides: list[str]) -> None:
    config = complete(compose(*overrides), 40, 10)
    runtime.configure(dataclasses.replace(config.runtime, virtual_devices=2))
    state = build_state(config, replicas_for(config, None))
    graph = make_train_step(state, config).get_concrete_function(batch_of(state, 8)).graph
    found: dict[str, list[int]] = {"float32": [], "int64": []}
    for operation in graph.get_operations():
        if operation.type in REDUCTIONS:
            value = operation.inputs[0]
            found[value.dtype.name].append(math.prod(value.shape))
    values = sum(math.prod(variable.shape) for variable in state.variables.values()) + 2
    print(json.dumps({**found, "exchanged": values}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
