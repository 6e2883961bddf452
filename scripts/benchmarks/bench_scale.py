"""The cost of replicas: one global batch on one device and on two virtual ones, on the same cores.

Full-width Inception V3. Virtual CPU devices share the cores, so nothing can be gained. The loss is the cost of
splitting the batch, summing the gradients, exchanging statistics, and one more copy of the variables. Logical replicas
stand beside parts of the same size on one device, and beside plain replicas on two; for them there is a second table of
images of the size that Inception V3 is made for, where the kernels have more to do for each weight that they read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bench_step import BATCH, BLOCK_STEPS, SIZE
from interleaved import Contender, Row, publish, rates, row
from workers import Worker, warm_up

FULL_SIZE = 299
ROUNDS = {SIZE: 5, FULL_SIZE: 3}  # a block of ten steps takes about a minute at full size
ONE, TWO = "runtime.virtual_devices=1", "runtime.virtual_devices=2"
PARTS = 4
OF_PARTS = ("model.batch_norm.synchronized=false", f"model.batch_norm.group_size={BATCH // PARTS}")
LOGICAL = (f"train.logical_replicas={PARTS}", *OF_PARTS)
Contenders = Mapping[str, Sequence[str]]  # name in the table -> overrides; the first is what the others are divided by
OF_LOGICAL: Contenders = {
    f"1 replica, {PARTS} parts": (ONE, f"train.accumulate_steps={PARTS}", *OF_PARTS),
    f"1 replica, {PARTS} logical replicas": (ONE, *LOGICAL),
    "2 replicas, batch norm over groups": (
        TWO,
        "model.batch_norm.synchronized=false",
        f"model.batch_norm.group_size={BATCH // 2}",
    ),
    f"2 replicas, {PARTS} logical replicas": (TWO, *LOGICAL),
}
OF_ALL: Contenders = {"1 replica": (ONE,), "2 replicas": (TWO,), **OF_LOGICAL}


def main() -> None:
    rows = [*_race(SIZE, OF_ALL), *_race(FULL_SIZE, OF_LOGICAL)]
    publish("scale", f"Inception V3, batches of {BATCH} shared out to replicas on the same cores", rows)


def _race(size: int, contenders: Contenders) -> list[Row]:
    # logical replicas promise bits, so all contenders compute as if they did
    workers = {
        name: Worker(
            "step_contender.py", "loop", *overrides, f"preprocess.image_size={size}", "runtime.deterministic=true"
        )
        for name, overrides in contenders.items()
    }
    warm_up(workers)
    baseline = next(iter(workers))
    blocks = [Contender(name, worker.block, BLOCK_STEPS) for name, worker in workers.items()]
    rows = rates(blocks, baseline, ROUNDS[size], "steps")
    peaks = {name: [worker.report["peak"]] for name, worker in workers.items()}
    rows += [row(f"{name}: peak resident size", peak, "MiB", peaks[baseline]) for name, peak in peaks.items()]
    for worker in workers.values():
        worker.close()
    return [dataclasses.replace(each, name=f"{size}x{size}: {each.name}") for each in rows]
