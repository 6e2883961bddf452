"""Runs as the program stores them, made in this process and without training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import step_facts_once
import tensorflow as tf
from composing import compose
from processes import NARROW

from trainer.config.schema import Config, Invocation
from trainer.distributed.replicas import ONE_DEVICE, Replicas
from trainer.run import assembly, session
from trainer.runtime import execution
from trainer.runtime.signals import StopRequest
from trainer.training.interfaces import Run
from trainer.training.state import TrainingState, build_state


def keep_this_process(patch: pytest.MonkeyPatch) -> None:
    """TensorFlow runs here already, so its threads stay as they are. Networks are built, and the facts of a step found,
    once for all tests.
    """
    patch.setattr(execution, "configure", lambda config: None)
    patch.setattr(assembly, "build_state", built_for_reading_once)
    step_facts_once.install(patch)


def built_once(config: Config, replicas: Replicas = ONE_DEVICE, *, drawn: bool = True) -> TrainingState:
    """``build_state``, once for each configuration; always drawn, so that it serves those who restore and those who do
    not.
    """
    return _built(config, replicas)


def built_for_reading_once(config: Config, replicas: Replicas | None = None, *, drawn: bool = True) -> TrainingState:
    """``build_state``; what is built for reading, without ``replicas``, is built once for each configuration."""
    return built_once(config) if replicas is None else build_state(config, replicas, drawn=drawn)


_built = functools.cache(build_state)


def store_run(run_dir: Path, change: Callable[[Run], None], *overrides: str, network: Sequence[str] = NARROW) -> Path:
    """A run of a ``network`` whose only checkpoint, of step 0, holds what ``change`` made of the initial state."""

    def commit(run: Run) -> None:
        change(run)
        run.checkpointer.save()
        run.checkpointer.finish()

    with pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        patch.setattr(session, "run_loop", commit)
        session.train(Invocation(str(run_dir), "fail", None, ()), compose(*network, *overrides), StopRequest())
    return run_dir


def lively(run: Run) -> None:
    """Batch norm statistics of one batch of the data and a random classifier, so that images and classes make a
    difference; averages of other values. Needs ``model.batch_norm.momentum=0``.
    """
    state = run.state
    batch = next(iter(run.training_batches(0)))
    state.model({"image": batch["image"], "dropout": batch["dropout"]}, training=True)
    generator = np.random.default_rng(11)
    for name, variable in state.variables.items():
        if name == "logits/logits/kernel":
            variable.assign(generator.normal(0.0, 0.5, variable.shape).astype(np.float32))
        elif name.endswith("moving_variance"):
            variable.assign_add(tf.fill(variable.shape, 0.03))  # channels that hardly vary would amplify rounding
        elif name.endswith(("bias", "beta")):
            variable.assign(generator.normal(0.0, 0.1, variable.shape).astype(np.float32))
    for name, shadow in state.ema.items():
        shadow.assign(state.variables[name] * generator.uniform(0.9, 1.1))
