"""A program: what moves between two devices, as JSON. Usage: exchanges.py OVERRIDES

Of two replicas, read from the graph of a step: the number of values of every reduction, by type, and of all gradients,
moving statistics, loss and hits together. Of an input pipeline that is to end on the second device: how many tensors
lie elsewhere, and whether they are bit for bit those in the host's memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys

import tensorflow as tf
from composing import compose
from steps import batch_of

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.data.batches import training_batches
from trainer.data.sources.source import open_source
from trainer.distributed.replicas import replicas_here
from trainer.runtime import execution
from trainer.training.state import build_state
from trainer.training.step import make_train_step

REDUCTIONS = ("CollectiveReduce", "CollectiveReduceV2", "CollectiveReduceV3", "NcclAllReduce")


def main(overrides: list[str]) -> None:
    config = complete(compose(*overrides), 40, 10)
    execution.configure(dataclasses.replace(config.runtime, virtual_devices=2))
    state = build_state(config, replicas_here(config))
    graph = make_train_step(state, config).get_concrete_function(batch_of(state, 8)).graph
    found: dict[str, list[int]] = {"float32": [], "int64": []}
    for operation in graph.get_operations():
        if operation.type in REDUCTIONS:
            value = operation.inputs[0]
            found[value.dtype.name].append(math.prod(value.shape))
    values = sum(math.prod(variable.shape) for variable in state.variables.values()) + 2
    print(json.dumps({**found, "exchanged": values, **prefetched(config, tf.config.list_logical_devices()[1].name)}))


def prefetched(config: Config, device: str) -> dict[str, object]:
    source = open_source(config.data, "train")
    here, there = (
        list(itertools.islice(training_batches(source, config, 8, 5, device=each), 3)) for each in (None, device)
    )
    return {
        "elsewhere": sum(not tensor.device.endswith(device) for batch in there for tensor in batch.values()),
        "equal": all(
            (one[name].numpy() == other[name].numpy()).all()
            for one, other in zip(here, there, strict=True)
            for name in one
        ),
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
