"""Our training loop beside PyTorch's in all its forms, in float32 and bfloat16, at two sizes of image; and the share
that the steps reach of the rate of a matrix product.

PyTorch takes gigabytes and is not installed with the rest. It has an environment of its own:
``python3 -m venv PLACE; PLACE/bin/pip install torch torchvision psutil rich``, then
``TORCH=PLACE/bin/python scripts/bench torch``.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence

from bench_step import BLOCK_STEPS
from interleaved import Contender, Row, Values, measurements, publish, row
from product_contender import FLOPS, PRODUCTS
from workers import Worker, warm_up

ROUNDS = 5
SIZES = ((75, 32), (299, 8))  # image size, batch
BASELINE = "ours, float32"
OURS = {BASELINE: "float32", "ours, bfloat16": "mixed_bfloat16"}  # runtime.precision
PYTORCH = {  # arguments of torch_contender.py
    "PyTorch, eager": (),
    "PyTorch, channels last": ("channels_last",),
    "PyTorch, channels last, bfloat16": ("channels_last", "bfloat16"),
    "PyTorch, channels last, compiled": ("channels_last", "compiled"),
    "PyTorch, channels last, bfloat16, compiled": ("channels_last", "bfloat16", "compiled"),
}
PRODUCT = {name: f"matrix product, {name}" for name in ("float32", "bfloat16")}


def main() -> None:
    python = os.environ.get("TORCH")
    if python is None:
        sys.exit(
            "error: TORCH is not set\nset it to the Python of an environment that has PyTorch: "
            "python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch torchvision psutil rich && "
            "TORCH=/tmp/torch/bin/python scripts/bench torch"
        )
    flops = {size: _training_flops(size) for size, _ in SIZES}
    rows = [each for size, batch in SIZES for each in _race(python, size, batch, flops[size])]
    publish("torch", "Inception V3, Adam, one step", rows)


def _race(python: str, size: int, batch: int, flops: int) -> list[Row]:
    keys = (f"preprocess.image_size={size}", f"train.global_batch_size={batch}")
    ours = {
        name: Worker("step_contender.py", "loop", *keys, f"runtime.precision={precision}")
        for name, precision in OURS.items()
    }
    theirs = {
        name: Worker("torch_contender.py", str(size), str(batch), *forms, python=python)
        for name, forms in PYTORCH.items()
    }
    products = {name: Worker("product_contender.py", dtype) for dtype, name in PRODUCT.items()}
    workers = {**ours, **theirs, **products}
    warm_up(workers)
    amounts = {name: PRODUCTS if name in products else BLOCK_STEPS for name in workers}
    contenders = [Contender(name, worker.block, amounts[name]) for name, worker in workers.items()]
    wall, cpu = measurements(contenders, ROUNDS)
    for worker in workers.values():
        worker.close()
    steps = [*ours, *theirs]
    rows = [
        *(row(name, wall[name], "steps/s", wall[BASELINE]) for name in steps),
        *(row(f"{name}: CPU", cpu[name], "s/1000 steps", cpu[BASELINE]) for name in steps),
        *_beside_the_best(wall, [*theirs]),
        *_shares(wall, steps, flops * batch),
    ]
    return [dataclasses.replace(each, name=f"{size}x{size}, {batch}: {each.name}") for each in rows]


def _beside_the_best(wall: Values, theirs: Sequence[str]) -> list[Row]:
    """Our steps/s divided by those of PyTorch's fastest form in the same arithmetic."""
    rows = []
    for name in OURS:
        is_like = {each: ("bfloat16" in each) == ("bfloat16" in name) for each in theirs}
        best = max((each for each in theirs if is_like[each]), key=lambda each: sorted(wall[each])[ROUNDS // 2])
        ratios = [own / other for own, other in zip(wall[name], wall[best], strict=True)]
        rows.append(row(f"{name} / {best}", ratios, ""))
    return rows


def _shares(wall: Values, steps: Sequence[str], flops: int) -> list[Row]:
    """The rate of the product, and the share of it that a step of so many operations reaches."""
    rows = []
    for dtype, product in PRODUCT.items():
        ceiling = [FLOPS * rate for rate in wall[product]]
        rows.append(row(product, [each / 1e9 for each in ceiling], "10⁹ operations/s"))
        for name in steps:
            if ("bfloat16" in name) == (dtype == "bfloat16"):
                shares = [100 * flops * rate / peak for rate, peak in zip(wall[name], ceiling, strict=True)]
                rows.append(row(f"{name}: share of the product's rate", shares, "%"))
    return rows


def _training_flops(size: int) -> int:
    """Of one image, in forward and backward pass."""
    from step_contender import config_of  # imports TensorFlow

    from trainer.models.cost import cost

    flops = cost(config_of(f"preprocess.image_size={size}")).training_flops
    assert flops is not None
    return flops
