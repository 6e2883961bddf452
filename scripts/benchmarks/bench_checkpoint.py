"""The cost of a checkpoint: the time the loop is blocked, the time until the commit, and training throughput.

Full-width Inception V3 with Adam, whose state has two slots for each weight. Every contender saves the same state from
the same training step. The peers neither check for NaN, nor hash, nor sync their files.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import orbax.checkpoint
import tensorflow as tf
from interleaved import Row, measured, publish, row
from saver import Saver, own_saver

from trainer.checkpoint.verification import newest_valid
from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.training.state import TrainingState, build_state, flatten
from trainer.training.step import make_train_step

SIZE, CLASSES = 75, 1000
SAVES = 7  # of each contender
SAVING_BATCH = 2  # the cost of a save does not depend on the batch, and every save needs a step before it
TRAINING_BATCH = 32
BLOCK_STEPS = 50  # a block of training has one save in it
BLOCKS = 5
OFTEN_STEPS = 10
BASELINE = "tf.train.Checkpoint.write"


def main() -> None:
    config = _config()
    state = build_state(config)
    step = make_train_step(state, config)
    small, batch = _batch(state, SAVING_BATCH), _batch(state, TRAINING_BATCH)
    step(small)  # trace
    step(batch)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        size = sum(int(np.prod(variable.shape)) * variable.dtype.size for variable in flatten(state.tree()).values())
        with _savers(place, config, state) as savers:
            rows = [*_stalls(savers, state, step, small), *_throughput(savers, step, batch)]
            rows += _often(savers[0], state, step, batch)
        rows += _verification(place)
    publish("checkpoint", f"Inception V3 with Adam: {size / 1e6:.0f} MB of state", rows)


def _config() -> Config:
    overrides = [
        "experiment=images",
        "data=digits",
        f"model.num_classes={CLASSES}",
        f"preprocess.image_size={SIZE}",
        f"train.global_batch_size={TRAINING_BATCH}",
        "optimizer=adam",
        "runtime.threads=2",
    ]
    return complete(compose(overrides), 1000, CLASSES)


def _batch(state: TrainingState, size: int) -> dict[str, tf.Tensor]:
    generator = np.random.Generator(np.random.PCG64(0))
    return {
        "image": tf.constant(generator.standard_normal((size, SIZE, SIZE, 3)), tf.float32),
        "label": tf.constant(generator.integers(0, CLASSES, size), tf.int64),
        "dropout": tf.constant(generator.random((size, state.dropout_features)), tf.float32),
        "ledger": tf.zeros([size], tf.int64),
        "substituted": tf.zeros([size], tf.int64),
    }


@contextmanager
def _savers(place: Path, config: Config, state: TrainingState) -> Iterator[list[Saver]]:
    with (
        own_saver(place / "async", config, state, in_background=True) as ours_async,
        own_saver(place / "sync", config, state, in_background=False) as ours_sync,
    ):
        yield [ours_async, ours_sync, *_tensorflow(place, state), _orbax(place, state), _keras(place)]


def _tensorflow(place: Path, state: TrainingState) -> list[Saver]:
    checkpoint = tf.train.Checkpoint(**state.tree())
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(**state.tree()), str(place / "manager"), max_to_keep=2)
    return [
        Saver(BASELINE, lambda: checkpoint.write(str(place / "plain")), _nothing),
        Saver("tf.train.CheckpointManager.save", manager.save, _nothing),
    ]


def _orbax(place: Path, state: TrainingState) -> Saver:
    manager = orbax.checkpoint.CheckpointManager(
        place / "orbax",
        options=orbax.checkpoint.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True),
    )
    flat, numbers = flatten(state.tree()), itertools.count()

    def begin() -> None:
        tree = {name.replace("/", "."): variable.numpy() for name, variable in flat.items()}
        manager.save(next(numbers), args=orbax.checkpoint.args.StandardSave(tree))

    return Saver("Orbax CheckpointManager, async", begin, manager.wait_until_finished)


def _keras(place: Path) -> Saver:
    """The callback's own save of a compiled model of the same size."""
    model = keras.applications.InceptionV3(weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES)
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    callback = keras.callbacks.BackupAndRestore(str(place / "keras"), save_freq=1)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    numbers = itertools.count()
    return Saver("Keras BackupAndRestore", lambda: callback.on_train_batch_end(next(numbers)), _nothing)


