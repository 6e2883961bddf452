"""``init_from`` takes the weights of every format the doctor understands, value by value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diagnosing import commit, narrow_arrays, narrow_config, narrow_state
from foreign_files import Arrays, flip, save_safetensors, save_with_saver, slim, torch

from trainer.config.complete import with_leaves
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.run import warm_start
from trainer.run.warm_start import WarmStart
from trainer.training.state import TrainingState, build_state


def averages(arrays: Arrays) -> Arrays:
    return {f"{name}/ExponentialMovingAverage": value for name, value in slim(arrays).items()}


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load(
    path: Path, state: TrainingState, *, allow: tuple[str, ...] = (), follow: bool = True, **changes: object
) -> list[str]:
    """Load into ``state`` as a run of the narrow configuration with ``changes`` does."""
    config = with_leaves(narrow_config(), changes)
    return warm_start.load(WarmStart(warm_start.find(path), allow, follow), config, state, DIGITS)


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
    lines = load(path, state, allow=("preprocess", "model.count_include_pad"))
    assert f"{len(arrays)} of {len(arrays)} variables loaded" in lines[0]
    for name, value in arrays.items():
        assert np.array_equal(state.variables[name].numpy(), value), name
    for name, shadow in state.ema.items():
        assert np.array_equal(shadow.numpy(), arrays[name]), name


def test_keras_weights_arrive_by_name(tmp_path: Path) -> None:
    source, target = build_state(narrow_config()), build_state(with_leaves(narrow_config(), {"seed": 5}))
    source.model.save_weights(tmp_path / "model.weights.h5")
    load(tmp_path / "model.weights.h5", target)
    for name, variable in source.variables.items():
        assert np.array_equal(target.variables[name].numpy(), variable.numpy()), name


def test_another_width_is_refused_and_nothing_is_assigned(tmp_path: Path) -> None:
    state = build_state(with_leaves(narrow_config(), {"model.min_depth": 8}))
    before = {name: variable.numpy() for name, variable in state.variables.items()}
    path = WRITERS["slim"](tmp_path, narrow_arrays())
    with pytest.raises(
        RestoreRefused, match=r"(?s)is not this network.*min_depth=4, the model has .*to fit it: model.min_depth=4"
    ):
        load(path, state, **{"model.min_depth": 8})
    assert all(np.array_equal(before[name], variable.numpy()) for name, variable in state.variables.items())


def test_a_damaged_tensor_is_refused_and_nothing_is_assigned(tmp_path: Path) -> None:
    state = build_state(narrow_config())
    before = {name: variable.numpy() for name, variable in state.variables.items()}
    path = WRITERS["slim"](tmp_path, narrow_arrays())
    data = Path(f"{path}.data-00000-of-00001")
    flip(data, data.stat().st_size // 2)
    with pytest.raises(NoValidCheckpoint):
        load(path, state)
    assert all(np.array_equal(before[name], variable.numpy()) for name, variable in state.variables.items())


def with_classes(count: int) -> Arrays:
    """The narrow network's arrays with classifiers for ``count`` classes."""
    generator = np.random.default_rng(3)
    return {
        name: generator.normal(size=(*value.shape[:-1], count)).astype(np.float32) if "logits/logits" in name else value
        for name, value in narrow_arrays().items()
    }


def test_of_1001_classes_the_background_is_dropped_and_another_number_needs_consent_or_data(tmp_path: Path) -> None:
    thousand = {"model.num_classes": 1000}
    state = build_state(with_leaves(narrow_config(), thousand))
    arrays = with_classes(1001)
    lines = load(WRITERS["slim"](tmp_path / "1001", arrays), state, follow=False, **thousand)
    assert "of 1001 classes the first, the background, was dropped" in "\n".join(lines)
    for head in ("logits/logits", "aux_logits/logits"):
        for leaf in ("kernel", "bias"):
            name = f"{head}/{leaf}"
            assert np.array_equal(state.variables[name].numpy(), arrays[name][..., 1:]), name
    ten = WRITERS["slim"](tmp_path / "10", narrow_arrays())
    with pytest.raises(
        RestoreRefused, match=r"(?s)has 10 classes, model.num_classes=1000.*allow=\[model.num_classes\]"
    ):
        load(ten, state, follow=False, **thousand)
    for consent in ({"follow": True}, {"follow": False, "allow": ("model.num_classes",)}):
        lines = load(ten, state, **consent, **thousand)
        assert any("freshly initialised: " in line and "logits/logits/kernel [" in line for line in lines)


