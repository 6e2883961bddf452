"""Keras files: ``.weights.h5``, legacy ``.h5``, and ``.keras``, a zip around one. Nothing in them is deserialised.

HDF5 can point at other files. The reader follows no links and no external storage, so a file from a stranger can show
its own contents only.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from trainer.errors import one_line
from trainer.interchange.contents import NETWORKS, ORIGIN, ORIGIN_CONFIG, Contents, Kind, Tensor
from trainer.interchange.findings import DAMAGE, MISMATCH, Finding, Unusable
from trainer.interchange.values import from_bfloat16, not_plain
from trainer.models.inception_v3_units import NORM_LEAVES

WEIGHTS_MEMBER = "model.weights.h5"
METADATA_MEMBER = "metadata.json"
CONFIG_MEMBER = "config.json"
EXPANSION_LIMIT = 20  # unpacked size / size in the file; Keras compresses nothing
JSON_LIMIT = 1 << 24  # bytes
TEXT_ATTRIBUTES = ("keras_version", "backend", ORIGIN, ORIGIN_CONFIG)
SECONDS_ALLOWED = 30.0
SLOWEST_BYTES_PER_SECOND = 5e6
MODEL_CONFIG = "model_config"  # the attribute of a legacy file
BFLOAT16, OPAQUE_PAIR = "bfloat16", "|V2"
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # in which Keras 3 stores the layers of a model
NUMBER = re.compile(r"_\d+$")
SLOT_GROUPS = ("optimizer", "optimizer_weights")
BATCH_NORM = "batch_normalization"
# the variables of layers in the order in which Keras stores them, where they are not a kernel and a bias
LEAVES = {
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "layer_normalization": ("gamma", "beta"),
    "layer_scale": ("gamma",),
    "normalization": ("mean", "variance", "count"),
}


def read_hdf5(path: Path, kind: Kind) -> Contents:
    """List a ``.weights.h5`` or a legacy ``.h5`` file.

    Raises:
        Unusable: HDF5 cannot open it, as happens with a truncated file.
    """
    _survive(path, kind)
    return _read_hdf5(path, kind)


def _read_hdf5(path: Path, kind: Kind) -> Contents:
    return _contents(_open(path, path), path, kind, {})


def read_keras_archive(path: Path) -> Contents:
    """List a ``.keras`` file: the JSON with the version of Keras that wrote it, and the weights.

    Raises:
        Unusable: a member is damaged or unpacks to an unreasonable size.
    """
    _survive(path, Kind.KERAS)
    return _read_keras_archive(path)


def _read_keras_archive(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        facts = {}
        if METADATA_MEMBER in archive.namelist():
            facts = _json_texts(_member(archive, METADATA_MEMBER, JSON_LIMIT, path))
        if CONFIG_MEMBER in archive.namelist():
            facts |= _networks(_member(archive, CONFIG_MEMBER, JSON_LIMIT, path))
        for name in {ORIGIN, ORIGIN_CONFIG} & set(archive.namelist()):
            facts[name] = _member(archive, name, JSON_LIMIT, path).decode(errors="replace")
        limit = EXPANSION_LIMIT * path.stat().st_size
        weights = _member(archive, WEIGHTS_MEMBER, limit, path)
    return _contents(_open(io.BytesIO(weights), path), path, Kind.KERAS, facts)


def _survive(path: Path, kind: Kind) -> None:
    """Read the whole file in another process first, because the HDF5 library can loop or crash on a damaged file."""
    seconds = SECONDS_ALLOWED + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
    root = str(Path(__file__).resolve().parent.parent.parent)
    known = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    try:
        process = subprocess.run(
            [sys.executable, "-m", __name__, kind.name, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *known])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        title = f"{path} is damaged: the HDF5 library was still reading it after {seconds:.0f} seconds"
        raise Unusable(Finding("damaged", DAMAGE, title)) from error
    if process.returncode < 0:
        title = f"{path} is damaged: the HDF5 library crashed on it (signal {-process.returncode})"
        raise Unusable(Finding("damaged", DAMAGE, title))


def _read_everything(kind: Kind, path: Path) -> None:
    contents = _read_keras_archive(path) if kind is Kind.KERAS else _read_hdf5(path, kind)
    for tensor in contents.tensors:
        contents.read(tensor)


def _member(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > limit:
        title = f"{path}: {name} would unpack to {info.file_size} bytes, more than the limit of {limit}"
        raise Unusable(Finding("oversized", MISMATCH, title))
    try:
        with archive.open(info) as member:
            return member.read(limit + 1)  # the directory of a zip can give wrong sizes
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise Unusable(Finding("flipped", DAMAGE, f"{path}: {name} is damaged: {error}")) from error


def _json_texts(text: bytes) -> dict[str, str]:
    try:
        container = json.loads(text)
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in container.items()} if isinstance(container, dict) else {}


def _networks(text: str | bytes) -> dict[str, str]:
    """The names of the model and of the models within it, as its configuration has them."""
    try:
        names = list(dict.fromkeys(_named_models(json.loads(text))))
    except (ValueError, RecursionError):
        return {}
    return {NETWORKS: ", ".join(names)} if names else {}


def _named_models(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _named_models(each)
    if isinstance(node, dict):
        config = node["config"] if "config" in node else None
        if isinstance(config, dict) and "layers" in config and isinstance(config.get("name"), str):
            yield one_line(config["name"])
            yield from _named_models(config["layers"])


def _open(source: Path | BinaryIO, path: Path) -> h5py.File:
    try:
        return h5py.File(source, "r")
    except OSError as error:
        text = str(error)
        sizes = re.search(r"eof = (\d+).*stored_eof = (\d+)", text)
        if sizes:
            title = f"{path} ends too early: it has {sizes.group(1)} bytes and was written with {sizes.group(2)}"
            raise Unusable(Finding("truncated", DAMAGE, title)) from error
        raise Unusable(Finding("damaged", DAMAGE, f"{path} is not a readable HDF5 file: {text}")) from error


def _contents(file: h5py.File, path: Path, kind: Kind, facts: Mapping[str, str]) -> Contents:
    datasets: dict[str, h5py.Dataset] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not node.external:
            datasets[name] = node

    try:
        file.visititems(visit)  # does not follow soft or external links
        label = _labels(file, datasets)
        only = BFLOAT16 if MODEL_CONFIG in file.attrs and BFLOAT16 in str(file.attrs[MODEL_CONFIG]) else ""
        if MODEL_CONFIG in file.attrs:
            facts = {**facts, **_networks(str(file.attrs[MODEL_CONFIG]))}
        facts = {**facts, **{name: str(file.attrs[name]) for name in TEXT_ATTRIBUTES if name in file.attrs}}
        tensors = tuple(
            Tensor(key, label(key), tuple(dataset.shape or ()), _type(dataset, only))
            for key, dataset in datasets.items()
        )
        optimizer = _optimizer(file, datasets)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise Unusable(Finding("damaged", DAMAGE, f"{path} is damaged: {error}")) from error

    def read(tensor: Tensor) -> Any:
        if tensor.dtype.startswith("|V"):
            raise Unusable(not_plain(f"{tensor.dtype}, bytes of a meaning that the file does not state"))
        if datasets[tensor.key].nbytes > EXPANSION_LIMIT * path.stat().st_size:
            title = f"{tensor.label} would take {datasets[tensor.key].nbytes} bytes, far more than the file has"
            raise Unusable(Finding("tensor", DAMAGE, title, (tensor.label,)))
        try:
            value = datasets[tensor.key][()]
        except (OSError, RuntimeError) as error:
            raise Unusable(Finding("tensor", DAMAGE, str(error), (tensor.label,))) from error
        return from_bfloat16(np.asarray(value)) if tensor.dtype == BFLOAT16 else value

    return Contents(kind, path, tensors, read, optimizer=optimizer, facts=facts)


def _type(dataset: h5py.Dataset, only: str) -> str:
    """The type's name. HDF5 has no bfloat16: Keras stores opaque pairs of bytes. An attribute of the dataset says what
    they are; in a legacy file the model's configuration alone does, and ``only`` is the type that it names.
    """
    if dataset.dtype == OPAQUE_PAIR:
        stated = dataset.attrs["dtype"] if "dtype" in dataset.attrs else only
        return BFLOAT16 if stated == BFLOAT16 else str(dataset.dtype)
    return str(dataset.dtype)


def _optimizer(file: h5py.File, datasets: Mapping[str, Any]) -> str | None:
    """The optimizer whose state is stored, for example ``adam``."""
    if "optimizer/vars/0" in datasets:
        return _attribute(file["optimizer/vars"], "name")
    for key in datasets:
        if key.startswith("optimizer_weights/"):
            return key.split("/")[1]
    return None


def _attribute(group: h5py.Group, name: str) -> str | None:
    value = group.attrs[name] if name in group.attrs else None
    return value.decode() if isinstance(value, bytes) else value


def _labels(file: h5py.File, datasets: Mapping[str, Any]) -> Callable[[str], str]:
    """Names such as ``conv2d_8/kernel`` for all of Keras's layouts, ``inception_v3/conv2d_8/kernel`` in a nested model.

    Keras 3 numbers the variables of a layer, and stores the layer under its class and a running number, which says
    nothing about the layer's name. That is in the group's ``name`` attribute only: without it the label is the key.
    Legacy keys are the name of the model's layer, and below it the paths of the layer's variables.
    """
    counts = collections.Counter(key.rpartition("/")[0] for key in datasets)
    named = frozenset(_layer_names(file))

    def label(key: str) -> str:
        group, _, leaf = key.rpartition("/")
        if key.startswith(SLOT_GROUPS):
            return key
        if not group.endswith("vars") or not leaf.isdecimal():
            outermost, path = _layer_of(group.removeprefix("model_weights/"), named)
            # a layer's variables carry its name, or that with a number where the process built the model twice
            nested = path != "" and NUMBER.sub("", path) != NUMBER.sub("", outermost)
            return "/".join([outermost, *([path] if nested else []), leaf.removesuffix(":0")])
        *containers, kind = group.removesuffix("/vars").split("/")
        layer = _attribute(file[group], "name")
        if layer is None:
            return key
        # an attribute's name may be the kind
        leaves = leaves_of(BATCH_NORM if BATCH_NORM in layer else NUMBER.sub("", kind), counts[group])
        number = int(leaf)
        outer = [name for name in containers if name not in CONTAINERS]
        return "/".join([*outer, layer, leaves[number] if number < len(leaves) else leaf])

    return label


def leaves_of(kind: str, count: int) -> tuple[str, ...]:
    """The names of the ``count`` variables of a layer, in the order in which Keras 3 stores them, by its class."""
    if BATCH_NORM in kind:
        beta, gamma, *moving = NORM_LEAVES
        return (gamma, beta, *moving) if count == len(NORM_LEAVES) else (beta, *moving)
    return LEAVES[kind] if kind in LEAVES else ("kernel", "bias")


def _layer_names(file: h5py.File) -> Iterator[str]:
    """The names of a legacy file's layers. Those of Keras 2 may have slashes, as groups in HDF5 have."""
    group = file["model_weights"] if "model_weights" in file else file
    for attribute in group.attrs:
        if attribute.startswith("layer_names"):  # in parts where they are too many for one
            for name in group.attrs[attribute]:
                yield name.decode() if isinstance(name, bytes) else str(name)


def _layer_of(group: str, named: Collection[str]) -> tuple[str, str]:
    """The layer of the model that a group of variables belongs to, and the path below it."""
    parts = group.split("/")
    for count in range(len(parts), 0, -1):
        if (name := "/".join(parts[:count])) in named:
            return name, "/".join(parts[count:])
    return parts[0], "/".join(parts[1:])


if __name__ == "__main__":  # _survive starts it
    with contextlib.suppress(Unusable):  # the process that started this one will find the same
        _read_everything(Kind[sys.argv[1]], Path(sys.argv[2]))
