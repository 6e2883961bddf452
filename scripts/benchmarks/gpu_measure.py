"""A program: measures one configuration on one device and prints JSON. Usage: gpu_measure.py key=value …

Each configuration has a process of its own, because TensorFlow sets precision, determinism and XLA once in a process.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from saver import own_saver

from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.batch import Batch
from trainer.data.batches import training_batches
from trainer.data.sources.source import open_source
from trainer.distributed.replicas import replicas_here
from trainer.fingerprint import versions
from trainer.models.cost import cost
from trainer.runtime import execution
from trainer.training.state import TrainingState, build_state
from trainer.training.step import make_train_step

STEPS = 10  # in a block
BLOCKS = 5
SAVES = 3


def main(overrides: list[str]) -> None:
    composed = compose(overrides)
    runtime_ready = complete(composed, 1, 2)  # TensorFlow is set up before the data is looked at
    execution.configure(runtime_ready.runtime)
    source = open_source(composed.data, "train")
    config = complete(composed, source.count, len(source.class_names))
    replicas = replicas_here(config)
    state = build_state(config, replicas)
    step = make_train_step(state, config)
    batches = iter(training_batches(source, config, 0, state.dropout_features, device=replicas.input_device))
    started = time.perf_counter()
    resident = _on_device(next(batches))
    _run(step, state, itertools.repeat(resident, 2))  # traces, compiles, chooses algorithms
    until_ready = time.perf_counter() - started
    size = config.train.global_batch_size
    found = {
        "device": versions.versions()["device"],
        "training_flops": cost(config).training_flops,
        "seconds_to_first_steps": until_ready,
        "step": _rate(size, lambda: _run(step, state, itertools.repeat(resident, STEPS))),
        "fed": _rate(size, lambda: _run(step, state, itertools.islice(batches, STEPS))),
        "input": _rate(size, lambda: [None for _ in itertools.islice(batches, STEPS)]),
        "stall_ms": _stalls(config, state, step, resident),
        "peak_bytes": _peak_bytes(),
    }
    print(json.dumps(found))


def _on_device(batch: Batch) -> Batch:
    gpus = tf.config.list_logical_devices("GPU")
    with tf.device(gpus[0].name if gpus else "/CPU:0"):
        return {name: tf.identity(tensor) for name, tensor in batch.items()}


def _run(
    step: Callable[[Batch], None], state: TrainingState, batches: itertools.repeat[Batch] | itertools.islice[Batch]
) -> None:
    for batch in batches:
        step(batch)
    state.progress.step.numpy()  # all of it is done


def _rate(size: int, block: Callable[[], object]) -> float:
    """Images/s, the median of the blocks."""
    seconds = []
    for _ in range(BLOCKS):
        started = time.perf_counter()
        block()
        seconds.append(time.perf_counter() - started)
    return size * STEPS / statistics.median(seconds)


def _stalls(config: Config, state: TrainingState, step: Callable[[Batch], None], batch: Batch) -> dict[str, float]:
    """How long a save blocks the loop, in milliseconds, the median; each save comes after a step."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for name in ("async", "sync"):
            blocked = []
            with own_saver(Path(place) / name, config, state, in_background=name == "async") as saver:
                for number in range(SAVES + 1):
                    _run(step, state, itertools.repeat(batch, 1))
                    started = time.perf_counter()
                    saver.begin()
                    if number > 0:  # the first save builds what the later ones use
                        blocked.append(1000 * (time.perf_counter() - started))
                    saver.finish()
            found[name] = statistics.median(blocked)
    return found


def _peak_bytes() -> int | None:
    gpus = tf.config.list_logical_devices("GPU")
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]) if gpus else None


if __name__ == "__main__":
    main(sys.argv[1:])
