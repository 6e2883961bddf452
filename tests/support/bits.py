"""A program: digests of everything that a run has computed after some steps on a number of devices, as JSON.

Usage: bits.py STEPS COUNT OVERRIDES, e.g. 20 2 '["optimizer=sgd"]'. It has COUNT logical CPU devices. The digests are
of every variable of the state, of the losses and gradient norms of the steps, and of the sums and predictions of a
validation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from composing import compose

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.sources.source import open_source
from trainer.distributed.replicas import Replicas, replicas_here
from trainer.runtime import execution
from trainer.training.state import build_state, flatten
from trainer.training.step import make_evaluation_step, make_train_step


def digest(value: npt.NDArray[Any]) -> str:
    return hashlib.sha256(value.tobytes()).hexdigest()


def bits(config: Config, replicas: Replicas, steps: int) -> dict[str, str]:
    state = build_state(config, replicas)
    train_step = make_train_step(state, config)
    batches = iter(training_batches(open_source(config.data, "train"), config, 0, state.dropout_features))
    told = [train_step(next(batches)) for _ in range(steps)]
    found = {
        "losses": np.stack([each.loss.numpy() for each in told]),
        "gradient norms": np.stack([each.gradient_norm.numpy() for each in told]),
    }
    evaluation_step = make_evaluation_step(state, config)
    evaluated = [evaluation_step(batch) for batch in evaluation_batches(open_source(config.data, "validation"), config)]
    found["evaluation sums"] = np.stack([sums.numpy() for sums, _ in evaluated])
    found["predictions"] = np.stack([predicted.numpy() for _, predicted in evaluated])
    found.update({name: variable.numpy() for name, variable in flatten(state.tree()).items()})
    print("losses", found["losses"].tolist(), "loss scale", float(found["progress/loss_scale"]), file=sys.stderr)
    assert replicas.count == 1 or all(
        np.array_equal(copy.numpy(), variable.numpy())
        for variable in flatten(state.tree()).values()
        for copy in getattr(variable, "values", ())
    ), "all replicas have the same variables"
    return {name: digest(value) for name, value in found.items()}


def main(steps: int, count: int, overrides: list[str]) -> None:
    config = complete(compose(*overrides), 320, 10)
    execution.configure(dataclasses.replace(config.runtime, virtual_devices=count))
    replicas = replicas_here(config)
    assert replicas.count == count
    print(json.dumps(bits(config, replicas, steps)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
