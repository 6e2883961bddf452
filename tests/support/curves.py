"""A program: the losses of the first steps of one configuration on a number of replicas, as JSON.

Usage: curves.py STEPS COUNT OVERRIDES, e.g. 50 2 '["model.width=0.01"]'. It has COUNT logical CPU devices, and knows
the plug-ins in the working directory. A process can have one strategy only: TensorFlow takes the groups of two for the
same.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import numpy as np
import tensorflow as tf
from composing import compose

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.sources.source import open_source
from trainer.distributed.replicas import Replicas, replicas_here
from trainer.runtime import execution
from trainer.training.evaluation import evaluate
from trainer.training.state import build_state, flatten
from trainer.training.step import make_evaluation_step, make_train_step


def curve(config: Config, replicas: Replicas, steps: int) -> dict[str, object]:
    """Losses of the steps, validation afterwards, all integer variables, and whether all copies are equal."""
    state = build_state(config, replicas)
    train_step = make_train_step(state, config)
    losses = []
    source = open_source(config.data, "train")
    batches = iter(training_batches(source, config, 0, state.dropout_features))
    for _ in range(steps):
        train_step(next(batches))
        losses.append(float(state.progress.loss_sum.numpy()))
        state.progress.loss_sum.assign(0.0)
    evaluation_step = make_evaluation_step(state, config)
    validation = evaluate(
        evaluation_batches(open_source(config.data, "validation"), config),
        lambda batch: evaluation_step(batch)[0],
        lambda: False,
    )
    variables = flatten(state.tree())
    copies = [
        [copy.numpy() for copy in variable.values] for variable in variables.values() if hasattr(variable, "values")
    ]
    return {
        "losses": losses,
        "validation": validation,
        "counters": {name: int(each.numpy()) for name, each in variables.items() if each.dtype == tf.int64},
        "copies": max(map(len, copies), default=1),
        "copies_equal": all(np.array_equal(each, group[0]) for group in copies for each in group),
    }


def main(steps: int, count: int, overrides: list[str]) -> None:
    sys.path.insert(0, os.getcwd())
    config = complete(compose(*overrides), 320, 10)
    execution.configure(dataclasses.replace(config.runtime, virtual_devices=count))
    print(json.dumps(curve(config, replicas_here(config), steps)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
