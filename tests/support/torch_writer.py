"""Write a network of torchvision or timm as safetensors: ``python torch_writer.py LIBRARY NAME SIZE PLACE``.

It imports nothing of ``trainer``: a Python that has torch runs it. ``PLACE`` gets ``model.safetensors``, and
``logits.npz`` with images float32 ``[4, SIZE, SIZE, 3]`` and their logits float32 ``[4, 10]``.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np

CLASSES = 10
# Through so many blocks the sums of random branches grow until an input that differs by 1e-7 changes the logits by a
# tenth, or in MobileNet V3 by 3e-5. Branches that are scaled down keep them close.
DEEP = {re.compile("efficientnet_b[3-7]"): 0.7, re.compile("mobilenet_v3_large"): 0.9}


def main(library: str, name: str, size: int, place: Path) -> None:
    torch = importlib.import_module("torch")
    if library == "timm":
        model = importlib.import_module("timm").create_model(name, num_classes=CLASSES, pretrained=False)
    else:
        model = getattr(importlib.import_module("torchvision.models"), name)(weights=None, num_classes=CLASSES)
    generator = np.random.default_rng(3)
    branch = next((scale for deep, scale in DEEP.items() if deep.search(name)), 1.0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.dtype == torch.float32:
                value = _value(key, tuple(tensor.shape), generator)
                scale = branch if tensor.ndim == 1 and key.endswith("weight") else 1.0
                tensor.copy_(torch.from_numpy(np.float32(scale) * value))
    model.eval()
    patches = np.random.default_rng(5).uniform(-1, 1, (4, 4, 4, 3)).astype(np.float32)
    images = patches.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]
    with torch.no_grad():
        logits = model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()
    place.mkdir(parents=True, exist_ok=True)
    importlib.import_module("safetensors.torch").save_file(model.state_dict(), str(place / "model.safetensors"))
    np.savez(place / "logits.npz", images=images, logits=logits, rescales=False)


def _value(key: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if len(shape) > 1:
        value = generator.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif key.endswith(("running_var", "weight")):
        value = generator.uniform(0.5, 1.5, shape)
    else:
        value = generator.normal(0.0, 0.1, shape)
    return value.astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
