"""The training step beside the bare loop and Keras: full-width Inception V3, 75x75, batches of 32, Adam.

Every contender is a process of its own (``step_contender.py``), and they work in turns. Ours is the whole loop, with
its metrics, log, progress bar and a checkpoint every 100 steps; one falls into the last block.
"""

from __future__ import annotations

import functools

from interleaved import Contender, Row, publish, rates, row
from workers import Worker, warm_up

BATCH, SIZE, CLASSES = 32, 75, 1000
WARM_STEPS, BLOCK_STEPS, ROUNDS, SAVE_STEPS = 5, 10, 10, 100
OURS, BASELINE, KERAS = "ours", "bare loop", "bare loop, network and Adam of Keras"
# name in the table -> arguments of step_contender.py
CONTENDERS = {
    OURS: ("loop",),
    "ours, deterministic": ("loop", "runtime.deterministic=true"),
    BASELINE: ("bare",),
    KERAS: ("applications",),
    "model.fit": ("fit",),
    f"model.fit, steps_per_execution={WARM_STEPS}": ("fit-steps",),
    "model.fit, BackupAndRestore": ("fit-backup",),
    "ours, XLA": ("loop", "runtime.xla=true"),
    "bare loop, XLA": ("bare-xla",),
}


def main() -> None:
    workers = {name: Worker("step_contender.py", *arguments) for name, arguments in CONTENDERS.items()}
    warm_up(workers)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    peaks: dict[str, list[float]] = {name: [] for name in workers}

    def block(name: str) -> tuple[float, float]:
        wall, cpu = workers[name].block()
        seconds[name].append(wall)
        peaks[name].append(workers[name].report["peak"])
        return wall, cpu

    contenders = [Contender(name, functools.partial(block, name), BLOCK_STEPS) for name in workers]
    rows = rates(contenders, BASELINE, ROUNDS, "steps")
    steps = ROUNDS * BLOCK_STEPS
    total = {name: [steps / sum(values)] for name, values in seconds.items()}
    rows += [row(f"{name}: all {steps} steps", values, "steps/s", total[BASELINE]) for name, values in total.items()]
    rows += [_peak(name, values[-1], peaks[BASELINE][-1]) for name, values in peaks.items()]
    rows.append(_peak(f"{OURS}, before the save", peaks[OURS][-2], peaks[BASELINE][-1]))
    rows += _graphs(workers[BASELINE], workers[KERAS])
    for worker in workers.values():
        worker.close()
    publish("step", f"Inception V3, {SIZE}x{SIZE}, batches of {BATCH}, Adam", rows)


def _peak(name: str, mebibytes: float, baseline: float) -> Row:
    return row(f"{name}: peak resident size", [mebibytes], "MiB", [baseline])


def _graphs(bare: Worker, keras: Worker) -> list[Row]:
    ours = Worker("step_contender.py", "graph")
    found = {OURS: ours.report, BASELINE: bare.report, KERAS: keras.report}
    rows = [
        row(f"{name}: {what}", [report[fact]], unit, [bare.report[fact]])
        for fact, what, unit in (("nodes", "operations in the graph", ""), ("trace", "CPU of a trace", "s"))
        for name, report in found.items()
    ]
    ours.close()
    return rows
