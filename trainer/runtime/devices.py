"""The GPUs of this machine. The first look for them makes TensorFlow complain on a machine that has none."""

from __future__ import annotations

import tensorflow as tf

from trainer.runtime.quiet import quiet_startup


def physical_gpus() -> list[tf.config.PhysicalDevice]:
    """Those that this process may use; empty without any."""
    with quiet_startup():
        return list(tf.config.list_physical_devices("GPU"))
