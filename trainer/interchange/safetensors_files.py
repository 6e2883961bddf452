"""The safetensors format: eight bytes of header length, a JSON header, then the values.

https://github.com/huggingface/safetensors#format. This module reads and writes the format itself: the library (0.8) has
no BF16 and no 8-bit floats for NumPy, names no tensor in a truncated file, and writes an array in Fortran order with
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
from trainer.interchange.findings import DAMAGE, Finding, Unusable

HEADER_LIMIT = 100_000_000  # bytes, the reference implementation's MAX_HEADER_SIZE
TENSOR_LIMIT = 1_000_000
METADATA = "__metadata__"
# name → (NumPy type, bytes); NumPy has no bfloat16 and no 8-bit floats, so the reader returns their bits
TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "uint8",
    "F8_E5M2": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}


def read_safetensors(path: Path) -> Contents:
    """List a ``.safetensors`` file; every offset is checked against the size of the file.

    Raises:
        Unusable: the header is damaged, or names values that the file does not have.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            title = f"{path} ends too early: its header should have {length} bytes, the file has {size}"
            raise Unusable(Finding("truncated", DAMAGE, title))
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unusable(Finding("damaged", DAMAGE, f"{path} has a header that is not JSON: {error}")) from error
    if not isinstance(header, dict) or len(header) > TENSOR_LIMIT:
        raise Unusable(Finding("damaged", DAMAGE, f"{path} has a header that is not a table of tensors"))
    metadata = header.pop(METADATA, {})
    start = 8 + length
    places = {name: _entry(name, entry, size - start, path) for name, entry in header.items()}

    def read(tensor: Tensor) -> Any:
        kind, shape, begin, end = places[tensor.key]
        with path.open("rb") as file:
            file.seek(start + begin)
            return np.frombuffer(file.read(end - begin), TYPES[kind]).reshape(shape)

    tensors = tuple(Tensor(name, name, shape, kind.lower()) for name, (kind, shape, _, _) in places.items())
    facts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return Contents(Kind.SAFETENSORS, path, tensors, read, facts=facts)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays, row-major and little-endian, in the order they are given."""
    kinds = {np.dtype(kind): name for name, kind in TYPES.items() if name not in ("BF16", "F8_E4M3", "F8_E5M2")}
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


def _entry(name: str, entry: Any, available: int, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, first byte and end of one tensor, validated."""
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        counts = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(Finding("damaged", DAMAGE, f"{path}: the entry of {name} is not understood")) from error
    if kind not in TYPES or not all(type(count) is int and count >= 0 for count in counts) or begin > end:
        raise Unusable(Finding("damaged", DAMAGE, f"{path}: the entry of {name} makes no sense: {entry}"))
    needed = math.prod(shape) * np.dtype(TYPES[kind]).itemsize
    if needed != end - begin:
        title = f"{path}: {name} is {kind}{list(shape)}, which takes {needed} bytes, but its place has {end - begin}"
        raise Unusable(Finding("damaged", DAMAGE, title))
    if end > available:
        title = f"{path} ends too early: {name} ends at byte {end} of the values, the file has {available} of them"
        raise Unusable(Finding("truncated", DAMAGE, title))
    return kind, shape, begin, end
