"""What is in the checkpoints of other training programs, what of it can be taken, and how. Nothing in them is run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.command_line import argument, command_line, python_command
from trainer.errors import one_line
from trainer.interchange.findings import listed
from trainer.storage.documents import parse_json
from trainer.storage.guarded import read_text
from trainer.storage.pickle_outline import Call, Elsewhere, Name, NotUnderstood, Outline, outline
from trainer.storage.unacceptable import Unacceptable

LIGHTNING_VERSION = "pytorch-lightning_version"
# where programs keep weights, the trained ones before their averages; "" is the whole file
WEIGHTS = ("state_dict", "model", "model_state_dict", "module", "net", "state_dict_ema", "model_ema", "")
NAMESPACE = "argparse.Namespace"  # timm keeps its arguments in one
# what torch.load(weights_only=True) takes: torch/_weights_only_unpickler.py
HARMLESS = ("collections.OrderedDict", "collections.defaultdict", "torch.Size", "torch.device", "_codecs.encode")
HARMLESS_MODULES = ("torch._utils", "torch._tensor", "torch.nn.parameter")
NUMBERS_SHOWN = 8
JSON_LIMIT = 1 << 24  # bytes
TRUSTED = "loading it so runs whatever its author put into it: do it only where you trust it"


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors under a key of a pickle."""

    key: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def said(self) -> str:
        values = sum(math.prod(shape) for shape in self.shapes.values())
        where = self.key or "the file itself"
        return f"{where}: {len(self.shapes)} tensors, {values:,} values ({listed(self.shapes)})"


def pickled(path: Path) -> tuple[str, ...]:
    """Lines about a pickle of PyTorch: what is in it, and the command that makes weights of it that can be read. Only
    the second where it is not understood.
    """
    try:
        found = outline(path)
    except (NotUnderstood, OSError, MemoryError) as error:
        return (f"what is in it cannot be told: {one_line(str(error))}", *_converting(path, "state_dict", True))
    weights = _weights(found)
    if weights is None:
        return ("it has no tensors by name, so there are no weights in it to take",)
    return (
        f"{_program(found)}; it was read without loading it",
        f"weights in {weights.said}",
        *_rest(found, weights),
        *_converting(path, weights.key, _plain(found), NAMESPACE in found.names),
    )


def _converting(path: Path, key: str, plain: bool, namespace: bool = False) -> tuple[str, ...]:
    target = f"{path}.safetensors"
    load = f"torch.load({str(path)!r}, map_location='cpu', weights_only={plain})"
    weights = f"{load}[{key!r}]" if key else load
    allowed = "import argparse; torch.serialization.add_safe_globals([argparse.Namespace]); " if namespace else ""
    tensors = "{n: t.clone().contiguous() for n, t in w.items() if torch.is_tensor(t)}"
    code = f"import torch, safetensors.torch as s; {allowed}w = {weights}; s.save_file({tensors}, {target!r})"
    return (
        "take the weights where PyTorch is, then start a run from them; its optimizer and its position stay behind:",
        *([] if plain else [f"  ({TRUSTED})"]),
        f"  {python_command(code)}",
        f"  {command_line('doctor', argument('checkpoint', Path(target)))}",
    )


def _program(found: Outline) -> str:
    keys = found.value if isinstance(found.value, dict) else {}
    if LIGHTNING_VERSION in keys:
        return f"a checkpoint of PyTorch Lightning {one_line(str(keys[LIGHTNING_VERSION]))}"
    if {"arch", "state_dict", "version"} <= keys.keys():
        return f"a checkpoint of timm's training script, of its network {one_line(str(keys['arch']))}"
    return "a checkpoint of PyTorch"


def _plain(found: Outline) -> bool:
    """Whether torch.load takes it with ``weights_only``, its form that runs nothing."""
    return all(
        name in (*HARMLESS, NAMESPACE)
        or name.rpartition(".")[0] in HARMLESS_MODULES
        or (name.startswith("torch.") and name.count(".") == 1)  # types and storages
        for name in found.names
    )


def _weights(found: Outline) -> Weights | None:
    if not isinstance(found.value, dict):
        return None
    for key in WEIGHTS:
        node = found.value if key == "" else found.value.get(key)
        shapes = _shapes(node)
        if shapes:
            return Weights(key, shapes)
    return None


