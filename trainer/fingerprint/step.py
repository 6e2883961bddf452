"""Facts about what a step does: what the program computes from a batch, beside the network and the pipeline.

**Decision: by doing.** A tiny network is trained for a few steps by the very functions that train the run's
(``make_train_step``, ``make_evaluation_step``), with the run's own configuration, and what comes out is noted as
numbers. The alternatives were a digest of the source text, which refuses a renamed local, and one of the graph, which
refuses another version of TensorFlow and sums in another order; both say that something is different, not whether it
matters. Numbers say what matters, and the first of them that differs says where to look.

**Tolerance.** Other processors, numbers of threads and libraries round otherwise. Numbers of a fact agree when they
differ by no more than ``facts.TOLERANCE`` of the largest of them: some tens of times what was measured between
instruction sets (docs/checkpoints.md), and less than what one per cent of any factor of a step makes, for the probe's
numbers are chosen so. An edit of less than that stays unnoticed.

**Where.** On the CPU, in float32 and without XLA whatever the run does, as the first of two replicas of which the other
is imagined (see ``imagined``): a run may go on anywhere, and its fingerprint is the same everywhere. Nothing of the run
is touched: no variable, no seed, no setting of TensorFlow.

The steps that are done: the first two, and one where the learning rate is at its highest and nothing is frozen; with a
loss scale also one that overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.batch import Batch
from trainer.fingerprint import probe
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.imagined import two_replicas
from trainer.fingerprint.pieces import EVALUATED, evaluation_piece_facts, of, piece_facts, where
from trainer.training import gradients
from trainer.training import state as states
from trainer.training import step as steps
from trainer.training.gradients import is_scaled
from trainer.training.schedules import learning_rate_at
from trainer.training.state import TrainingState

CANDIDATES = (2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)  # steps, for the one where the rate is highest
EVALUATION = where(EVALUATED)  # of all facts about it
OVERFLOWING = 3e38  # a loss scale that makes infinities of any gradient
GRADIENT_KEYS = ("train.label_smoothing", "train.aux_weight", "train.accumulate_steps", "model", "mixing")
UPDATE_KEYS = (*GRADIENT_KEYS, "optimizer", "schedule", "fine_tuning", "loss_scale", "runtime.precision")
COUNTERS = ("step", "examples", "ledger", "substituted", "correct", "seen", "steps_summed")
SCALED = ("finite_steps", "skipped_steps", "loss_sum", "loss_scale")


def step_facts(config: Config, auxiliary: bool) -> list[Fact]:
    """What a step of ``config`` does, piece by piece and as a whole, to a network with or without ``auxiliary``
    classifier.
    """
    config, pair = probe.configuration(config), two_replicas()
    with tf.device("/device:CPU:0"):
        return [*piece_facts(config, pair, auxiliary), *_whole(config, probe.make_state(config, pair, auxiliary))]


def evaluation_facts(config: Config) -> list[Fact]:
    """What an evaluation step makes of a batch, and which weights it takes."""
    config = probe.configuration(config)
    with tf.device("/device:CPU:0"):
        state = probe.make_state(config, two_replicas(), auxiliary=False)
        for shadow in state.ema.values():
            shadow.assign(shadow * 0.5 + 0.25)
        weights = [tf.reduce_sum(variable) for variable in state.weights(config.evaluation.weights).values()]
        batch = probe.evaluation_batch()
        sums, predicted = _traced(steps.make_evaluation_step(state, config), batch)(batch)
        keys = ["evaluation.weights"]
        return [
            *of(EVALUATED, states, keys, {"weights": tf.stack(weights)}),
            *of(EVALUATED, steps, keys, {"sums": sums, "predictions": predicted}),
            *evaluation_piece_facts(),
        ]


def _whole(config: Config, state: TrainingState) -> Iterator[Fact]:
    batch = probe.training_batch(config)
    train_step = _traced(steps.make_train_step(state, config), batch)
    beginning = {name: variable.numpy() for name, variable in state.variables.items()}
    for number in (0, 1, _far(config)):
        state.progress.step.assign(number)
        for name, variable in state.variables.items():
            variable.assign(beginning[name])  # rounding is not carried from step to step; slots are
        yield from _done(train_step, batch, config, state, f"step {number}")
    if is_scaled(config):
        state.progress.loss_scale.assign(OVERFLOWING)
        yield from _done(train_step, batch, config, state, "a step that overflows")


def _traced(function: Any, batch: Batch) -> Any:
    """Once, and not by calling it: TensorFlow counts calls that trace, and warns of them after some."""
    return function.get_concrete_function(batch)


def _far(config: Config) -> int:
    """The step after all freezing, of some, where the learning rate is highest, so that the update shows."""
    places = [step for step in CANDIDATES if step >= config.fine_tuning.freeze_until_step]
    places = places or [config.fine_tuning.freeze_until_step]
    rates = [float(learning_rate_at(tf.constant(step, tf.int64), probe.RATE, config.schedule)) for step in places]
    return places[int(np.argmax(rates))]


def _done(train_step: Any, batch: Batch, config: Config, state: TrainingState, at: str) -> Iterator[Fact]:
    """Facts of one step, in the order in which it does things."""
    for shadow in state.ema.values():
        shadow.assign(tf.zeros_like(shadow))  # so that what it moves by is all there is of it
    progress = state.progress
    progress.loss_sum.assign(0.0)
    told = train_step(batch)
    fixed = [variable for name, variable in state.variables.items() if name not in state.trainable]
    yield from of(
        "gradients", gradients, GRADIENT_KEYS, {f"loss of {at}": told.loss, f"norm of {at}": told.gradient_norm}
    )
    yield from of("update", steps, UPDATE_KEYS, {f"batch norm statistics after {at}": tf.concat(fixed, 0)})
    for name, variable in state.trainable.items():
        yield from of("update", steps, UPDATE_KEYS, {f"{name} after {at}": variable})
        slots = {f"{slot} of {name} after {at}": of_slot[name] for slot, of_slot in state.optimizer.slots.items()}
        yield from of("update", steps, UPDATE_KEYS, slots)
    averages = {f"average of {name} after {at}": shadow for name, shadow in state.ema.items()}
    yield from of("averages", steps, (*UPDATE_KEYS, "ema"), averages)
    counted = {f"{name} after {at}": getattr(progress, name) for name in (*COUNTERS, *SCALED)}
    yield from of("counters", steps, UPDATE_KEYS, counted)
