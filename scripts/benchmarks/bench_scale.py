"""The cost of replicas: one global batch on one device and on two virtual ones, on the same cores.

Full-width Inception V3, 75x75. Virtual CPU devices share the cores, so nothing can be gained. The loss is the cost of
splitting the batch, summing the gradients, exchanging statistics, and one more copy of the variables. Logical replicas
stand beside parts of the same size on one device, and beside plain replicas on two.
"""

from __future__ import annotations

from bench_step import BATCH, BLOCK_STEPS, SIZE
from interleaved import Contender, publish, rates, row
from workers import Worker, warm_up

ROUNDS = 5
BASELINE = "1 replica"
ONE, TWO = "runtime.virtual_devices=1", "runtime.virtual_devices=2"
PARTS = 4
OF_PARTS = ("model.batch_norm.synchronized=false", f"model.batch_norm.group_size={BATCH // PARTS}")
LOGICAL = (f"train.logical_replicas={PARTS}", *OF_PARTS)
# name in the table -> overrides
CONTENDERS = {
    BASELINE: (ONE,),
    "2 replicas": (TWO,),
    "2 replicas, batch norm over groups": (
        TWO,
        "model.batch_norm.synchronized=false",
        f"model.batch_norm.group_size={BATCH // 2}",
    ),
    f"1 replica, {PARTS} parts": (ONE, f"train.accumulate_steps={PARTS}", *OF_PARTS),
    f"1 replica, {PARTS} logical replicas": (ONE, *LOGICAL),
    f"2 replicas, {PARTS} logical replicas": (TWO, *LOGICAL),
}


def main() -> None:
    # logical replicas promise bits, so all contenders compute as if they did
    workers = {
        name: Worker("step_contender.py", "loop", *overrides, "runtime.deterministic=true")
        for name, overrides in CONTENDERS.items()
    }
    warm_up(workers)
    contenders = [Contender(name, worker.block, BLOCK_STEPS) for name, worker in workers.items()]
    rows = rates(contenders, BASELINE, ROUNDS, "steps")
    peaks = {name: [worker.report["peak"]] for name, worker in workers.items()}
    rows += [row(f"{name}: peak resident size", peak, "MiB", peaks[BASELINE]) for name, peak in peaks.items()]
    for worker in workers.values():
        worker.close()
    publish("scale", f"Inception V3, {SIZE}x{SIZE}, batches of {BATCH} shared out to replicas on the same cores", rows)