def _shapes(node: Any) -> dict[str, tuple[int, ...]]:
    entries = _entries(node)
    shapes = {one_line(str(name)): _shape(value) for name, value in entries.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _entries(node: Any) -> Mapping[Any, Any]:
    return node if isinstance(node, dict) else node.entries if isinstance(node, Call) else {}


def _shape(value: Any) -> tuple[int, ...] | None:
    """Of a tensor; None for anything else. Its arguments: storage, offset, shape, strides, …"""
    if not isinstance(value, Call) or not isinstance(value.function, Name) or not isinstance(value.arguments, tuple):
        return None
    if value.function.name == "_rebuild_parameter" and value.arguments:
        return _shape(value.arguments[0])
    if not value.function.name.startswith("_rebuild_tensor") or len(value.arguments) < 3:
        return None
    storage, _, shape = value.arguments[:3]
    if not isinstance(storage, Elsewhere) or not isinstance(shape, tuple):
        return None
    return shape if all(isinstance(size, int) and 0 <= size < 2**40 for size in shape) else None


def _rest(found: Outline, weights: Weights) -> Iterator[str]:
    if not weights.key:
        return
    others = {one_line(str(key)): value for key, value in found.value.items() if key != weights.key}
    numbers = [
        f"{key}={one_line(str(value))}"
        for key, value in others.items()
        if isinstance(value, int | float | str) and len(str(value)) < 40
    ]
    if numbers:
        yield f"it also says {', '.join(numbers[:NUMBERS_SHOWN])}"
    for key, value in others.items():
        if count := _tensors_below(value):
            yield f"not taken: {key} ({count} tensors)"
    if empty := [key for key, value in others.items() if _is_something(value) and not _tensors_below(value)]:
        yield f"not taken: {listed(empty)}"


def _is_something(value: Any) -> bool:
    return not isinstance(value, int | float | str | None) and value not in ([], {}, ())


def _tensors_below(node: Any) -> int:
    """Each once, however often it is referred to."""
    count, seen, waiting = 0, set[int](), [node]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or not isinstance(each, dict | list | tuple | Call):
            continue
        seen.add(id(each))
        if _shape(each) is not None:
            count += 1
        else:
            waiting += each if isinstance(each, list | tuple) else _entries(each).values()
    return count


def orbax(place: Path) -> tuple[str, ...]:
    """Lines about a checkpoint of Orbax, from the texts in it: ``place`` has one of the files that mark it."""
    facts = _table(place / "_CHECKPOINT_METADATA")
    lines, trees = [], 0
    if facts and facts.get("commit_timestamp_nsecs", 0) is None:
        lines.append("it was not finished: Orbax has not committed it")
    for item in (place, *sorted(each for each in place.iterdir() if each.is_dir())):
        tree = _table(item / "_METADATA").get("tree_metadata")
        if isinstance(tree, dict) and tree:
            names = [".".join(_path_of(entry)) for entry in tree.values()]
            trees += 1
            groups = sorted({name.partition(".")[0] for name in names})
            lines.append(f"{item.name} has {len(names)} values, in {listed(groups)}: {listed(names)}")
            lines += _from_orbax(item)
    if not trees:
        lines.append("what is in it cannot be told: it has no _METADATA that is understood")
    return tuple(lines)


def _from_orbax(item: Path) -> Iterator[str]:
    target = os.path.abspath(f"orbax-{item.name}.safetensors")  # not in the checkpoint, where Orbax would meet it
    code = (
        "import jax, numpy, orbax.checkpoint as o, safetensors.numpy as s; "
        f"t = o.PyTreeCheckpointer().restore({str(item)!r}); "
        "w = {'/'.join(str(getattr(k, 'key', getattr(k, 'idx', k))) for k in p): numpy.ascontiguousarray(v) "
        "for p, v in jax.tree_util.tree_flatten_with_path(t)[0]}; "
        f"s.save_file(w, {target!r})"
    )
    yield "take its values where Orbax is; those with names of torchvision or Keras can start a run:"
    yield f"  {python_command(code)}"
    yield f"  {command_line('inspect', argument('checkpoint', Path(target)))}"


def _path_of(entry: Any) -> list[str]:
    keys = entry.get("key_metadata", []) if isinstance(entry, dict) else []
    return [one_line(str(key.get("key"))) for key in keys if isinstance(key, dict)]


def keras_backup(metadata: Path) -> tuple[str, ...]:
    """What Keras's BackupAndRestore says about its position: the JSON beside its weights."""
    numbers = [f"{one_line(name)} {value}" for name, value in _table(metadata).items() if isinstance(value, int)]
    said = f"it stopped in {', '.join(numbers)}" if numbers else "it does not say where it stopped"
    return (f"{said}; this position and the optimizer's state stay behind, the weights can start a run",)


def _table(path: Path) -> dict[str, Any]:
    try:
        table = parse_json(read_text(path, JSON_LIMIT))
    except (OSError, Unacceptable, json.JSONDecodeError):
        return {}
    return table if isinstance(table, dict) else {}
