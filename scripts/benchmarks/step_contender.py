"""A contender of ``scripts/bench step``, ``scale``, ``calls`` or ``torch``, in a process of its own.

Usage: ``step_contender.py NAME [ARGUMENTS]``.

All train with the same arithmetic: Inception V3 at full width without auxiliary head, dropout and weight decay
(``keras.applications`` has none of these), batch norm without scale, cross-entropy, Adam, on one batch that stays in
memory.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from bench_step import BATCH, BLOCK_STEPS, CLASSES, SAVE_STEPS, SIZE, WARM_STEPS
from saver import committing
from workers import Turns

from trainer.checkpoint.manifest import Start
from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.batch import Batch
from trainer.data.sources.source import open_source
from trainer.distributed.replicas import replicas_here
from trainer.distributed.stop_vote import StopVote
from trainer.distributed.stragglers import Stragglers
from trainer.monitoring.tensorboard import TensorBoard
from trainer.monitoring.views import Views
from trainer.run_directory import layout
from trainer.run_directory.history import History
from trainer.run_directory.metrics import VALIDATION
from trainer.run_directory.wall_time import Clock
from trainer.runtime import execution
from trainer.runtime.signals import StopRequest
from trainer.storage.lease import Fence
from trainer.training.interfaces import Run
from trainer.training.loop import train
from trainer.training.state import TrainingState, build_state
from trainer.training.step import make_train_step

LEARNING_RATE = 0.001


def main() -> None:
    turns = Turns()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        match sys.argv[1]:
            case "loop":
                _loop(turns, place, *sys.argv[2:])
            case "graph":
                _graph(turns)
            case "calls":
                _calls(turns, int(sys.argv[2]), *sys.argv[3:])
            case "bare":
                _bare(turns, jit_compile=False)
            case "bare-xla":
                _bare(turns, jit_compile=True)
            case "applications":
                _applications(turns)
            case "fit":
                _fit(turns, place)
            case "fit-steps":
                _fit(turns, place, steps_per_execution=WARM_STEPS)
            case "fit-backup":
                _fit(turns, place, backup=True)


def config_of(*overrides: str) -> Config:
    """TensorFlow chooses the threads, as it does for Keras."""
    return complete(
        compose(
            [
                "experiment=images",
                "data=synthetic",
                "data.train_examples=100000",
                "data.validation_examples=1000",
                f"data.num_classes={CLASSES}",
                f"preprocess.image_size={SIZE}",
                f"train.global_batch_size={BATCH}",
                "train.label_smoothing=0.0",
                "model.aux_logits=false",
                "model.dropout=0.0",
                "model.weight_decay=0.0",
                "optimizer=adam",
                f"optimizer.learning_rate={LEARNING_RATE}",
                "schedule=constant",
                f"checkpoint.every_steps={SAVE_STEPS}",
                "runtime.deterministic=false",
                *overrides,
            ]
        ),
        100_000,
        CLASSES,
    )


def _images_and_labels(count: int = BATCH, size: int = SIZE) -> tuple[tf.Tensor, tf.Tensor]:
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.standard_normal((count, size, size, 3)).astype(np.float32)
    return tf.constant(images), tf.constant(generator.integers(0, CLASSES, count))


def batch_of(state: TrainingState, config: Config) -> Batch:
    count = config.train.global_batch_size
    images, labels = _images_and_labels(count, config.preprocess.image_size)
    return {
        "image": images,
        "label": labels,
        "dropout": tf.zeros([count, state.dropout_features]),
        "ledger": tf.zeros([count], tf.int64),
        "substituted": tf.zeros([count], tf.int64),
    }


def _traced(turns: Turns, function: Any, *arguments: Any) -> None:
    """Report the CPU seconds of a trace, and the operations in the graph and in the functions that it calls."""
    began = time.process_time()
    definition = function.get_concrete_function(*arguments).graph.as_graph_def()
    nodes = len(definition.node) + sum(len(each.node_def) for each in definition.library.function)
    turns.tell(nodes=nodes, trace=time.process_time() - began)


def _loop(turns: Turns, place: Path, *overrides: str) -> None:
    """The loop of ``python -m trainer train`` with its log, metrics, progress bar and checkpoints."""
    config = config_of(*overrides)
    execution.configure(config.runtime)
    state = build_state(config, replicas_here(config))
    batch = batch_of(state, config)
    with _running(place, config, state, (batch for _ in turns.steps(WARM_STEPS, BLOCK_STEPS))) as run:
        train(run)


def _graph(turns: Turns) -> None:
    """Our step without the loop, because the loop does not give access to its graph."""
    config = config_of()
    execution.configure(config.runtime)
    state = build_state(config)
    _traced(turns, make_train_step(state, config), batch_of(state, config))
    turns.wait()


def _calls(turns: Turns, steps: int, *overrides: str) -> None:
    """Our step without its loop, ``steps`` of them in one call."""
    config = config_of(*overrides)
    execution.configure(config.runtime)
    state = build_state(config)
    batch = batch_of(state, config)
    step = make_train_step(state, config)

    @tf.function(autograph=False)
    def several() -> None:
        def one_more(made: tf.Tensor) -> list[tf.Tensor]:
            with tf.control_dependencies([step(batch).loss]):
                return [made + 1]

        tf.while_loop(lambda made: made < steps, one_more, [tf.constant(0)], parallel_iterations=1)

    call = several if steps > 1 else functools.partial(step, batch)
    call()
    while True:
        turns.wait()
        for _ in range(BLOCK_STEPS // steps):
            call()
        state.progress.step.numpy()


@contextlib.contextmanager
def _running(run_dir: Path, config: Config, state: TrainingState, batches: Iterator[Batch]) -> Iterator[Run]:
    start = Start(started="", host="", from_step=0, checkpoint=None, changes=())
    with committing(run_dir, config, state) as (checkpointer, history, terminal):
        yield Run(
            config=config,
            state=state,
            examples_per_epoch=100_000,
            total_steps=10**6,
            training_batches=lambda position: batches,
            evaluation_batches=(),
            checkpointer=checkpointer,
            committed_step=None,
            history=history,
            terminal=terminal,
            views=_views(run_dir, history, config, state, start),
            clock=Clock(Fence(run_dir / layout.LOCK), run_dir, time.time(), 0, lambda step, shares: None),
            stop=StopVote(StopRequest(), state.replicas, lambda: False),
            stragglers=Stragglers(["chief"]),
            start_cache=None,
            device_use=lambda seconds: {},
        )


def _views(run_dir: Path, history: History, config: Config, state: TrainingState, start: Start) -> Views:
    validation, events = open_source(config.data, "validation"), history.events
    tensorboard = TensorBoard(run_dir, events, config, state, validation, [start])
    return Views(run_dir, validation, config.preprocess, events[VALIDATION], tensorboard)


def _bare(turns: Turns, *, jit_compile: bool) -> None:
    """The same network and the same kernels, and nothing else."""
    config = config_of()
    execution.configure(config.runtime)
    state = build_state(config)
    variables, steps = list(state.trainable.values()), tf.Variable(0, dtype=tf.int64)
    rate = tf.constant(LEARNING_RATE)
    unused = tf.zeros([BATCH, state.dropout_features])

    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = state.model({"image": images, "dropout": unused}, training=True)["logits"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = dict(zip(state.trainable, tape.gradient(loss, variables), strict=True))
        state.optimizer.apply(gradients, rate, steps)
        steps.assign_add(1)
        return loss

    _repeat(turns, tf.function(step, jit_compile=jit_compile, autograph=False))


def _applications(turns: Turns) -> None:
    """The usual loop: the network and the optimizer of Keras."""
    model = keras.applications.InceptionV3(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES, classifier_activation=None
    )
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    _repeat(turns, step)


def _repeat(turns: Turns, step: Callable[..., tf.Tensor]) -> None:
    batch = _images_and_labels()
    _traced(turns, step, *batch)
    for _ in turns.steps(WARM_STEPS, BLOCK_STEPS):
        step(*batch)


class _InTurns(keras.callbacks.Callback):
    """Takes turns at the beginning of epochs. An epoch is as long as the warm-up, so no callback runs between steps."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._steps = turns.steps(WARM_STEPS, BLOCK_STEPS)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for _ in range(WARM_STEPS):
            next(self._steps)


def _fit(turns: Turns, place: Path, *, steps_per_execution: int = 1, backup: bool = False) -> None:
    model = keras.applications.InceptionV3(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES, classifier_activation=None
    )
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    callbacks: list[keras.callbacks.Callback] = [_InTurns(turns)]
    if backup:
        callbacks.append(keras.callbacks.BackupAndRestore(str(place / "backup"), save_freq=SAVE_STEPS))
    data = tf.data.Dataset.from_tensors(_images_and_labels()).repeat()
    model.fit(data, epochs=10**6, steps_per_epoch=WARM_STEPS, callbacks=callbacks)


if __name__ == "__main__":
    main()
