"""Configurations and batches for single steps of the narrow network."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from composing import compose
from processes import NARROW

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.training.state import TrainingState


def batch_of(state: TrainingState, size: int) -> dict[str, tf.TensorSpec]:
    return {
        "image": tf.TensorSpec([size, 75, 75, 3], tf.float32),
        "label": tf.TensorSpec([size], tf.int64),
        "dropout": tf.TensorSpec([size, state.dropout_features], tf.float32),
        "ledger": tf.TensorSpec([size], tf.int64),
        "substituted": tf.TensorSpec([size], tf.int64),
    }


def narrow(*overrides: str) -> Config:
    return complete(compose(*NARROW, *overrides), 40, 10)


def batch(state: TrainingState) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    return {
        "image": tf.constant(generator.uniform(-1, 1, (8, 75, 75, 3)).astype(np.float32)),
        "label": tf.constant(np.arange(8), tf.int64),
        "dropout": tf.constant(generator.uniform(0, 1, (8, state.dropout_features)).astype(np.float32)),
        "ledger": tf.ones([1], tf.int64),
        "substituted": tf.zeros([1], tf.int64),
    }
