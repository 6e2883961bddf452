"""The safetensors format: eight bytes of header length, a JSON header, then the values.

https://github.com/huggingface/safetensors#format. This module reads and writes the format itself: the library (0.8.0)
has no 8-bit floats for NumPy, names no tensor in a truncated file, and writes an array that is not C-contiguous with
wrong values. Tests compare the files with the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.interchange.contents import Contents, Kind, Tensor
from trainer.interchange.findings import DAMAGE, MISMATCH, Finding, Unusable, listed
from trainer.interchange.mistaken import refuse_mistaken
from trainer.interchange.values import from_bfloat16, not_plain

HEADER_LIMIT = 100_000_000  # bytes, the reference implementation's MAX_HEADER_SIZE
TENSOR_LIMIT = 1_000_000
METADATA = "__metadata__"
INDEX = ".safetensors.index.json"
INDEX_LIMIT = 1 << 26  # bytes
# NumPy's types, all little-endian
TYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "I64": "<i8",
    "U64": "<u8",
    "F64": "<f8",
    "C64": "<c8",
}
BFLOAT16 = "BF16"  # the upper half of a float32
# bits of the types that are not read; a type that is in none of these tables has an unknown size
NARROW = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}
BITS = {**{name: 8 * np.dtype(kind).itemsize for name, kind in TYPES.items()}, **NARROW, BFLOAT16: 16}


def read_safetensors(path: Path) -> Contents:
    """List a ``.safetensors`` file; every offset is checked against the size of the file.

    Raises:
        Unusable: it is no such file, the header is damaged, or names values that the file does not have.
    """
    refuse_mistaken(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            title = f"{path} ends too early: its header should have {length} bytes, the file has {size}"
            raise Unusable(Finding("truncated", DAMAGE, title))
        text = file.read(length)
    header = _table(text, f"{path} has a header")
    metadata = header.pop(METADATA, {})
    start = 8 + length
    places = {name: _entry(name, entry, size - start, path) for name, entry in header.items()}
    _refuse_overlaps(places, size - start, path)

    def read(tensor: Tensor) -> Any:
        kind, shape, begin, end = places[tensor.key]
        if kind not in TYPES and kind != BFLOAT16:
            raise Unusable(not_plain(tensor.dtype))
        with path.open("rb") as file:
            file.seek(start + begin)
            stored = file.read(end - begin)
        if kind == BFLOAT16:
            return from_bfloat16(np.frombuffer(stored, "<u2")).reshape(shape)
        return np.frombuffer(stored, TYPES[kind]).reshape(shape)

    tensors = tuple(Tensor(name, name, shape, kind.lower()) for name, (kind, shape, _, _) in places.items())
    facts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return Contents(Kind.SAFETENSORS, path, tensors, read, facts=facts)


def read_safetensors_index(path: Path) -> Contents:
    """List the files that a ``model.safetensors.index.json`` names, as one.

    Raises:
        Unusable: a file is missing or damaged, or has not the tensors that the index says are in it.
    """
    if path.stat().st_size > INDEX_LIMIT:
        raise Unusable(
            Finding("oversized", MISMATCH, f"{path} has more than {INDEX_LIMIT} bytes, too many for an index")
        )
    index = _table(path.read_bytes(), f"{path} has contents")
    table = index["weight_map"] if "weight_map" in index else None
    if not isinstance(table, dict) or not all(isinstance(file, str) for file in table.values()):
        raise Unusable(Finding("damaged", DAMAGE, f"{path} has no weight_map from tensors to files"))
    names = sorted(set(table.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise Unusable(Finding("outside", MISMATCH, f"{path} names files that are not beside it: {listed(outside)}"))
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        title = f"{listed(missing)} missing in {path.parent}: {path.name} names {len(names)} files"
        raise Unusable(Finding("missing_shard", DAMAGE, title))
    parts = {name: read_safetensors(path.with_name(name)) for name in names}
    where = {tensor.key: name for name, part in parts.items() for tensor in part.tensors}
    count = sum(len(part.tensors) for part in parts.values())
    if where != table or count != len(where):
        odd = sorted({key for key, _ in where.items() ^ table.items()})
        title = f"{path} and its {len(names)} files differ in their tensors: {listed(odd) or 'some are there twice'}"
        raise Unusable(Finding("shards", DAMAGE, title, ("the files belong to different checkpoints, or one is cut",)))
    tensors = tuple(tensor for part in parts.values() for tensor in part.tensors)
    return Contents(Kind.SAFETENSORS, path, tensors, lambda tensor: parts[where[tensor.key]].read(tensor))


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays, row-major and little-endian, in the order they are given."""
    kinds = {np.dtype(kind): name for name, kind in TYPES.items()}
    header: dict[str, object] = {METADATA: dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())


def _table(text: bytes, what: str) -> dict[str, Any]:
    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unusable(Finding("damaged", DAMAGE, f"{what} that is not JSON: {error}")) from error
    if not isinstance(table, dict) or len(table) > TENSOR_LIMIT:
        raise Unusable(Finding("damaged", DAMAGE, f"{what} that is not a table of tensors"))
    return table


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def _refuse_overlaps(places: Mapping[str, tuple[str, tuple[int, ...], int, int]], available: int, path: Path) -> None:
    """The format has no byte that belongs to two tensors, and none that belongs to no tensor."""
    expected = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != expected:
            title = f"{path}: {name} begins at byte {begin} of the values, where {expected} should follow"
            raise Unusable(Finding("damaged", DAMAGE, title))
        expected = end
    if expected != available:
        title = f"{path} has {available} bytes of values, its header names {expected} of them"
        raise Unusable(Finding("damaged", DAMAGE, title))


def _entry(name: str, entry: Any, available: int, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, first byte and end of one tensor, validated."""
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        counts = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(Finding("damaged", DAMAGE, f"{path}: the entry of {name} is not understood")) from error
    if type(kind) is not str or not all(type(count) is int and count >= 0 for count in counts) or begin > end:
        raise Unusable(Finding("damaged", DAMAGE, f"{path}: the entry of {name} makes no sense: {entry}"))
    needed = -(-math.prod(shape) * BITS[kind] // 8) if kind in BITS else end - begin
    if needed != end - begin:
        title = f"{path}: {name} is {kind}{list(shape)}, which takes {needed} bytes, but its place has {end - begin}"
        raise Unusable(Finding("damaged", DAMAGE, title))
    if end > available:
        title = f"{path} ends too early: {name} ends at byte {end} of the values, the file has {available} of them"
        raise Unusable(Finding("truncated", DAMAGE, title))
    return kind, shape, begin, end
