"""What replicas cost: one global batch on one device and on two virtual ones, on the same cores.

Full-width Inception V3, 75x75. Virtual CPU devices share the cores, so nothing can be gained; what is lost is splitting
the batch, adding up the gradients, statistics that are exchanged, and one more copy of the variables.
"""

from __future__ import annotations

from bench_step import BATCH, BLOCK_STEPS, SIZE
from interleaved import Contender, publish, rates
from workers import Worker

ROUNDS = 7
BASELINE = "1 replica"
TWO = "runtime.virtual_devices=2"
# name in the table -> overrides
CONTENDERS = {
    BASELINE: ("runtime.virtual_devices=1",),
    "2 replicas": (TWO,),
    "2 replicas, batch norm over groups": (
        TWO,
        "model.batch_norm.synchronized=false",
        f"model.batch_norm.group_size={BATCH // 2}",
    ),
}


def main() -> None:
    workers = {name: Worker("step_contender.py", "loop", *overrides) for name, overrides in CONTENDERS.items()}
    for worker in workers.values():
        worker.turn()  # to warm up, all at once
    for worker in workers.values():
        assert worker.report
    contenders = [Contender(name, worker.block, BLOCK_STEPS) for name, worker in workers.items()]
    rows = rates(contenders, BASELINE, ROUNDS, "steps")
    for worker in workers.values():
        worker.close()
    publish("scale", f"Inception V3, {SIZE}x{SIZE}, batches of {BATCH} shared out to replicas on the same cores", rows)
