"""Every cause the doctor tells apart in files of ``tf.compat.v1.train.Saver``, written or damaged for real."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from diagnosing import NARROW, Doctor, causes, composed, expected, narrow_arrays, one_build_for_each_configuration
from foreign_files import Arrays, cut, flip, random_arrays, save_with_saver, slim

FIRST, SECOND = "conv2d_1a_3x3", "conv2d_2a_3x3"


@pytest.fixture(scope="module", autouse=True)
def _shared_builds() -> Iterator[None]:
    with one_build_for_each_configuration():
        yield


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    return Doctor(capsys, tmp_path)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return narrow_arrays()


@pytest.fixture(scope="module")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slim_file(tmp_path_factory.mktemp("saved"), narrow_arrays()).parent


@pytest.fixture
def saved(_saved: Path, tmp_path: Path) -> Path:
    """The narrow network as TF-Slim saves it, in a copy that a test may damage."""
    shutil.copytree(_saved, tmp_path / "saved")
    return tmp_path / "saved" / "model.ckpt-5"


def slim_file(place: Path, variables: Arrays, **options: Any) -> Path:
    return save_with_saver(place / "model.ckpt-5", slim(variables), **options)


# --- files of tf.compat.v1.train.Saver -------------------------------------------------------------------------------


def test_a_saver_file_that_fits_wants_loading_by_name(doctor: Doctor, saved: Path) -> None:
    status, output = doctor(saved, *NARROW)
    assert (status, causes(output)) == (3, ["name_based"])
    assert "names as TF-Slim writes them" in output
    assert f"next: python -m trainer train init_from={saved} model.width=0.01 model.min_depth=4" in output


def test_the_v1_format_is_read(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    path = slim_file(tmp_path, arrays, write_version=tf.compat.v1.train.SaverDef.V1)
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (3, ["name_based"])
    assert "V1 checkpoint" in output


def test_another_width_is_inferred_and_the_suggested_command_fits(
    doctor: Doctor, arrays: Arrays, tmp_path: Path
) -> None:
    wide = expected(composed("model.width=0.0625", "model.min_depth=5"))
    path = slim_file(tmp_path, random_arrays(wide.model))
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "width"])
    assert "fit model.width=0.0625 model.min_depth=5, the model has width=0.01 min_depth=4" in output
    suggested = re.search(r"next: python -m trainer doctor (.*)", output)
    assert suggested is not None
    status, output = doctor(*(word.removeprefix("checkpoint=") for word in suggested[1].split()))
    assert causes(output) == ["name_based"]


def test_one_changed_layer_is_one_cause(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    changed = {name: value for name, value in arrays.items() if not name.startswith(f"{FIRST}/")}
    for name, value in arrays.items():
        if name.startswith(f"{FIRST}/"):
            changed[name] = np.concatenate([value, value], axis=-1)
    kernel = f"{SECOND}/conv/kernel"
    changed[kernel] = np.concatenate([arrays[kernel]] * 2, axis=2)
    status, output = doctor(slim_file(tmp_path, changed), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "filters"])
    assert f"{FIRST} has 8 filters in the checkpoint and 4 in the model" in output
    assert "4 more shapes follow from it" in output


@pytest.mark.parametrize(
    ("found", "wanted", "cause"), [(11, 10, "classes"), (1001, 10, "classes"), (1001, 1000, "background_class")]
)
def test_another_number_of_classes(
    found: int, wanted: int, cause: str, doctor: Doctor, arrays: Arrays, tmp_path: Path
) -> None:
    shapes = {
        name: (*value.shape[:-1], found) if "logits/logits" in name else value.shape for name, value in arrays.items()
    }
    status, output = doctor(slim_file(tmp_path, random_arrays(shapes)), *NARROW, f"model.num_classes={wanted}")
    assert (status, causes(output)) == (3, ["name_based", cause])
    assert f"the checkpoint has {found} classes, the model {wanted}" in output
    assert ("background" in output) == (found == 1001)
    assert f"model.num_classes={found}" in output.partition("next: ")[2]


def test_the_auxiliary_head_absent_and_unexpected(doctor: Doctor, arrays: Arrays, saved: Path, tmp_path: Path) -> None:
    bare = {name: value for name, value in arrays.items() if not name.startswith("aux_logits")}
    status, output = doctor(slim_file(tmp_path / "bare", bare), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "aux_absent"])
    assert "no auxiliary head, the model has one (model.aux_logits=true)" in output
    status, output = doctor(saved, *NARROW, "model.aux_logits=false")
    assert (status, causes(output)) == (3, ["name_based", "aux_unexpected"])
    assert "has an auxiliary head, the model has none (model.aux_logits=false)" in output


def test_batch_norm_absent_is_the_forgotten_arg_scope(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    biased = {name: value for name, value in arrays.items() if "/batch_norm/" not in name}
    for name, value in arrays.items():
        if name.endswith("batch_norm/beta"):
            biased[name.replace("batch_norm/beta", "conv/bias")] = value
    status, output = doctor(slim_file(tmp_path, biased), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "batch_norm_absent"])
    assert f"{FIRST}: checkpoint conv/bias, model batch_norm/beta" in output
    assert "96 of 96 convolutions have biases" in output
    assert "arg_scope" in output


def test_gamma_present_and_absent(doctor: Doctor, arrays: Arrays, saved: Path, tmp_path: Path) -> None:
    scaled = dict(arrays)
    for name, value in arrays.items():
        if name.endswith("batch_norm/beta"):
            scaled[name.replace("beta", "gamma")] = value
    status, output = doctor(slim_file(tmp_path / "scaled", scaled), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "gamma"])
    assert "a multiplier (gamma) in the checkpoint and none in the model (model.batch_norm.scale=false)" in output
    status, output = doctor(saved, *NARROW, "model.batch_norm.scale=true")
    assert (status, causes(output)) == (3, ["name_based", "gamma"])
    assert "no multiplier (gamma) in the checkpoint and one in the model (model.batch_norm.scale=true)" in output


def test_shadow_names_only(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    shadows = {f"{name}/ExponentialMovingAverage": value for name, value in slim(arrays).items()}
    status, output = doctor(save_with_saver(tmp_path / "ema.ckpt", shadows), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "ema_only"])
    assert "(InceptionV3/AuxLogits/Conv2d_1b_1x1/BatchNorm/beta/ExponentialMovingAverage)" in output


def test_slots_of_another_optimizer(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    trained = {**slim(arrays), "global_step": np.int64(5)}
    for name, value in slim(arrays).items():
        if "moving_" not in name:
            trained.update({f"{name}/RMSProp": value, f"{name}/RMSProp_1": value})
    path = save_with_saver(tmp_path / "model.ckpt", trained)
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "optimizer"])
    assert "rmsprop's slots (RMSProp, RMSProp_1), the model's optimizer is adam (m, v)" in output
    assert causes(doctor(path, *NARROW, "optimizer=rmsprop")[1]) == ["name_based"]


def test_the_size_of_the_images_and_their_channels(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    large = dict(arrays)
    kernel = "aux_logits/conv2d_2a_5x5/conv/kernel"
    large[kernel] = np.zeros((5, 5, *arrays[kernel].shape[2:]), np.float32)
    status, output = doctor(slim_file(tmp_path / "large", large), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "image_size"])
    assert "5×5 in the checkpoint and 1×1 in the model (preprocess.image_size=75)" in output
    assert "preprocess.image_size=299" in output
    grey = {**arrays, f"{FIRST}/conv/kernel": arrays[f"{FIRST}/conv/kernel"][:, :, :1]}
    status, output = doctor(slim_file(tmp_path / "grey", grey), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "input_channels"])
    assert "takes images of 1 channel, the model of 3" in output


def test_another_width_and_a_layer_that_does_not_follow_it(doctor: Doctor, tmp_path: Path) -> None:
    shapes = dict(expected(composed("model.width=0.0625", "model.min_depth=5")).model)
    odd = "mixed_7c/branch_0/conv2d_0a_1x1"
    for name, shape in shapes.items():
        if name.startswith(f"{odd}/"):
            shapes[name] = (*shape[:-1], 33)
    status, output = doctor(slim_file(tmp_path, random_arrays(shapes)), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "width", "filters"])
    assert f"{odd} has 33 filters in the checkpoint, not the 20 of that width" in output


def test_two_causes_are_two_causes(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    shapes = {name: value.shape for name, value in arrays.items() if not name.startswith("aux_logits")}
    shapes[f"{SECOND}/conv/kernel"] = (5, 5, 4, 4)
    del shapes["mixed_6b/branch_0/conv2d_0a_1x1/batch_norm/beta"]
    status, output = doctor(slim_file(tmp_path, random_arrays(shapes)), *NARROW)
    assert (status, causes(output)) == (3, ["name_based", "aux_absent", "kernel_shape", "absent"])
    assert f"{SECOND}/conv/kernel is 5×5×4×4 in the checkpoint and 3×3×4×4 in the model" in output
    assert "not in the checkpoint: mixed_6b/branch_0/conv2d_0a_1x1/batch_norm/beta" in output


def test_something_else_than_inception_v3(doctor: Doctor, tmp_path: Path) -> None:
    other = {"resnet/conv1/weights": np.zeros((7, 7, 3, 64), np.float32), "global_step": np.int64(1)}
    status, output = doctor(save_with_saver(tmp_path / "m.ckpt", other), *NARROW)
    assert (status, causes(output)) == (3, ["not_inception_v3"])
    assert "0 of the 94 convolutions" in output
    assert "resnet/conv1/weights" in output


def test_values_that_are_no_weights(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    kernel, variance = f"{SECOND}/conv/kernel", f"{SECOND}/batch_norm/moving_variance"
    changed = {kernel: arrays[kernel] * np.float32(np.nan), variance: arrays[variance] - 9}
    status, output = doctor(slim_file(tmp_path, {**arrays, **changed}), *NARROW)
    assert (status, causes(output)) == (3, ["values", "name_based"])
    assert "2 of 388 tensors cannot be weights" in output
    assert re.search(r"NaN or infinite, or too large for float32: InceptionV3/\S+/weights \[", output)
    assert re.search(r"a negative variance: InceptionV3/\S+/moving_variance \[", output)


# --- damage and misplaced paths --------------------------------------------------------------------------------------


def test_a_missing_shard(doctor: Doctor, arrays: Arrays, tmp_path: Path) -> None:
    path = slim_file(tmp_path, arrays, devices=2)
    (tmp_path / "model.ckpt-5.data-00001-of-00002").unlink()
    status, output = doctor(path, *NARROW)
    assert (status, causes(output)[0]) == (4, "missing_shard")
    assert causes(output).count("missing_shard") == 1
    assert "model.ckpt-5.data-00001-of-00002 missing" in output
    assert "present: model.ckpt-5.data-00000-of-00002" in output


def test_an_index_missing_cut_short_and_changed(doctor: Doctor, saved: Path) -> None:
    index = saved.with_name("model.ckpt-5.index")
    whole = index.read_bytes()
    cut(index, 0.5)
    status, output = doctor(saved, *NARROW)
    assert (status, causes(output)) == (4, ["truncated_index"])
    assert f"its {len(whole) // 2} bytes" in output
    index.write_bytes(whole)
    flip(index, 300)
    status, output = doctor(saved, *NARROW)
    assert (status, causes(output)) == (4, ["damaged_index"])
    assert "block checksum mismatch" in output
    index.unlink()
    status, output = doctor(saved, *NARROW)
    assert (status, causes(output)) == (4, ["missing_index"])
    assert f"{index} is missing" in output


def test_values_cut_short_and_changed(doctor: Doctor, arrays: Arrays, saved: Path) -> None:
    data = saved.with_name("model.ckpt-5.data-00000-of-00001")
    whole = data.read_bytes()
    name = "mixed_6c/branch_2/conv2d_0b_7x1/conv/kernel"
    flip(data, whole.index(arrays[name].tobytes()) + 40)
    status, output = doctor(saved, *NARROW)
    assert (status, causes(output)) == (4, ["flipped", "name_based"])
    assert "checksum does not match: InceptionV3/Mixed_6c/Branch_2/Conv2d_0b_7x1/weights" in output
    assert "1 of 388 tensors has changed bytes" in output
    data.write_bytes(whole[:20000])
    status, output = doctor(saved, *NARROW)
    assert (status, causes(output)) == (4, ["truncated", "name_based"])
    assert f"20000 bytes, and the tensors alone need {len(whole)}" in output


def test_a_state_file_that_points_elsewhere(doctor: Doctor, saved: Path, tmp_path: Path) -> None:
    saved.parent.rename(tmp_path / "new")
    moved = tmp_path / "new" / "checkpoint"
    moved.write_text(f'model_checkpoint_path: "{saved}"\n')
    for given in (tmp_path / "new", moved):
        status, output = doctor(given, *NARROW)
        assert (status, causes(output)) == (3, ["state_file", "name_based"])
        assert f"points to {saved}, where there is no checkpoint" in output
        assert f"init_from={tmp_path / 'new' / 'model.ckpt-5'}" in output
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "new", copied)
    (copied / "checkpoint").write_text(f'model_checkpoint_path: "{tmp_path / "new" / "model.ckpt-5"}"\n')
    status, output = doctor(copied, *NARROW)
    assert (status, causes(output)) == (3, ["state_file", "name_based"])
    assert "which is another place" in output
    assert f"init_from={copied / 'model.ckpt-5'}" in output
    moved.write_bytes(b"\0\1\2")
    status, output = doctor(tmp_path / "new", *NARROW)
    assert (status, causes(output)) == (3, ["state_file", "name_based"])
    assert "names no checkpoint" in output


def test_a_directory_or_a_file_given_for_a_prefix(doctor: Doctor, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved.with_name("checkpoint")).write_text(f'model_checkpoint_path: "{saved}"\n')
    monkeypatch.chdir(saved.parent.parent)
    assert causes(doctor("saved", *NARROW)[1]) == ["directory_for_prefix", "name_based"]
    saved.with_name("checkpoint").unlink()
    status, output = doctor(saved.parent, *NARROW)
    assert (status, causes(output)) == (3, ["directory_for_prefix", "name_based"])
    assert f"{saved.parent} is a directory; TensorFlow wants the prefix {saved}" in output
    status, output = doctor(f"{saved}.index", *NARROW)
    assert (status, causes(output)) == (3, ["file_for_prefix", "name_based"])
    assert f"its prefix is {saved}" in output
    status, output = doctor(saved.parent / "model.ckpt-6", *NARROW)
    assert (status, causes(output)) == (4, ["missing"])
    assert str(saved) in output
