"""The process of ``scripts/bench kernels``: ``kernels_contender.py SIZE BATCH PRECISION`` makes steps while oneDNN
writes down how long each of its kernels took.
"""

from __future__ import annotations

import sys
import time

from bench_kernels import STEPS, WARM_STEPS
from step_contender import batch_of, config_of

from trainer.runtime import execution
from trainer.training.state import build_state
from trainer.training.step import make_train_step


def main(size: str, batch: str, precision: str) -> None:
    keys = (f"preprocess.image_size={size}", f"train.global_batch_size={batch}", f"runtime.precision={precision}")
    config = config_of(*keys, "runtime.threads=1")
    execution.configure(config.runtime)
    state = build_state(config)
    step, examples = make_train_step(state, config), batch_of(state, config)
    for _ in range(WARM_STEPS):
        step(examples)
    state.progress.step.numpy()  # which waits for the steps
    print("began", flush=True)
    began = time.process_time()
    for _ in range(STEPS):
        step(examples)
    state.progress.step.numpy()
    print(f"ended,{time.process_time() - began}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
