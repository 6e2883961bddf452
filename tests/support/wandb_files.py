"""Reading the files that W&B writes offline. Its Python library has no reader since the program ``wandb-core`` writes
them; the records are in the library's own messages, in blocks as LevelDB's log has them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK, PIECE = 7, 32768, struct.Struct("<IHB")  # checksum, length, kind
LAST_PIECES = (1, 4)  # a whole record, or the end of one


def records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + PIECE.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < PIECE.size:
            at += left
            continue
        _, length, kind = PIECE.unpack_from(data, at)
        at += PIECE.size
        whole += data[at : at + length]
        at += length
        if kind in LAST_PIECES:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def rows(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Each row of the history: its number, and its values without those that W&B adds."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            values = {name: json.loads(text) for name, text in items.items() if not name.startswith("_")}
            yield record.history.step.num, values
