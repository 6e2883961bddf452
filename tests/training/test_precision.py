"""Sixteen-bit activations: what stays float32, and the loss scale that is part of the state."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import NARROW, Trainer, assert_same_run, metrics
from steps import batch, narrow

from trainer.config.schema.training import LossScaleConfig
from trainer.training.loss_scale import update_loss_scale
from trainer.training.state import Progress, build_state, flatten
from trainer.training.step import make_train_step

LARGEST = 2.0**100


def test_convolutions_compute_in_16_bits_and_variables_batch_norm_and_classifiers_in_32() -> None:
    state = build_state(narrow("runtime.precision=mixed_bfloat16"))
    assert {variable.dtype for variable in flatten(state.tree()).values() if variable.dtype.is_floating} == {
        tf.float32,
        tf.float64,  # best values in progress
    }
    for layer in state.model.layers:
        wide = isinstance(layer, keras.layers.BatchNormalization | keras.layers.Dense)
        wide = wide or layer.name.startswith("logits.") or layer.name.endswith("avgpool_2b")
        if not isinstance(layer, keras.layers.InputLayer):
            assert layer.compute_dtype == ("float32" if wide else "bfloat16"), layer.name
    images, draws = tf.zeros([2, 75, 75, 3]), tf.zeros([2, state.dropout_features])
    outputs = state.model({"image": images, "dropout": draws}, training=False)
    assert {tensor.dtype for tensor in outputs.values()} == {tf.float32}


def test_the_loss_scale_doubles_after_enough_finite_steps_halves_after_another_and_stays_in_range() -> None:
    progress = Progress(8.0)
    config = LossScaleConfig(8.0, growth_steps=2)
    found = []
    for finite in (True, True, True, False, True, True, False, False, False, False, False):
        update_loss_scale(progress, tf.constant(finite), config)
        found.append(progress.loss_scale.numpy())
    assert found == [8, 16, 16, 8, 8, 16, 8, 4, 2, 1, 1]
    assert progress.skipped_steps.numpy() == 6
    progress.loss_scale.assign(float(np.finfo(np.float32).max))
    for _ in range(2):
        update_loss_scale(progress, tf.constant(True), config)
    assert np.isfinite(progress.loss_scale.numpy())


@pytest.mark.long  # float16 convolutions are slow on a CPU
def test_an_overflow_skips_all_but_position_and_scale_and_the_scale_is_taken_out_of_gradients_again() -> None:
    settings = ("runtime.precision=mixed_float16", f"loss_scale.initial={LARGEST}", "loss_scale.growth_steps=1")
    config = narrow(*settings, "ema.decay=0.5", "schedule.warmup_steps=0", "optimizer=sgd")
    state = build_state(config)
    train_step = make_train_step(state, config)
    variables = flatten(state.tree())
    before = {name: variable.numpy() for name, variable in variables.items()}

    def step_from_the_start(scale: float) -> dict[str, np.ndarray]:
        for name, variable in variables.items():
            variable.assign(before[name])
        state.progress.loss_scale.assign(scale)
        train_step(batch(state))
        return {name: variable.numpy() for name, variable in variables.items()}

    skipped = step_from_the_start(LARGEST)
    changed = {name for name, value in skipped.items() if not np.array_equal(value, before[name])}
    assert changed == {f"progress/{name}" for name in ("step", "examples", "ledger", "loss_scale", "skipped_steps")}
    assert skipped["progress/loss_scale"] == LARGEST / 2
    one, many = step_from_the_start(1.0), step_from_the_start(64.0)
    assert (one["progress/loss_scale"], many["progress/loss_scale"], many["progress/skipped_steps"]) == (2, 128, 0)
    for name in ("logits/logits/kernel", "logits/logits/bias", "aux_logits/logits/kernel"):
        moved = one[f"model/{name}"] - before[f"model/{name}"]
        assert np.abs(moved).max() > 1e-4, name
        np.testing.assert_allclose(many[f"model/{name}"] - before[f"model/{name}"], moved, rtol=0.02, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_training_in_16_bits_resumes_exactly_with_its_loss_scale(precision: str, trainer: Trainer) -> None:
    arguments = (*NARROW, f"runtime.precision={precision}", "schedule.decay_steps=24", "checkpoint.every_steps=6")
    arguments = (*arguments, "loss_scale.growth_steps=3")
    straight, resumed = trainer.cwd / "straight", trainer.cwd / "resumed"
    trainer.run("train", f"run_dir={straight}", *arguments, "train.steps=24")
    trainer.run("train", f"run_dir={resumed}", *arguments, "train.steps=11")
    trainer.run("resume", f"run_dir={resumed}", "train.steps=24")
    assert_same_run(straight, resumed)
    scales = [record["loss_scale"] for record in metrics(straight) if "loss_scale" in record]
    assert len(set(scales)) > 1 if precision == "mixed_float16" else not scales
