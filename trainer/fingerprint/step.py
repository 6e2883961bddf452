"""Facts about what a step does: what the program computes from a batch, beside the network and the pipeline.

**Decision: run it.** The functions that train the run's network (``make_train_step``, ``make_evaluation_step``) train a
tiny network for a few steps, with the run's own configuration. The results are recorded as numbers. There were two
alternatives. A digest of the source text refuses a renamed local variable. A digest of the graph refuses another
version of TensorFlow, and another order of a sum. Both say that something is different, not whether it matters. Numbers
say what matters, and the first differing number says where to look.

**Tolerance.** Other processors, numbers of threads and libraries round differently. The numbers of a fact agree when
they differ by no more than ``facts.TOLERANCE`` of the largest of them. This is some tens of times the difference that
was measured between instruction sets (docs/checkpoints.md). It is less than the effect of one per cent of any factor of
a step, because the probe's numbers are chosen so. An edit with a smaller effect stays unnoticed.

**Where.** On the CPU, in float32 and without XLA whatever the run uses, as the first of two replicas of which the other
is imagined (see ``imagined``). A run may continue anywhere, and its fingerprint is the same everywhere. The probe
leaves the run alone: it changes no variable, no seed, no setting of TensorFlow.

**Which steps.** The first two, and one where the learning rate is highest and nothing is frozen. With a loss scale,
also one that overflows.
"""

from __future__ import annotations

import dataclasses
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
from trainer.training import divergence, gradients
from trainer.training import state as states
from trainer.training import step as steps
from trainer.training.gradients import is_scaled
from trainer.training.schedules import learning_rate_at
from trainer.training.state import TrainingState, rolling_statistics

CANDIDATES = (2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)  # steps that may have the highest rate
EVALUATION = where(EVALUATED)  # of all facts about it
OVERFLOWING = 3e38  # a loss scale that turns any gradient into infinities
GRADIENT_KEYS = (
    "train.label_smoothing",
    "train.aux_weight",
    "train.accumulate_steps",
    "model",
    "mixing",
    "fine_tuning.freeze",
)
UPDATE_KEYS = (*GRADIENT_KEYS, "optimizer", "schedule", "fine_tuning", "loss_scale", "runtime.precision")
COUNTERS = ("step", "examples", "ledger", "substituted", "correct", "seen", "steps_summed")
SCALED = ("finite_steps", "skipped_steps", "loss_sum", "loss_scale")


def step_facts(config: Config, auxiliary: bool) -> list[Fact]:
    """What a step of ``config`` does, piece by piece and as a whole. ``auxiliary`` says whether the network has an
    auxiliary classifier.
    """
    run, config, pair = config, probe.configuration(config), two_replicas()
    with tf.device("/device:CPU:0"):
        state = probe.make_state(config, pair, auxiliary)
        return [*piece_facts(config, pair, auxiliary), *_whole(config, state), *_judgement(run, state)]


def evaluation_facts(config: Config) -> list[Fact]:
    """What an evaluation step computes from a batch, and which weights it uses."""
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
            variable.assign(beginning[name])  # so rounding does not carry over; slots do
        yield from _done(train_step, batch, config, state, f"step {number}")
    if is_scaled(config):
        state.progress.loss_scale.assign(OVERFLOWING)
        yield from _done(train_step, batch, config, state, "a step that overflows")


def _judgement(config: Config, state: TrainingState) -> Iterator[Fact]:
    """What counts as a divergence and how the statistics move, once before the window is full and once after."""
    statistics = rolling_statistics(config)
    if not statistics:
        return
    judge = divergence.make_judge(dataclasses.replace(state, divergence=statistics), config)
    for count in (1, config.divergence.window):
        statistics["steps"].assign(count)
        for name in ("loss", "norm"):
            statistics[f"{name}_mean"].assign(0.5)
            statistics[f"{name}_variance"].assign(0.75)
        judged = judge(tf.constant(2.0), tf.constant(3.0), tf.constant(True), tf.constant(True))
        found = {f"{name} after step {count + 1}": variable for name, variable in statistics.items()}
        if count > 1:
            found["limits"] = tf.math.log(tf.stack([judged.largest_loss, judged.largest_norm]))
        yield from of("divergence", divergence, ("train.on_divergence", "divergence"), found)


def _traced(function: Any, batch: Batch) -> Any:
    """Trace once, without a call: TensorFlow counts calls that trace, and warns after a few of them."""
    return function.get_concrete_function(batch)


def _far(config: Config) -> int:
    """Among a few steps after all freezing, the one with the highest learning rate, so that the update is visible."""
    places = [step for step in CANDIDATES if step >= config.fine_tuning.freeze_until_step]
    places = places or [config.fine_tuning.freeze_until_step]
    rates = [float(learning_rate_at(tf.constant(step, tf.int64), probe.RATE, config.schedule)) for step in places]
    return places[int(np.argmax(rates))]


def _done(train_step: Any, batch: Batch, config: Config, state: TrainingState, at: str) -> Iterator[Fact]:
    """Facts about one step, in the order of its operations."""
    for shadow in state.ema.values():
        shadow.assign(tf.zeros_like(shadow))  # so that its value is its movement
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
