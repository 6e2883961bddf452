"""Every type of every format is read right, or refused by the tensor's name; so are values that are no weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from trainer.interchange import hdf5_files
from trainer.interchange.contents import Contents, Kind, Tensor
from trainer.interchange.findings import DAMAGE, MISMATCH, Unusable
from trainer.interchange.locate import locate
from trainer.interchange.readers import read_contents, unreadable_values
from trainer.interchange.values import Values, read_values

# exact in every float type here, and wrong when the bits are read as those of another type
EXACT = np.array([[-1.5, 0.25, 3.0], [0.0, -0.0625, 1.0]])
FLOATS = ("float16", "bfloat16", "float32", "float64")
OTHERS = ("int8", "uint8", "int32", "int64", "bool", "complex64", "float8_e4m3fn", "float8_e5m2")


@pytest.fixture(autouse=True)
def quiet(in_this_process: None) -> Iterator[None]:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    yield
    logging.getLogger("tensorflow").setLevel(logging.WARNING)


def as_type(name: str) -> np.ndarray:
    return EXACT.astype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)


def kernel_of(path: Path) -> Values:
    contents = read_contents(locate(path))
    (tensor,) = [tensor for tensor in contents.tensors if "kernel" in tensor.label and "scale" not in tensor.label]
    return read_values(contents, {"unit/conv/kernel": tensor})


def save_safetensors(place: Path, name: str) -> Path:
    safetensors.numpy.save_file({"a.kernel": as_type(name)}, place / "model.safetensors")
    return place / "model.safetensors"


def save_object(place: Path, name: str) -> Path:
    return Path(tf.train.Checkpoint(kernel=tf.Variable(as_type(name))).write(str(place / "model")))


def save_v1(place: Path, name: str) -> Path:
    saver = tf.compat.v1.train.Saver({"kernel": tf.Variable(as_type(name))}, write_version=1)
    saver.save(None, str(place / "model.ckpt"), write_meta_graph=False)
    return place / "model.ckpt"


def save_v2(place: Path, name: str) -> Path:
    saver = tf.compat.v1.train.Saver({"kernel": tf.Variable(as_type(name))})
    saver.save(None, str(place / "model.ckpt"), write_meta_graph=False)
    return place / "model.ckpt"


def save_hdf5(place: Path, name: str) -> Path:
    with h5py.File(place / "model.h5", "w") as file:
        file["dense/dense/kernel:0"] = as_type(name)
    return place / "model.h5"


def keras_saver(ending: str) -> Callable[[Path, str], Path]:
    def save(place: Path, name: str) -> Path:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False, dtype=name)])
        model.layers[0].kernel.assign(EXACT)
        path = place / f"model{ending}"
        model.save_weights(path) if ending == ".weights.h5" else model.save(path)
        return path

    return save


SAVERS = {
    "safetensors": save_safetensors,
    "object": save_object,
    "V1": save_v1,
    "V2": save_v2,
    "hdf5": save_hdf5,
    **{ending: keras_saver(ending) for ending in (".keras", ".h5", ".weights.h5")},
}
SAFETENSORS_NAMES = {
    **{"int8": "i8", "uint8": "u8", "int32": "i32", "int64": "i64", "bool": "bool", "complex64": "c64"},
    **{"float8_e4m3fn": "f8_e4m3", "float8_e5m2": "f8_e5m2"},
}
UNWRITABLE = {("hdf5", "float8_e5m2")} | {
    ("V1", name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
}  # TensorFlow refuses to
REFUSED = {("V1", "float16"), ("hdf5", "bfloat16")}  # TensorFlow cannot; nothing explains two bytes
FILES = [
    pytest.param(form, name, id=f"{form} {name}")
    for form in SAVERS
    for name in (*FLOATS, *OTHERS)
    if (form, name) not in UNWRITABLE and (name in FLOATS or not form.startswith("."))
]


@pytest.mark.parametrize(("form", "name"), FILES)
def test_a_type_is_read_right_or_refused_by_name(form: str, name: str, tmp_path: Path) -> None:
    path = SAVERS[form](tmp_path, name)
    if name in FLOATS and (form, name) not in REFUSED:
        value = kernel_of(path).arrays["unit/conv/kernel"]
        assert value.dtype == np.float32
        assert np.array_equal(value, EXACT)
        return
    with pytest.raises(Unusable) as refused:
        kernel_of(path)
    finding = refused.value.finding
    assert finding.status == MISMATCH, "the file is not damaged"
    assert finding.title == "1 of 1 tensors cannot be weights"
    assert "kernel [2, 3]" in finding.details[0]
    stored = SAFETENSORS_NAMES[name] if form == "safetensors" else "|V" if form == "hdf5" and "float" in name else name
    assert f"are of type {stored}" in finding.details[0]


def test_the_int8_kernel_of_a_network_that_keras_quantised_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="dense")])
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    with pytest.raises(Unusable) as refused:
        kernel_of(tmp_path / "model.keras")
    assert "are of type int8, which is not read: dense/kernel [2, 3]" in refused.value.finding.details


def test_doctor_calls_a_type_that_is_not_read_by_its_name_and_no_damage(tmp_path: Path) -> None:
    path = save_safetensors(tmp_path, "float8_e4m3fn")
    (finding,) = unreadable_values(read_contents(locate(path)))
    assert finding.status == MISMATCH
    assert finding.title == "1 tensors are of type f8_e4m3, which is not read: a.kernel"


@pytest.mark.parametrize("version", [1, 2])
def test_a_variable_that_tensorflow_1_stored_in_slices_is_read_whole_or_refused_by_that_cause(
    version: int, tmp_path: Path
) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        parts = tf.compat.v1.fixed_size_partitioner(2, axis=1)
        name = {"initializer": tf.compat.v1.ones_initializer(), "partitioner": parts, "use_resource": False}
        tf.compat.v1.get_variable("kernel", [2, 3], **name)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=version)
        saver.save(session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
    if version == 2:
        assert np.array_equal(kernel_of(tmp_path / "model.ckpt").arrays["unit/conv/kernel"], np.ones([2, 3]))
        return
    with pytest.raises(Unusable) as refused:
        kernel_of(tmp_path / "model.ckpt")
    assert refused.value.finding.status == MISMATCH, "the file is not damaged"
    assert "are of type float32 in slices (a partitioned variable)" in refused.value.finding.details[0]


def read(**values: np.ndarray) -> Values:
    tensors = {name.replace("__", "/"): Tensor(name, name, value.shape, "float32") for name, value in values.items()}
    contents = Contents(Kind.SAFETENSORS, Path("x"), tuple(tensors.values()), lambda tensor: values[tensor.key])
    return read_values(contents, tensors)


def test_values_that_are_no_weights_are_refused_all_by_name() -> None:
    good = np.ones(3)
    with pytest.raises(Unusable) as refused:
        read(
            a__kernel=np.array([1.0, np.nan]),
            b__kernel=np.array([1e39, 0.0]),
            c__moving_variance=np.array([0.5, -1e-9]),
            d__moving_mean=-good,
            e__gamma=np.array([np.inf]),
        )
    assert refused.value.finding.title == "4 of 5 tensors cannot be weights"
    assert refused.value.finding.details[:2] == (
        "NaN or infinite, or too large for float32: a__kernel [2], b__kernel [2], e__gamma [1]",
        "a negative variance: c__moving_variance [2]",
    )


def test_values_that_are_hardly_weights_are_remarked_on_by_name() -> None:
    spread = np.linspace(-1, 1, 5)
    values = read(
        a__kernel=spread * 15785,
        b__kernel=spread,
        c__kernel=np.zeros(4),
        d__moving_variance=np.full(2, 1e6),
        e__moving_variance=np.full(2, 1e9),
        f__bias=np.zeros(3),
    )
    assert values.remarks == (
        "beyond 10000, which weights hardly ever are: a__kernel [5]",
        "one value throughout, so that it has learned nothing: c__kernel [4]",
        "beyond 1e+08, which weights hardly ever are: e__moving_variance [2]",
    )


def test_a_damaged_tensor_is_damage() -> None:
    tensor = Tensor("a", "a", (1,), "float32")

    def fail(tensor: Tensor) -> None:
        raise Unusable(hdf5_files.Finding("tensor", DAMAGE, "cut", ()))

    with pytest.raises(Unusable, match="cut"):
        read_values(Contents(Kind.SAFETENSORS, Path("x"), (tensor,), fail), {"a/kernel": tensor})
