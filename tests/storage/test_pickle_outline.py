"""A pickle is described without being loaded: nothing that it names is called."""

from __future__ import annotations

import argparse
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import Tensor, save

from trainer.storage.pickle_outline import Call, Elsewhere, NotUnderstood, outline

DATA = {
    "numbers": [1, -(2**70), 2.5, True, None, 255, 70000],
    "texts": ("a", "ä" * 300, b"bytes", b"x" * 300),
    "nested": {"one": {"two": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}},
    "again": [],
}
DATA["self"] = DATA["nested"]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_are_seen_as_they_are_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    data = {name: value for name, value in DATA.items() if protocol > 2 or name != "texts"}  # bytes are calls there
    path.write_bytes(pickle.dumps(data, protocol))
    found = outline(path)
    assert found.value == data
    assert found.value["self"] is found.value["nested"]
    assert found.names == frozenset()


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", range(6))
def test_what_a_pickle_would_call_is_named_and_not_called(protocol: int, tmp_path: Path) -> None:
    path, mark = tmp_path / "data.pkl", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"epoch": 3, "evil": Evil(mark), "args": argparse.Namespace(lr=0.1)}, protocol))
    found = outline(path)
    assert not mark.exists()
    assert found.value["epoch"] == 3
    assert isinstance(found.value["evil"], Call)
    assert found.value["args"].entries == {"lr": 0.1}
    assert "argparse.Namespace" in found.names
    assert any(name.startswith("pathlib") or name == "builtins.getattr" for name in found.names), found.names
    pickle.loads(path.read_bytes())
    assert mark.exists(), "loading it would have called"


def test_a_tensor_of_torch_is_a_call_with_its_storage_elsewhere(tmp_path: Path) -> None:
    weights = OrderedDict([("conv.weight", Tensor(np.zeros((2, 3), np.float32)))])
    found = outline(save(tmp_path / "last.ckpt", {"state_dict": weights, "epoch": 1}))
    tensor = found.value["state_dict"]["conv.weight"]
    assert str(tensor.function) == "torch._utils._rebuild_tensor_v2"
    assert isinstance(tensor.arguments[0], Elsewhere)
    assert tensor.arguments[2] == (2, 3)


def test_whatever_was_cut_or_changed_is_not_understood_or_something_else_and_never_an_error(tmp_path: Path) -> None:
    path, draw = tmp_path / "x", random.Random(3)
    whole = save(tmp_path / "whole", {"state_dict": {"w": Tensor(np.zeros((2, 3), np.float32))}, **DATA}).read_bytes()
    kinds = [whole, *(pickle.dumps(DATA, protocol) for protocol in range(6))]
    understood = 0
    for number in range(1500):
        content = bytearray(kinds[number % len(kinds)])
        if number % 3:
            for _ in range(draw.randrange(1, 4)):
                content[draw.randrange(len(content))] = draw.randrange(256)
        else:
            del content[draw.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            outline(path)
        except NotUnderstood:
            continue
        understood += 1
    assert 0 < understood < 1000
