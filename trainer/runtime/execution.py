"""How TensorFlow executes: threads, determinism, devices. Called once, before the first operation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Sequence

import tensorflow as tf

from trainer.config.schema.training import RuntimeConfig
from trainer.errors import UsageError
from trainer.runtime import machine
from trainer.runtime.devices import choose_device, physical_gpus
from trainer.runtime.user_cache import user_cache

# Settings that TensorFlow accepts once in a process, before its first operation: the keys, and the values in force.
ONCE = ("threads", "device", "virtual_devices", "deterministic", "xla")
_in_force: dict[str, object] = {}


def configure(config: RuntimeConfig) -> None:
    """Set up TensorFlow as ``runtime`` says, or accept it if an earlier run in this process has set it up alike.

    Raises:
        UsageError: TensorFlow already runs in this process with other settings; names them. Or ``runtime.device`` asks
            for a GPU, and there is none.
    """
    if not _in_force:
        try:
            _set_up(config)
        except RuntimeError as error:
            raise UsageError(
                f"TensorFlow was used in this process before the run, so runtime cannot be set: {error}\n"
                "start the run first, or in a process of its own (in a notebook: restart the kernel)"
            ) from error
        _remember(config)
        return
    if config.device == "gpu":
        choose_device("gpu")
    wanted = _settings(config)
    differing = [
        f"runtime.{name}={_text(there)}, not {_text(wanted[name])}"
        for name, there in _in_force.items()
        if wanted[name] != there
    ]
    if differing:
        raise UsageError(
            f"TensorFlow already runs in this process with {'; '.join(differing)}: it takes these settings once\n"
            "run it in a process of its own (in a notebook: restart the kernel)"
        )


def configure_for_reading(config: RuntimeConfig) -> None:
    """Like ``configure``, but if TensorFlow already runs, it stays as it is. Its settings decide the last bits of what
    a network computes, and nothing that is stored.
    """
    if not _in_force:
        if config.device == "gpu":
            config = dataclasses.replace(config, device="auto")  # what was trained on a GPU is read anywhere
        with contextlib.suppress(RuntimeError):  # TensorFlow was used in this process: its settings stay
            _set_up(config)
            _remember(config)


def _remember(config: RuntimeConfig) -> None:
    _in_force.update(_settings(config))


def _settings(config: RuntimeConfig) -> dict[str, object]:
    """What TensorFlow is told: that a GPU is demanded changes nothing where there is one."""
    return {name: getattr(config, name) for name in ONCE} | {"device": "cpu" if config.device == "cpu" else "auto"}


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower()


def _set_up(config: RuntimeConfig) -> None:
    """Set up TensorFlow. With XLA, what it compiles is kept in the user's cache directory.

    What makes a run exact on a CPU: the number of threads within an operation is part of the configuration (reductions
    are split by it), and no operation's result depends on which other one finished first. The one exception is AddN of
    three or more inputs (see ``trainer.training.gradients``). A step has none; TensorFlow's arithmetic optimisation
    makes them from chains of sums, so it is off. On a GPU, ``enable_op_determinism`` selects deterministic kernels, and
    one thread runs between operations, because nothing else was proven exact there. XLA's own code is deterministic and
    has no kernel for max-pool gradients under op determinism, so the two exclude each other.
    """
    assert config.threads is not None
    if config.xla:
        _keep_compiled()  # first: TensorFlow reads the flags when it looks for devices
    tf.config.threading.set_intra_op_parallelism_threads(config.threads)
    choose_device(config.device)
    gpus = physical_gpus()
    if config.virtual_devices is not None:
        _split_device(gpus, config.virtual_devices)
    else:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    if config.deterministic:
        tf.config.threading.set_inter_op_parallelism_threads(1 if gpus else config.threads)
        if config.xla:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
        else:
            tf.config.experimental.enable_op_determinism()
            tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def _split_device(gpus: Sequence[tf.config.PhysicalDevice], count: int) -> None:
    """Make ``count`` logical devices of the CPU, or of the only GPU and its memory.

    Raises:
        UsageError: there are several GPUs, which are devices already.
    """
    if len(gpus) > 1:
        raise UsageError(f"runtime.virtual_devices={count} splits one device, but this machine has {len(gpus)} GPUs")
    if gpus:
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        megabytes = int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
        parts = [tf.config.LogicalDeviceConfiguration(memory_limit=megabytes * 9 // 10 // count)] * count
        tf.config.set_logical_device_configuration(gpus[0], parts)
    else:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)


def _keep_compiled() -> None:
    """Let XLA keep executables. A directory that the user chose in ``TF_XLA_FLAGS`` stays as it is.

    An executable is machine code, and its key does not name the machine. Home directories may be shared, so different
    processors get different directories.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if "--tf_xla_persistent_cache_directory" in flags:
        return
    cache = user_cache()
    if cache is None:
        return  # without a cache everything is compiled again, and nothing else changes
    directory = cache / "xla" / machine.digest()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    os.environ["TF_XLA_FLAGS"] = f"{flags} --tf_xla_persistent_cache_directory={directory}".strip()


def leave_gpus_alone() -> None:
    """Keep TensorFlow off GPUs, which may be busy training; for commands that only read."""
    with contextlib.suppress(RuntimeError):  # TensorFlow already runs in this process: its settings stay
        tf.config.set_visible_devices([], "GPU")
    tf.config.list_logical_devices()
