"""What a GPU needs of a train step, read from its graph: no GPU is needed to see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pythons
import tensorflow as tf
from conftest import NARROW
from test_config import compose

from trainer.config.complete import complete
from trainer.state import TrainingState, build_state
from trainer.step import make_train_step

ROOT = Path(__file__).resolve().parent.parent
CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
# what stops for the host, or computes in Python
HOST = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "PrintV2", "Assert", "HostConst", "StringFormat", "CopyHost")
GROUPS = ("model.batch_norm.synchronized=false", "model.batch_norm.group_size=4")


def batch_of(state: TrainingState, size: int) -> dict[str, tf.TensorSpec]:
    return {
        "image": tf.TensorSpec([size, 75, 75, 3], tf.float32),
        "label": tf.TensorSpec([size], tf.int64),
        "dropout": tf.TensorSpec([size, state.dropout_features], tf.float32),
        "ledger": tf.TensorSpec([size], tf.int64),
        "substituted": tf.TensorSpec([size], tf.int64),
    }


def nodes_of_step(*overrides: str) -> list[Any]:
    config = complete(compose(*NARROW, *overrides), 40, 10)
    state = build_state(config)
    graph = make_train_step(state, config).get_concrete_function(batch_of(state, 8)).graph.as_graph_def()
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_mixed_step_convolves_in_16_bits_forward_and_backward_and_never_leaves_the_device(precision: str) -> None:
    nodes = nodes_of_step(f"runtime.precision={precision}")
    convolutions = [node for node in nodes if node.op in CONVOLUTIONS]
    wanted = {"mixed_float16": tf.float16, "mixed_bfloat16": tf.bfloat16}[precision]
    assert {node.op for node in convolutions} == set(CONVOLUTIONS)
    assert {tf.as_dtype(node.attr["T"].type) for node in convolutions} == {wanted}
    assert {node.op for node in nodes} & set(HOST) == set()
    assert [node.name for node in nodes if "CPU" in node.device] == []
    # one layout, as the network is written; the compiler changes it where a device likes another
    assert {node.attr["data_format"].s for node in convolutions} == {b"NHWC"}


@pytest.fixture(scope="module")
def two_devices() -> dict[str, Any]:
    """What exchanges.py finds."""
    program = str(Path(__file__).with_name("exchanges.py"))
    printed = pythons.run([program, json.dumps([*NARROW, *GROUPS])], timeout=300).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def test_two_replicas_exchange_floats_once_a_step_packed_into_one_tensor(two_devices: dict[str, Any]) -> None:
    floats, integers = two_devices["float32"], two_devices["int64"]
    assert floats == [two_devices["exchanged"]] * 2, "one reduction on each of the two devices"
    assert len(integers) == 2
    assert set(integers) == {2}, "ledger and substituted"


def test_batches_wait_on_the_device_that_computes_them_and_are_the_same(two_devices: dict[str, Any]) -> None:
    assert two_devices["elsewhere"] == 0
    assert two_devices["equal"]


def test_gpu_check_without_a_gpu_says_so_and_exits_with_2() -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    program = ROOT / "scripts" / "benchmarks" / "gpu_check.py"
    process = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 2
    assert "finds no GPU" in process.stderr


@pytest.mark.long
def test_gpu_check_rehearsed_on_a_cpu_fills_every_row(tmp_path: Path) -> None:
    program = ROOT / "scripts" / "benchmarks" / "gpu_check.py"
    small = (
        "data.train_examples=400",
        "data.validation_examples=20",
        "preprocess.image_size=75",
        "train.global_batch_size=8",
    )
    arguments = [sys.executable, str(program), "device=cpu", *NARROW, *small]
    process = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=3000)
    assert process.returncode == 0, process.stderr[-3000:]
    rows = [line for line in process.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 7
    assert sum("| bitwise |" in row for row in rows) == 6
