"""Safetensors as the library writes and reads it, in one file and in several."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from foreign_files import Arrays, cut, save_safetensors

from trainer.interchange.findings import DAMAGE, Unusable
from trainer.interchange.locate import locate
from trainer.interchange.readers import read_contents
from trainer.interchange.safetensors_files import read_safetensors, write_safetensors

ARRAYS: Arrays = {name: np.random.default_rng(seed).normal(size=(2, 3, 4)) for seed, name in enumerate("abc")}


def everything(path: Path) -> Arrays:
    contents = read_contents(locate(path))
    return {tensor.label: np.asarray(contents.read(tensor)) for tensor in contents.tensors}


def assert_same(found: Arrays, wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array_equal(found[name], value), name


def test_arrays_in_any_order_of_memory_are_written_with_their_values(tmp_path: Path) -> None:
    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "c": value,
        "fortran": np.asfortranarray(value),
        "transposed": value.transpose(2, 0, 1),
        "strided": value[:, ::2, ::-1],
        "broadcast": np.broadcast_to(np.float32(2.5), (3, 2)),
        "scalar": np.float32(7.0).reshape(()),
        "half": value.astype(np.float16).T,
        "empty": np.zeros((0, 3), np.float32),
    }
    write_safetensors(tmp_path / "model.safetensors", arrays, {"origin": "here"})
    assert_same(safetensors.numpy.load_file(tmp_path / "model.safetensors"), arrays)
    assert_same(everything(tmp_path / "model.safetensors"), arrays)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"origin": "here"}


def save_in_two(place: Path) -> Path:
    """Two files and their index, as ``save_pretrained`` lays them out."""
    parts = {"model-00001-of-00002.safetensors": ("a", "b"), "model-00002-of-00002.safetensors": ("c",)}
    for file, names in parts.items():
        safetensors.numpy.save_file({name: ARRAYS[name] for name in names}, place / file)
    table = {name: file for file, names in parts.items() for name in names}
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 576}, "weight_map": table}))
    return index


@pytest.mark.parametrize("given", ["model.safetensors.index.json", ".", "model-00002-of-00002.safetensors"])
def test_files_with_an_index_are_read_as_one(given: str, tmp_path: Path) -> None:
    save_in_two(tmp_path)
    assert_same(everything(tmp_path / given), ARRAYS)


def refusal(path: Path) -> str:
    with pytest.raises(Unusable) as refused:
        everything(path)
    assert refused.value.finding.status == DAMAGE
    return refused.value.finding.title


def test_a_part_that_is_missing_foreign_or_cut_is_refused_by_its_name(tmp_path: Path) -> None:
    index = save_in_two(tmp_path)
    second = tmp_path / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    cut(second, 0.9)
    assert f"{second} ends too early: c ends at byte" in refusal(index)
    safetensors.numpy.save_file({"d": ARRAYS["c"]}, second)
    assert "2 files differ in their tensors: c, d" in refusal(index)
    safetensors.numpy.save_file({"a": ARRAYS["a"], "c": ARRAYS["c"]}, second)
    assert "2 files differ in their tensors" in refusal(index)
    second.unlink()
    assert f"model-00002-of-00002.safetensors missing in {tmp_path}" in refusal(index)
    second.write_bytes(whole)
    index.unlink()
    title = refusal(second)
    assert "model-00002-of-00002.safetensors is one of 2 files, whose index is model.safetensors.index.json" in title
    index.write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(Unusable, match=r"names files that are not beside it: \.\./a\.safetensors"):
        everything(index)
    index.write_text('{"metadata": {}}')
    assert "has no weight_map" in refusal(index)


def test_bytes_that_belong_to_two_tensors_or_to_none_are_refused(tmp_path: Path) -> None:
    path = save_safetensors(tmp_path / "model.safetensors", {"a": np.ones(2, np.float32), "b": np.zeros(2, np.float32)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"data_offsets": [8, 16]', b'"data_offsets": [0,  8]'))
    with pytest.raises(Unusable, match="b begins at byte 0 of the values, where 8 should follow"):
        read_safetensors(path)
    path.write_bytes(content + bytes(4))
    with pytest.raises(Unusable, match="has 20 bytes of values, its header names 16"):
        read_safetensors(path)
    path.write_bytes(content.replace(b'"b"', b'"a"'))
    with pytest.raises(Unusable, match="a name is there twice"):
        read_safetensors(path)
