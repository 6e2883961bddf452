"""A run that counts what its steps cost: ``counting.py ROOT [key=value …]`` trains in ROOT/run.

Prints, as JSON: ``reads``, how often the loop waited for a value of the device after each step; ``nodes``, operations
in the graph of a step with the functions that it calls; ``traces``.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any


def main(root: str, *overrides: str) -> None:
    from tensorflow.python.framework import ops  # not public; where every read of a tensor from Python passes

    from trainer.__main__ import run
    from trainer.training import loop

    reads: list[int] = []
    read, make_train_step = ops._EagerTensorBase._numpy, loop.make_train_step
    seen: dict[str, Any] = {}

    def counted_read(tensor: Any) -> Any:
        if reads and threading.current_thread() is threading.main_thread():  # a save reads in its own thread
            reads[-1] += 1
        return read(tensor)

    def counting(*arguments: Any) -> Any:
        step = make_train_step(*arguments)

        def call(batch: Any) -> Any:
            told = step(batch)
            seen.update(step=step, batch=batch)
            reads.append(0)
            return told

        call.get_concrete_function = step.get_concrete_function  # type: ignore[attr-defined]
        return call

    ops._EagerTensorBase._numpy, loop.make_train_step = counted_read, counting
    assert run(["train", f"run_dir={root}/run", *overrides]) == 0
    step = seen["step"]
    definition = step.get_concrete_function(seen["batch"]).graph.as_graph_def()
    nodes = len(definition.node) + sum(len(function.node_def) for function in definition.library.function)
    print(json.dumps({"reads": reads, "nodes": nodes, "traces": step.experimental_get_tracing_count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
