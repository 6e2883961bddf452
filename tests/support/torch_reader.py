"""Load what ``export names=…`` wrote into a network of torch: ``python torch_reader.py FILE CONSTRUCTOR``.

It imports nothing of ``trainer``: a Python that has torch runs it. Beside the file lie ``images.npy``, float32
``[n, S, S, 3]``; it writes ``logits.npy``, float32 ``[n, classes]``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np


def main(file: Path, constructor: str) -> None:
    names = ("torch", "torchvision", "timm", "safetensors.torch")
    found = {name.partition(".")[0]: importlib.import_module(name) for name in names}
    torch, safetensors = found["torch"], importlib.import_module("safetensors.torch")
    model = eval(constructor, found)
    model.load_state_dict(safetensors.load_file(str(file)), strict=True)
    model.eval()
    images = np.load(file.with_name("images.npy")).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(torch.from_numpy(np.ascontiguousarray(images))).numpy()
    np.save(file.with_name("logits.npy"), logits)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
