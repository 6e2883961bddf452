"""Files as ``torch.save`` writes them, made without PyTorch: a zip with ``data.pkl`` and the raw values beside it."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


class FloatStorage:
    """Stands in for ``torch.FloatStorage``."""


class Stored:
    """What a tensor's values are known by."""

    def __init__(self, key: str, values: np.ndarray) -> None:
        self.key, self.values = key, values


def _rebuild_tensor_v2() -> None:
    raise AssertionError("the pickle was run")


class Tensor:
    """A pickle of it has what that of a ``torch.Tensor`` has."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        strides = tuple(stride // self.values.itemsize for stride in self.values.strides)
        stored = Stored(str(id(self)), self.values)
        return _rebuild_tensor_v2, (stored, 0, self.values.shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, what: Any) -> Any:
        return ("storage", FloatStorage, what.key, "cpu", what.values.size) if isinstance(what, Stored) else None


@contextmanager
def _as_torch() -> Iterator[None]:
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    modules["torch"].FloatStorage = FloatStorage  # type: ignore[attr-defined]
    modules["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(FloatStorage, "__module__", "torch"),
        mock.patch.object(_rebuild_tensor_v2, "__module__", "torch._utils"),
    ):
        yield


def save(path: Path, what: Any) -> Path:
    content = io.BytesIO()
    with _as_torch():
        _Pickler(content, 2).dump(what)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/version", "3\n")
    return path
