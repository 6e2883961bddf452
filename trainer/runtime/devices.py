"""The GPUs of this machine. On a machine without any, the first query makes TensorFlow complain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import tensorflow as tf

from trainer.errors import UsageError
from trainer.runtime.quiet import quiet_startup

HIDING = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/dev/nvidiactl")  # NVIDIA's driver makes it


def physical_gpus() -> list[tf.config.PhysicalDevice]:
    """The GPUs that this process may use; an empty list if there are none."""
    with quiet_startup():
        return list(tf.config.get_visible_devices("GPU"))


def choose_device(device: Literal["auto", "gpu", "cpu"]) -> None:
    """Obey ``runtime.device``, before TensorFlow uses a device.

    Raises:
        UsageError: a GPU is demanded, and there is none; says why.
        RuntimeError: GPUs were used already.
    """
    if device == "cpu" and physical_gpus():
        tf.config.set_visible_devices([], "GPU")
    if device == "gpu" and not physical_gpus():
        raise UsageError(
            f"runtime.device=gpu, but TensorFlow finds no GPU here: {why_no_gpu()}\n"
            "runtime.device=auto computes on what there is, here the CPU"
        )


def why_no_gpu() -> str:
    """The first cause that can be seen; the end of a sentence."""
    shown = os.environ.get(HIDING)
    if shown is not None and shown.strip() in ("", "-1"):
        return f"{HIDING}={shown!r} hides all GPUs"
    if not tf.test.is_built_with_gpu_support():
        return "this build of TensorFlow computes on CPUs only"
    if not DRIVER.exists():
        return f"there is no NVIDIA driver ({DRIVER} does not exist)"
    return (
        "there is a driver, but CUDA's libraries are missing or do not fit it; pip install 'resumable-trainer[gpu]' "
        "brings them, and nvidia-smi shows the driver"
    )
