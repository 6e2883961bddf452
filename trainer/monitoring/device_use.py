"""How far a run uses its GPUs: the share of their peak, memory, utilisation and power.

All of it is measured, and nothing is computed from it. On a CPU there is nothing to tell: its peak is in no data sheet.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import tensorflow as tf

from trainer.models.cost import cost_of
from trainer.runtime.devices import HIDING
from trainer.runtime.peaks import peak_flops
from trainer.training.state import TrainingState

DeviceUse = Callable[[float], Mapping[str, float]]


def device_use(state: TrainingState, *, sixteen_bits: bool) -> DeviceUse:
    """A function of the images that all replicas train on in a second. It returns

    - ``mfu``: the share of the devices' peak that the multiplications of the network reach (model FLOPs utilisation,
      arXiv 2204.02311), where the peak and the network's cost are known;
    - ``device_memory``: bytes, the most that was in use so far on one GPU of this process;
    - ``gpu_utilization``: the share of the last moments in which a GPU was busy, and ``gpu_power`` in watts, as the
      driver tells them: means over the GPUs of this process. Both need the package nvidia-ml-py.
    """
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    if not names:
        return lambda images_per_second: {}
    physical = tf.config.get_visible_devices("GPU")
    kind = tf.config.experimental.get_device_details(physical[0]).get("device_name", "")
    peak, flops = peak_flops(kind, sixteen_bits=sixteen_bits), cost_of(state.model).training_flops
    driver = Driver.of_process(len(physical))

    def use(images_per_second: float) -> Mapping[str, float]:
        found = {"device_memory": max(tf.config.experimental.get_memory_info(name)["peak"] for name in names)}
        if peak is not None and flops is not None:
            found["mfu"] = images_per_second * flops / (peak * state.replicas.count)
        return {**found, **(driver.read() if driver is not None else {})}

    return use


class Driver:
    """What NVIDIA's management library (NVML) says of some GPUs."""

    def __init__(self, library: ModuleType, handles: Sequence[object]) -> None:
        self._library = library
        self._handles = handles

    @staticmethod
    def of_process(count: int) -> Driver | None:
        """For the ``count`` GPUs that this process sees; None where the library or its driver is missing."""
        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            library.nvmlInit()
            handles = [_handle(library, name) for name in visible(os.environ.get(HIDING), count)]
        except library.NVMLError:
            return None
        return Driver(library, handles)

    def read(self) -> Mapping[str, float]:
        """``gpu_utilization`` and ``gpu_power``; empty where the driver does not answer, as for a part of a GPU."""
        try:
            busy = [self._library.nvmlDeviceGetUtilizationRates(handle).gpu / 100 for handle in self._handles]
            watts = [self._library.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in self._handles]
        except self._library.NVMLError:
            return {}
        return {"gpu_utilization": sum(busy) / len(busy), "gpu_power": sum(watts) / len(watts)}


def visible(shown: str | None, count: int) -> list[str]:
    """The numbers or UUIDs by which the driver knows the first ``count`` GPUs that ``CUDA_VISIBLE_DEVICES`` shows."""
    if shown is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in shown.split(",")][:count]


def _handle(library: ModuleType, name: str) -> object:
    if name.isdigit():
        return library.nvmlDeviceGetHandleByIndex(int(name))
    return library.nvmlDeviceGetHandleByUUID(name)
