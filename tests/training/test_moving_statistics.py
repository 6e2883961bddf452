"""Batch norm statistics of a run of any length describe its data, wherever it is cut and whatever it begins from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from composing import compose

from trainer.config.complete import complete, with_initial_updates
from trainer.config.schema import Config
from trainer.distributed.replicas import ONE_DEVICE
from trainer.fingerprint import probe
from trainer.fingerprint.imagined import two_replicas
from trainer.models.layers import FusedBatchNormalization, momentum_at_most, slowest_momentum
from trainer.training.moving_statistics import SETTLED, largest_momentum
from trainer.training.state import Progress
from trainer.training.step import make_train_step

PUBLISHED = 0.9997
TWO = "runtime.virtual_devices=2"
Statistics = npt.NDArray[np.float32]


def configuration(*overrides: str) -> Config:
    return complete(compose("optimizer=sgd", *overrides), 40, 10)


def left(updates: int, *overrides: str) -> float:
    """The share of its first values that the statistics of a published layer still have after ``updates``."""
    config = configuration(*overrides)
    layer = FusedBatchNormalization(group_size=2, momentum=PUBLISHED, synchronized=True, dtype="float32")
    progress, images = Progress(1.0), tf.constant(probe.spread((2, 4, 4, 1), 1.0, 3.0))
    layer.build(images.shape)
    for step in range(updates):
        progress.step.assign(step)
        with momentum_at_most(largest_momentum(progress, tf.constant(0), config)):
            layer(images, training=True)
    return float(1.0 - layer.moving_mean[0] / tf.reduce_mean(images))


@pytest.mark.parametrize(("updates", "most"), [(1, 0.1001), (5, 1e-3), (30, 1e-5), (255, 1e-5)])
def test_a_run_of_any_length_ends_with_statistics_of_its_own(updates: int, most: float) -> None:
    assert left(updates) < most
    constant = left(updates, "model.batch_norm.warmup=false")
    assert constant == pytest.approx(PUBLISHED**updates, rel=1e-3), "stored runs keep the momentum they had"


def after_a_step(step: int, *overrides: str, skipped: int = 0) -> tuple[Statistics, Statistics]:
    """The statistics before and after step number ``step``, which sees the same images in each of its parts."""
    wanted = configuration(*overrides)
    config = dataclasses.replace(probe.configuration(wanted), runtime=wanted.runtime)
    replicas = two_replicas() if TWO in overrides else ONE_DEVICE
    state = probe.make_state(config, replicas, auxiliary=False)
    fixed = [variable for name, variable in state.variables.items() if "moving" in name]
    before = np.concatenate([variable.numpy() for variable in fixed])
    batch = probe.training_batch(config)
    parts = config.train.accumulate_steps
    rows = config.train.global_batch_size // parts
    repeated = {name: tf.concat([batch[name][:rows]] * parts, 0) for name in batch}
    state.progress.step.assign(step)
    state.progress.skipped_steps.assign(skipped)
    make_train_step(state, config)(repeated)
    return before, np.concatenate([variable.numpy() for variable in fixed])


def kept(step: int, *overrides: str, skipped: int = 0) -> float:
    """The share of the earlier statistics that is left after step number ``step``."""
    parts = probe.configuration(configuration(*overrides)).train.accumulate_steps
    before, constant = after_a_step(step, *overrides, "model.batch_norm.warmup=false")
    of_batch = (constant - probe.MOMENTUM**parts * before) / (1 - probe.MOMENTUM**parts)
    _, after = after_a_step(step, *overrides, skipped=skipped)
    shares = (after - of_batch) / (before - of_batch)
    assert np.ptp(shares) < 1e-3
    return float(np.mean(shares))


STEPS: Mapping[str, tuple[float, int, tuple[str, ...], int]] = {
    # what the step is: (the share that it keeps, its number, the configuration, how many steps were skipped)
    "the first": (1 / 10, 0, (), 0),
    "a later one": (5 / 14, 4, (), 0),
    "far beyond the warm-up": (probe.MOMENTUM, 1000, (), 0),
    "of two parts": (7 / 16 * 8 / 17, 3, ("train.accumulate_steps=2",), 0),
    "the first that is not frozen": (1 / 10, 3, ("fine_tuning.freeze_until_step=3",), 0),
    "after two that a loss scale skipped": (3 / 12, 4, (), 2),
    "from statistics of other weights": (6 / 15, 0, ("model.batch_norm.initial_updates=5",), 0),
    "over groups": (5 / 14, 4, ("model.batch_norm.synchronized=false", "model.batch_norm.group_size=8"), 0),
    "on two replicas": (5 / 14, 4, (TWO,), 0),
    "compiled by XLA": (5 / 14, 4, ("runtime.xla=true",), 0),
}


@pytest.mark.parametrize("what", STEPS)
def test_a_step_keeps_the_share_that_the_updates_before_it_decide(what: str) -> None:
    share, step, overrides, skipped = STEPS[what]
    assert kept(step, *overrides, skipped=skipped) == pytest.approx(share, abs=2e-3)


def test_statistics_of_other_weights_are_not_thrown_away_by_one_batch() -> None:
    composed = compose("train.steps=100")
    assert complete(composed, 40, 10).model.batch_norm.initial_updates == 0
    warm = complete(with_initial_updates(composed, SETTLED), 40, 10)
    first = largest_momentum(Progress(1.0), tf.constant(0), warm)
    assert float(first) == pytest.approx(0.9)
    chosen = compose("model.batch_norm.initial_updates=7")
    assert with_initial_updates(chosen, SETTLED) == chosen


@pytest.mark.parametrize(
    ("arguments", "warmup"),
    [
        ((), True),
        (("experiment=images",), True),
        (("experiment=finetune",), True),
        (("model=keras_application",), True),
        (("experiment=inception_v3_paper",), False),
        (("experiment=inception_v3_tpu",), False),
        (("experiment=inception_v3_modern",), False),
    ],
)
def test_new_runs_warm_up_and_published_recipes_keep_their_constant(arguments: tuple[str, ...], warmup: bool) -> None:
    config = compose(*arguments, "data=image_folder", "data.root=x")
    assert config.model.batch_norm.warmup == warmup


def test_the_slowest_momentum_of_a_network_is_the_largest_of_its_layers() -> None:
    model = probe.make_state(probe.configuration(configuration()), ONE_DEVICE, auxiliary=False).model
    assert slowest_momentum(model) == probe.MOMENTUM
