"""Our training loop beside PyTorch's, at two sizes of image.

PyTorch takes gigabytes and is not installed with the rest. Install it first:
``.venv/bin/pip install torch torchvision``.
"""

from __future__ import annotations

import importlib.util
import sys

from bench_step import BLOCK_STEPS
from interleaved import publish
from workers import Worker, rates_of

ROUNDS = 5
SIZES = ((75, 32), (299, 8))  # image size, batch


def main() -> None:
    if importlib.util.find_spec("torchvision") is None:
        sys.exit("error: torchvision is not installed\nto measure against it: .venv/bin/pip install torch torchvision")
    rows = []
    for size, batch in SIZES:
        ours, theirs = f"{size}x{size}, {batch}: ours", f"{size}x{size}, {batch}: PyTorch"
        keys = (f"preprocess.image_size={size}", f"train.global_batch_size={batch}")
        workers = {
            ours: Worker("step_contender.py", "loop", *keys),
            theirs: Worker("torch_contender.py", str(size), str(batch)),
        }
        rows += rates_of(workers, theirs, ROUNDS, BLOCK_STEPS)
    publish("torch", "Inception V3, Adam, one step", rows)
