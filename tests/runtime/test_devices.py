"""``runtime.device`` decides where a run computes, and a demand that cannot be met names the cause."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from composing import compose

from trainer.config.schema.training import RuntimeConfig
from trainer.errors import UsageError
from trainer.runtime import devices, execution


class Machine:
    """TensorFlow's view of a machine with so many GPUs."""

    def __init__(self, gpus: int, patch: pytest.MonkeyPatch) -> None:
        self.visible = [f"GPU:{number}" for number in range(gpus)]
        patch.setattr(tf.config, "get_visible_devices", lambda kind: list(self.visible))
        patch.setattr(tf.config, "set_visible_devices", self._show)

    def _show(self, shown: list[str], kind: str) -> None:
        assert kind == "GPU"
        self.visible = shown


def test_a_run_on_the_cpu_leaves_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2, monkeypatch)
    devices.choose_device("auto")
    devices.choose_device("gpu")
    assert len(devices.physical_gpus()) == 2
    devices.choose_device("cpu")
    assert machine.visible == devices.physical_gpus() == []


@pytest.mark.parametrize(
    ("variable", "built", "driver", "cause"),
    [
        ("-1", True, True, r"CUDA_VISIBLE_DEVICES='-1' hides all GPUs"),
        ("", True, True, r"CUDA_VISIBLE_DEVICES='' hides all GPUs"),
        (None, False, True, "this build of TensorFlow computes on CPUs only"),
        ("0", True, False, r"there is no NVIDIA driver \(.*nvidiactl does not exist\)"),
        (None, True, True, r"CUDA's libraries are missing or do not fit it; pip install 'resumable-trainer\[gpu\]'"),
    ],
)
def test_a_machine_without_a_gpu_refuses_the_demand_for_one_with_the_cause(
    variable: str | None, built: bool, driver: bool, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(0, monkeypatch)
    monkeypatch.setattr(tf.test, "is_built_with_gpu_support", lambda: built)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "nvidiactl")
    if driver:
        (tmp_path / "nvidiactl").touch()
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    with pytest.raises(UsageError, match=f"runtime.device=gpu, but TensorFlow finds no GPU here: .*{cause}"):
        devices.choose_device("gpu")
    devices.choose_device("auto")


def runtime(device: str) -> RuntimeConfig:
    return compose(f"runtime.device={device}", "runtime.threads=2").runtime


def test_a_network_that_was_trained_on_a_gpu_is_read_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_in_force", {})
    asked = []
    monkeypatch.setattr(execution, "_set_up", lambda config: asked.append(config.device))
    execution.configure_for_reading(runtime("gpu"))
    assert asked == ["auto"]


def test_a_second_run_of_a_process_computes_where_the_first_did(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(1, monkeypatch)
    monkeypatch.setattr(execution, "_in_force", execution._settings(runtime("auto")))
    execution.configure(runtime("gpu"))
    with pytest.raises(UsageError, match=r"already runs in this process with runtime\.device=auto, not cpu"):
        execution.configure(runtime("cpu"))
    Machine(0, monkeypatch)
    with pytest.raises(UsageError, match=r"runtime\.device=gpu, but TensorFlow finds no GPU here"):
        execution.configure(runtime("gpu"))
