"""The GPUs of this machine. On a machine without any, the first query makes TensorFlow complain."""

from __future__ import annotations

import tensorflow as tf

from trainer.runtime.quiet import quiet_startup


def physical_gpus() -> list[tf.config.PhysicalDevice]:
    """The GPUs that this process may use; an empty list if there are none."""
    with quiet_startup():
        return list(tf.config.list_physical_devices("GPU"))
