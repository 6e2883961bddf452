"""``init_from`` takes the weights of every format the doctor understands, value by value."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
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


TORCH = {"allow": ("preprocess", "model.count_include_pad")}


def prefixed(prefix: str) -> Arrays:
    return {f"{prefix}{name}": value for name, value in torch(narrow_arrays()).items()}


def zeroed() -> TrainingState:
    for variable in fine_state().variables.values():
        variable.assign(np.zeros(variable.shape, np.float32))
    return fine_state()


@functools.cache
def fine_state() -> TrainingState:
    return build_state(narrow_config())


def assert_assigned(state: TrainingState, arrays: Arrays) -> None:
    for name, value in arrays.items():
        assert np.array_equal(state.variables[name].numpy(), value), name


WRAPPERS = ("_orig_mod.", "module.", "module._orig_mod.", "model.", "state_dict.model.", "net.backbone.", "model_ema.")


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_names_below_any_wrapper_of_torch_are_understood(prefix: str, tmp_path: Path) -> None:
    path = save_safetensors(tmp_path / "model.safetensors", prefixed(prefix))
    lines = load(path, zeroed(), **TORCH)
    assert lines[0] == f"weights from {path}: {len(narrow_arrays())} of {len(narrow_arrays())} variables loaded"
    averages = ["  they are moving averages: the file has no other weights"]
    assert lines[1:] == (averages if prefix == "model_ema." else [])
    assert_assigned(fine_state(), narrow_arrays())


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_wrappers_around_some_layers_are_no_part_of_a_name(wrapper: str, tmp_path: Path) -> None:
    """As of a network whose blocks were compiled, sharded or recomputed one by one."""
    arrays = {
        name.replace(".", f".{wrapper}.", 1) if name.startswith("Mixed") else name: value
        for name, value in torch(narrow_arrays()).items()
    }
    assert sum(wrapper in name for name in arrays) > 300
    lines = load(save_safetensors(tmp_path / "model.safetensors", arrays), zeroed(), **TORCH)
    assert f"{len(arrays)} of {len(arrays)} variables loaded" in lines[0]
    assert_assigned(fine_state(), narrow_arrays())


def test_the_weights_of_a_loss_are_no_head(tmp_path: Path) -> None:
    """``CrossEntropyLoss(weight=…)`` in a Lightning module; only layers make ``fc`` a part of something larger."""
    beside = {"criterion.weight": np.ones(10, np.float32), "train_accuracy.tp": np.ones(3, np.float32)}
    path = save_safetensors(tmp_path / "model.safetensors", {**prefixed("model."), **beside})
    lines = load(path, zeroed(), **TORCH)
    assert_assigned(fine_state(), narrow_arrays())
    unknown = "criterion.weight [10], train_accuracy.tp [3] (nothing in this network has such a name)"
    assert lines[1:] == [f"  not taken from the file: {unknown}"]
    above = {"head.weight": np.ones([4, 10], np.float32), "head.bias": np.ones(4, np.float32)}
    path = save_safetensors(tmp_path / "model.safetensors", {**prefixed("model."), **beside, **above})
    assert any("a head of its own with 2 dense layers" in line for line in load(path, zeroed(), **TORCH))


PARTS = {
    "pruning": lambda name: (f"{name}_orig", f"{name}_mask"),
    "weight_norm": lambda name: (f"{name}_g", f"{name}_v"),
    "parametrize": lambda name: tuple(name.replace("weight", f"parametrizations.weight.original{n}") for n in (0, 1)),
    "LoRA": lambda name: tuple(name.replace("weight", part) for part in ("base_layer.weight", "lora_A.default.weight")),
}


@pytest.mark.parametrize("tool", PARTS)
def test_weights_that_are_stored_in_parts_are_refused_by_that_cause(tool: str, tmp_path: Path) -> None:
    arrays = dict(torch(narrow_arrays()))
    for name in [name for name in arrays if name.endswith("conv.weight")][:40]:
        value = arrays.pop(name)
        arrays |= dict.fromkeys(PARTS[tool](name), value)
    path = save_safetensors(tmp_path / "model.safetensors", arrays)
    with pytest.raises(RestoreRefused) as refused:
        load(path, zeroed(), **TORCH)
    lines = str(refused.value).splitlines()
    assert lines[1].startswith("  it does not hold the weights themselves, but 80 parts that make them: Conv2d_1a_3x3.")
    assert "merge the parts where the model is loaded" in lines[3]
    assert len(lines) == 5, "no consequence of it is called a cause"


@pytest.mark.parametrize("scope", ["", "inception/", "tower_0/net/"])
def test_names_of_slim_in_another_scope_than_its_own_are_understood(scope: str, tmp_path: Path) -> None:
    arrays = {name.replace("InceptionV3/", scope): value for name, value in slim(narrow_arrays()).items()}
    arrays |= {f"{name}/Momentum": value for name, value in arrays.items()}
    lines = load(save_with_saver(tmp_path / "model.ckpt-5", arrays), zeroed())
    assert "388 of 388 variables loaded" in lines[0]
    assert "388 tensors of the optimizer's state of sgd" in lines[1]
    assert_assigned(fine_state(), narrow_arrays())


def test_averages_beside_the_weights_are_mentioned_and_a_second_network_is_refused(tmp_path: Path) -> None:
    shifted = {name: value + 1 for name, value in prefixed("state_dict_ema.module.").items()}
    path = save_safetensors(tmp_path / "both.safetensors", {**shifted, **prefixed("state_dict.")})
    lines = load(path, zeroed(), **TORCH)
    assert_assigned(fine_state(), narrow_arrays())
    assert f"  not taken from the file: {len(shifted)} moving averages, first state_dict_ema.module.Conv2d" in lines[1]
    student, teacher = prefixed("student."), prefixed("teacher.")
    load(save_safetensors(tmp_path / "same.safetensors", {**student, **teacher}), zeroed(), **TORCH)
    assert_assigned(fine_state(), narrow_arrays())
    changed = "teacher.Mixed_6b.branch7x7_2.conv.weight"
    teacher[changed] = teacher[changed] + 1
    path = save_safetensors(tmp_path / "two.safetensors", {**student, **teacher})
    with pytest.raises(
        RestoreRefused, match=r"has 388 variables twice, with different values.*\n  .*: student\.\S+ and teacher\.\S+\n"
    ):
        load(path, zeroed(), **TORCH)
    assert not fine_state().variables["logits/logits/kernel"].numpy().any()


def test_a_kernel_in_another_layout_than_the_others_is_refused(tmp_path: Path) -> None:
    arrays = torch(narrow_arrays())
    name = "Mixed_6b.branch7x7_2.conv.weight"
    arrays[name] = arrays[name].transpose(2, 3, 1, 0)
    path = save_safetensors(tmp_path / "model.safetensors", arrays)
    with pytest.raises(RestoreRefused, match=rf"(?s)has kernels in two layouts.*height×width×in×out: {name}"):
        load(path, zeroed(), **TORCH)


def test_bfloat16_arrives_and_integers_and_nan_are_refused_with_nothing_assigned(tmp_path: Path) -> None:
    arrays = {name: np.ascontiguousarray(value) for name, value in torch(narrow_arrays()).items()}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in arrays.items()}, path)
    load(path, zeroed(), **TORCH)
    for name, value in narrow_arrays().items():
        np.testing.assert_allclose(fine_state().variables[name].numpy(), value, rtol=2**-8, atol=0, err_msg=name)
    fc, kernel = "fc.weight", "Conv2d_1a_3x3.conv.weight"
    broken = {
        f"of type i8, which is not read: {fc} ": {fc: arrays[fc].astype(np.int8)},
        f"NaN or infinite, or too large for float32: {kernel} ": {kernel: arrays[kernel] * np.float32(np.nan)},
    }
    for message, changes in broken.items():
        safetensors.numpy.save_file({**arrays, **changes}, path)
        with pytest.raises(RestoreRefused, match=f"1 of 388 tensors cannot be weights\n.*{message}"):
            load(path, zeroed(), **TORCH)
        assert not any(variable.numpy().any() for variable in fine_state().variables.values())


def test_gammas_may_be_missing_together_and_not_one_by_one(tmp_path: Path) -> None:
    config = with_leaves(narrow_config(), {"model.batch_norm.scale": True})
    state = build_state(config)
    plain = torch(narrow_arrays())
    gammas = {
        name.replace(".bn.bias", ".bn.weight"): np.full_like(plain[name], 3) for name in plain if ".bn.bias" in name
    }
    changes = {**TORCH, "model.batch_norm.scale": True}
    lines = load(save_safetensors(tmp_path / "none.safetensors", plain), state, **changes)
    assert f"{len(plain)} of {len(plain) + len(gammas)} variables loaded" in lines[0]
    load(save_safetensors(tmp_path / "all.safetensors", {**plain, **gammas}), state, **changes)
    del gammas["Mixed_6b.branch7x7_2.bn.weight"]
    path = save_safetensors(tmp_path / "part.safetensors", {**plain, **gammas})
    with pytest.raises(RestoreRefused, match="is not this network"):
        load(path, state, **changes)


def test_a_head_of_several_layers_and_what_else_is_not_taken_are_listed_with_the_reason(tmp_path: Path) -> None:
    arrays = torch(narrow_arrays())
    head = {
        "fc.0.weight": np.ones((9, 24)),
        "fc.0.bias": np.ones(9),
        "fc.3.weight": np.ones((4, 9)),
        "fc.3.bias": np.ones(4),
    }
    del arrays["fc.weight"], arrays["fc.bias"]
    more = {"temperature": np.ones(1), "Conv2d_1a_3x3.bn.num_batches_tracked": np.ones(())}
    file = {name: value.astype(np.float32) for name, value in {**arrays, **head, **more}.items()}
    lines = load(save_safetensors(tmp_path / "model.safetensors", file), zeroed(), **TORCH)
    assert lines[1:] == [
        "  freshly initialised: logits/logits/kernel [24, 10], logits/logits/bias [10]",
        "  not taken from the file: fc.0.weight [9, 24], fc.0.bias [9], fc.3.weight [4, 9], fc.3.bias [4] "
        "(it has a head of its own with 2 dense layers, and this network's is one layer)",
        "  not taken from the file: temperature [1] (nothing in this network has such a name)",
        "  not taken from the file: 1 counters: Conv2d_1a_3x3.bn.num_batches_tracked (they start at 0)",
    ]


def test_averages_of_our_own_checkpoint_are_mentioned_with_the_command_that_exports_them(tmp_path: Path) -> None:
    config = with_leaves(narrow_config(), {"ema.decay": 0.9})
    source = build_state(config)
    for shadow in source.ema.values():
        shadow.assign_add(tf.ones_like(shadow))
    path = commit(tmp_path / "run", 5, source, config)
    lines = load(path, zeroed(), allow=("data.classes",))
    assert_assigned(fine_state(), {name: variable.numpy() for name, variable in source.variables.items()})
    (line,) = [line for line in lines if "moving averages" in line]
    command = shlex.split(line.rpartition("give that file: ")[2])
    assert command == [
        *("python", "-m", "trainer", "export", f"run_dir={tmp_path / 'run'}", "checkpoint=step-00000005"),
        *(f"output={tmp_path}/run-step-00000005.safetensors", "weights=ema", "format=weights"),
    ]


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
