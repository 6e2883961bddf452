"""How far GPUs are used. No GPU is needed: TensorFlow and NVIDIA's library answer as they do on a machine with two."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import keras
import pytest
import tensorflow as tf

from trainer.models.cost import cost_of
from trainer.monitoring.device_use import Driver, device_use, visible
from trainer.runtime.peaks import PEAKS, peak_flops


def small_network() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])


def state_of(model: keras.Model, replicas: int) -> SimpleNamespace:
    return SimpleNamespace(model=model, replicas=SimpleNamespace(count=replicas))


def library(**answers: object) -> ModuleType:
    """NVIDIA's library in a machine with four GPUs."""
    made = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def refuse(handle: object) -> None:
        raise NVMLError("Not Supported")

    usual = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda number: f"GPU {number}",
        "nvmlDeviceGetHandleByUUID": lambda name: name,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu={"GPU 2": 90, "GPU 3": 70}[handle]),
        "nvmlDeviceGetPowerUsage": lambda handle: {"GPU 2": 300_000, "GPU 3": 200_000}[handle],
        "refuse": refuse,
    }
    vars(made).update({**usual, **{name: usual.get(str(value), value) for name, value in answers.items()}})
    return made


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    logical = [SimpleNamespace(name=f"/device:GPU:{number}") for number in range(2)]
    memory = {"GPU:0": 5_000_000_000, "GPU:1": 6_000_000_000}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: logical)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: logical)
    details = {"device_name": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"peak": memory[name]})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")


@pytest.mark.usefixtures("two_gpus")
def test_all_of_it_is_told_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    model = small_network()
    flops = cost_of(model).training_flops
    assert flops is not None
    found = device_use(state_of(model, 2), sixteen_bits=True)(1000.0)  # type: ignore[arg-type]
    assert found == {
        "mfu": pytest.approx(1000.0 * flops / (2 * 989.4e12)),
        "device_memory": 6_000_000_000,
        "gpu_utilization": pytest.approx(0.8),
        "gpu_power": pytest.approx(250.0),
    }


@pytest.mark.usefixtures("two_gpus")
def test_what_cannot_be_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"device_name": "NVIDIA of next year"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as where the package is not installed
    found = device_use(state_of(small_network(), 2), sixteen_bits=False)(1000.0)  # type: ignore[arg-type]
    assert found == {"device_memory": 6_000_000_000}


@pytest.mark.parametrize("question", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage"])
def test_a_driver_that_does_not_answer_is_no_error(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setitem(sys.modules, "pynvml", library(**{question: "refuse"}))
    driver = Driver.of_process(2)
    assert driver is not None
    assert driver.read() == {}


def test_without_a_gpu_nothing_is_told() -> None:
    assert not tf.config.list_logical_devices("GPU"), "this test is for a machine without one"
    assert device_use(state_of(small_network(), 1), sixteen_bits=False)(1000.0) == {}  # type: ignore[arg-type]


def test_the_driver_is_asked_for_the_gpus_that_the_process_sees() -> None:
    assert visible(None, 2) == ["0", "1"]
    assert visible("3, 1,0", 2) == ["3", "1"]
    assert visible("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1) == ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]


def test_the_peak_is_that_of_the_first_name_that_fits() -> None:
    assert peak_flops("NVIDIA H100 PCIe", sixteen_bits=True) == 756e12
    assert peak_flops("NVIDIA L40S", sixteen_bits=False) == 183e12
    assert peak_flops("NVIDIA L4", sixteen_bits=False) == 60e12
    assert peak_flops("cpu", sixteen_bits=False) is None
    assert list(PEAKS).index("H100 PCIe") < list(PEAKS).index("H100")
