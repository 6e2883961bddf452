"""Where the time of a step goes: what each kind of oneDNN's kernels takes of it, as oneDNN itself writes it down
(``ONEDNN_VERBOSE=profile_exec``), in float32 and bfloat16, at two sizes of image. What is left is TensorFlow's own
kernels: activations, joins of branches, the optimizer, casts. One thread, so that no two kernels run at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from interleaved import Row, publish, row

SIZES = ((75, 32), (299, 8))  # image size, batch
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
WARM_STEPS, STEPS, ROUNDS = 2, 3, 3
PLACES = (2, 4)  # of a kernel's kind and direction behind "exec" in a line, whose last field is its milliseconds


def main() -> None:
    rows: list[Row] = []
    for size, batch in SIZES:
        for name, precision in PRECISIONS.items():
            rounds = [_milliseconds(size, batch, precision) for _ in range(ROUNDS)]
            totals = [each["step"] for each in rounds]
            kinds = sorted(rounds[0], key=lambda kind, first=rounds[0]: -first[kind])  # type: ignore[misc]
            for kind in kinds:
                values = [each.get(kind, 0.0) for each in rounds]
                rows.append(row(f"{size}x{size}, {batch}, {name}: {kind}", values, "ms CPU", totals))
    publish("kernels", "Inception V3, Adam: CPU of one step by kind of kernel", rows)


def _milliseconds(size: int, batch: int, precision: str) -> dict[str, float]:
    """Of one step, by kind of kernel, and as "step" of all."""
    program = str(Path(__file__).with_name("kernels_contender.py"))
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_exec"}
    command = [sys.executable, program, str(size), str(batch), precision]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    steps, (_, ended) = output.split("began\n")[1].split("ended,")[0], output.rsplit("ended,", 1)
    found = {"step": 1000 * float(ended) / STEPS}
    for line in steps.splitlines():
        fields = line.split(",")
        if "exec" in fields:
            at = fields.index("exec")
            kind = " ".join(fields[at + place] for place in PLACES if fields[at + place] != "undef").replace("_", " ")
            found[kind] = found.get(kind, 0.0) + float(fields[-1]) / STEPS
    return {**found, "TensorFlow's own": 2 * found["step"] - sum(found.values())}