def test_weights_for_another_range_of_pixels_are_refused_with_what_to_add(tmp_path: Path) -> None:
    state = build_state(narrow_config())
    imagenet = {"preprocess.normalize.mean": (0.485, 0.456, 0.406), "preprocess.normalize.std": (0.229, 0.224, 0.225)}
    slim_file, torch_file = (WRITERS[writer](tmp_path, narrow_arrays()) for writer in ("slim", "torchvision"))
    before = state.variables["conv2d_1a_3x3/conv/kernel"].numpy()
    with pytest.raises(RestoreRefused) as refused:
        load(slim_file, state, **imagenet)
    assert "preprocess.normalize.mean=[0.5,0.5,0.5] preprocess.normalize.std=[0.5,0.5,0.5]" in str(refused.value)
    assert "configured: mean [0.485,0.456,0.406] std [0.229,0.224,0.225]" in str(refused.value)
    with pytest.raises(
        RestoreRefused, match=r"(?s)does not say which.*transform_input=True.*std=\[0.229,0.224,0.225\]"
    ):
        load(torch_file, state, **imagenet, **{"model.count_include_pad": True})
    assert np.array_equal(state.variables["conv2d_1a_3x3/conv/kernel"].numpy(), before)
    for path in (slim_file, torch_file):
        load(path, state, allow=("preprocess", "model.count_include_pad"), **imagenet)


def test_what_is_not_this_network_is_refused_by_its_cause(tmp_path: Path) -> None:
    state = build_state(narrow_config())
    other = save_safetensors(tmp_path / "other.safetensors", {"layer1.weight": np.ones((3, 3), np.float32)})
    with pytest.raises(RestoreRefused, match="0 of the 94 convolutions of Inception V3 are in it"):
        load(other, state)
    gammas = {
        name.replace("/beta", "/gamma"): np.ones_like(value)
        for name, value in narrow_arrays().items()
        if name.endswith("/beta")
    }
    scaled = WRITERS["slim"](tmp_path / "scaled", {**narrow_arrays(), **gammas})
    with pytest.raises(RestoreRefused, match=r"(?s)multiplier \(gamma\).*to fit it: model.batch_norm.scale=true"):
        load(scaled, state)


def test_classes_of_other_names_get_a_fresh_classifier_or_need_consent(tmp_path: Path) -> None:
    path = commit(tmp_path / "run", 5, narrow_state(), narrow_config())  # its classes are called 0 to 9
    state = build_state(with_leaves(narrow_config(), {"seed": 5}))
    lines = load(path, state, allow=("data.classes",), follow=False)
    assert "freshly initialised" not in "\n".join(lines)
    lines = load(path, state)
    assert "it was trained on 0, 1, 2, 3, 4, 5 and 4 more, the data has zero, one, two" in lines[1]
    assert "freshly initialised: aux_logits/logits/kernel [7, 10]" in "\n".join(lines)
    with pytest.raises(RestoreRefused, match=r"(?s)other classes.*allow=\[model.num_classes\].*allow=\[data.classes\]"):
        load(path, state, follow=False)


def test_our_own_weights_demand_what_their_configuration_says_and_no_tensor_shows(tmp_path: Path) -> None:
    path = commit(tmp_path / "run", 5, narrow_state(), narrow_config())
    state = build_state(narrow_config())
    changes = {"model.activation": "elu", "model.batch_norm.epsilon": 0.01}
    with pytest.raises(RestoreRefused) as refused:
        load(path, state, **changes)
    assert "model.activation: relu in its configuration, elu is configured" in str(refused.value)
    assert "add model.activation=relu model.batch_norm.epsilon=0.001, or say" in str(refused.value)
    load(path, state, allow=tuple(changes), **changes)
