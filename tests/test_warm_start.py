"""``init_from`` takes the weights of every format the doctor understands, value by value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diagnosing import narrow_arrays, narrow_config
from foreign_files import Arrays, flip, save_safetensors, save_with_saver, slim, torch

from trainer import warm_start
from trainer.config.complete import with_leaves
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.state import build_state


def averages(arrays: Arrays) -> Arrays:
    return {f"{name}/ExponentialMovingAverage": value for name, value in slim(arrays).items()}


WRITERS: dict[str, Callable[[Path, Arrays], Path]] = {
    "slim": lambda place, arrays: save_with_saver(place / "model.ckpt-5", slim(arrays)),
    "slim averages": lambda place, arrays: save_with_saver(place / "model.ckpt-5", averages(arrays)),
    "torchvision": lambda place, arrays: save_safetensors(place / "model.safetensors", torch(arrays)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_value_arrives_in_its_variable_and_in_its_average(writer: str, tmp_path: Path) -> None:
    arrays = narrow_arrays()
    state = build_state(with_leaves(narrow_config(), {"ema.decay": 0.9}))
    path = WRITERS[writer](tmp_path, arrays)
    lines = warm_start.load(warm_start.find(path), state)
    assert f"{len(arrays)} of {len(arrays)} variables loaded" in lines[0]
    assert any("torchvision" in line for line in lines) == (writer == "torchvision")
    for name, value in arrays.items():
        assert np.array_equal(state.variables[name].numpy(), value), name
    for name, shadow in state.ema.items():
        assert np.array_equal(shadow.numpy(), arrays[name]), name


def test_keras_weights_arrive_by_name(tmp_path: Path) -> None:
    source, target = build_state(narrow_config()), build_state(with_leaves(narrow_config(), {"seed": 5}))
    source.model.save_weights(tmp_path / "model.weights.h5")
    warm_start.load(warm_start.find(tmp_path / "model.weights.h5"), target)
    for name, variable in source.variables.items():
        assert np.array_equal(target.variables[name].numpy(), variable.numpy()), name


def test_another_width_is_refused_and_nothing_is_assigned(tmp_path: Path) -> None:
    state = build_state(with_leaves(narrow_config(), {"model.min_depth": 8}))
    before = {name: variable.numpy() for name, variable in state.variables.items()}
    path = WRITERS["slim"](tmp_path, narrow_arrays())
    with pytest.raises(RestoreRefused, match="suspiciously little"):
        warm_start.load(warm_start.find(path), state)
    assert all(np.array_equal(before[name], variable.numpy()) for name, variable in state.variables.items())


def test_a_damaged_tensor_is_refused_and_nothing_is_assigned(tmp_path: Path) -> None:
    state = build_state(narrow_config())
    before = {name: variable.numpy() for name, variable in state.variables.items()}
    path = WRITERS["slim"](tmp_path, narrow_arrays())
    data = Path(f"{path}.data-00000-of-00001")
    flip(data, data.stat().st_size // 2)
    with pytest.raises(NoValidCheckpoint):
        warm_start.load(warm_start.find(path), state)
    assert all(np.array_equal(before[name], variable.numpy()) for name, variable in state.variables.items())