def _nothing() -> None:
    pass


def _stalls(
    savers: list[Saver], state: TrainingState, step: Callable[[Any], None], batch: dict[str, tf.Tensor]
) -> list[Row]:
    """Every save comes after a step, as in training, so that no contender writes the same values again."""
    blocked: dict[str, list[float]] = {saver.name: [] for saver in savers}
    whole: dict[str, list[float]] = {saver.name: [] for saver in savers}
    for number in range(SAVES + 1):
        turned = number % len(savers)
        for saver in [*savers[turned:], *savers[:turned]]:
            step(batch)
            state.progress.step.numpy()  # the step is done
            before = time.perf_counter()
            saver.begin()
            until_free = time.perf_counter() - before
            saver.finish()
            if number > 0:  # the first save builds what the later ones use
                blocked[saver.name].append(1000 * until_free)
                whole[saver.name].append(time.perf_counter() - before)
    return [
        *(row(f"{name}: loop blocked", values, "ms", blocked[BASELINE]) for name, values in blocked.items()),
        *(row(f"{name}: until on disk", values, "s", whole[BASELINE]) for name, values in whole.items()),
    ]


def _throughput(savers: list[Saver], step: Callable[[Any], None], batch: dict[str, tf.Tensor]) -> list[Row]:
    """Steps a second over blocks that begin with one save; a block includes the end of its save."""
    none = Saver("no save", _nothing, _nothing)
    contenders = [none, *savers]
    rates: dict[str, list[float]] = {saver.name: [] for saver in contenders}
    for number in range(BLOCKS):
        turned = number % len(contenders)
        for saver in [*contenders[turned:], *contenders[:turned]]:

            def block(saver: Saver = saver) -> None:
                saver.begin()
                for _ in range(BLOCK_STEPS):
                    step(batch)
                saver.finish()

            rates[saver.name].append(BLOCK_STEPS / measured(block)[0])
    return [
        row(f"{name}: a save every {BLOCK_STEPS} steps", values, "steps/s", rates[none.name])
        for name, values in rates.items()
    ]


def _often(saver: Saver, state: TrainingState, step: Callable[[Any], None], batch: dict[str, tf.Tensor]) -> list[Row]:
    """Wall and CPU seconds of a few steps that begin with a save, beside as many without, in alternation."""

    def block(*, saving: bool) -> None:
        if saving:
            saver.begin()
        for _ in range(OFTEN_STEPS):
            step(batch)
        state.progress.step.numpy()  # the steps are done
        saver.finish()

    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(BLOCKS):
        for saving in (True, False) if number % 2 else (False, True):
            times[saving].append(measured(functools.partial(block, saving=saving)))
    rows = []
    for name, which in (("wall", 0), ("CPU", 1)):
        without, with_save = ([each[which] for each in times[saving]] for saving in (False, True))
        rows.append(row(f"{OFTEN_STEPS} steps: {name}", without, "s", without))
        rows.append(row(f"{saver.name}: {OFTEN_STEPS} steps with a save: {name}", with_save, "s", without))
    return rows


def _verification(place: Path) -> list[Row]:
    """Finding and checking the newest checkpoint, as a resume does."""
    rows = []
    for depth in ("full", "fast", "off"):
        values = [
            measured(functools.partial(newest_valid, place / "async" / "checkpoints", depth, print))[0]
            for _ in range(SAVES)
        ]
        rows.append(row(f"verification at resume, checkpoint.verify={depth}", values, "s"))
    return rows
