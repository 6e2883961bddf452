"""A program: what TensorFlow executes of a train step after its own optimisations, as JSON. Usage: … OVERRIDES"""

from __future__ import annotations

import json
import sys

import tensorflow as tf
from composing import compose
from tensorflow.python.eager import context

from trainer.config.complete import complete
from trainer.data.batches import training_batches
from trainer.data.sources.source import open_source
from trainer.runtime import execution
from trainer.training.state import build_state
from trainer.training.step import make_train_step


def main(overrides: list[str]) -> None:
    config = complete(compose(*overrides), 40, 10)
    execution.configure(config.runtime)
    state = build_state(config)
    train_step = make_train_step(state, config)
    batch = next(iter(training_batches(open_source(config.data, "train"), config, 0, state.dropout_features)))
    collected = context.context()
    collected.enable_graph_collection()
    train_step(batch).loss.numpy()  # waits for it
    functions = collected.export_run_metadata().function_graphs
    graphs = [graph.post_optimization_graph for graph in functions]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    sums = [node for node in nodes if node.op in ("AddN", "_MklAddN")]
    found = {
        "largest": max(len(graph.node) for graph in graphs),  # of the graphs that are executed as a whole
        "added": sorted({sum(not name.startswith("^") for name in node.input) for node in sums}),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
