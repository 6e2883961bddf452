"""How TensorFlow executes: threads, determinism, devices. Called once, before the first operation."""

from __future__ import annotations

import os

import tensorflow as tf

from trainer.config.schema import RuntimeConfig
from trainer.quiet import quiet_startup


def configure(config: RuntimeConfig) -> None:
    """Set up TensorFlow as ``runtime`` says.

    What makes a run exact on a CPU: the number of threads within an operation is part of the configuration
    (reductions are split by it), and one thread between operations, because with two the order in which they
    finish decides sums. On a GPU, ``enable_op_determinism`` selects deterministic kernels. XLA's own code is
    deterministic and has no kernel for max-pool gradients under op determinism, so the two exclude each other.
    """
    assert config.threads is not None
    tf.config.threading.set_intra_op_parallelism_threads(config.threads)
    with quiet_startup():
        gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if config.deterministic:
        tf.config.threading.set_inter_op_parallelism_threads(1)
        if config.xla:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
        else:
            tf.config.experimental.enable_op_determinism()
