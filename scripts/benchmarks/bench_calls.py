"""What several steps in one call would save: our step called once a step, and a call that makes ten steps.

At full width, 75x75, batches of 32; and with a narrow network and batches of 4, where the host's share is largest.
"""

from __future__ import annotations

from bench_step import BATCH, BLOCK_STEPS, SIZE
from interleaved import publish
from workers import Worker, rates_of

ROUNDS = 10
SMALL = ("model.width=0.01", "model.min_depth=4", "train.global_batch_size=4")
# network -> overrides
NETWORKS: dict[str, tuple[str, ...]] = {"full width": (), "narrow": SMALL}
COUNTS = (1, BLOCK_STEPS)


def main() -> None:
    rows = []
    for network, overrides in NETWORKS.items():
        names = {count: f"{network}, {count} in a call" for count in COUNTS}
        workers = {names[count]: Worker("step_contender.py", "calls", str(count), *overrides) for count in COUNTS}
        rows += rates_of(workers, names[COUNTS[0]], ROUNDS, BLOCK_STEPS)
    publish("calls", f"Inception V3, {SIZE}x{SIZE}, batches of {BATCH}, and narrow; ten steps a block", rows)
