"""Whether a traced function depends on anything but its arguments and the variables that it is meant to change."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf
from tensorflow.python.framework import op_def_registry  # not public; it knows an operation's effects

# These do only what the functions they call do, which are checked as well.
CONTAINERS = ("Case", "For", "If", "PartitionedCall", "StatefulPartitionedCall", "While")
# These only check; they change nothing.
HARMLESS = ("Assert",)
# These run Python code, which can be neither inspected nor exported.
PYTHON = ("EagerPyFunc", "PyFunc", "PyFuncStateless")


def hidden_state(function: tf.types.experimental.ConcreteFunction, variables: Iterable[tf.Variable] = ()) -> str | None:
    """The first operation of ``function`` whose result is not decided by its arguments and ``variables``, or that
    changes something else, as the end of a sentence; None when there is none.
    """
    own = {id(variable.handle) for variable in variables}
    for captured in function.captured_inputs:
        if captured.dtype in (tf.resource, tf.variant) and id(captured) not in own:
            return "a variable or table of its own"
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for each in definition.library.function for node in each.node_def)]
    for node in nodes:
        if node.op in PYTHON:
            return f"{node.op} ({node.name}), which runs Python code, not TensorFlow's"
        operation = op_def_registry.get(node.op)
        if operation is None or not operation.is_stateful or node.op in (*CONTAINERS, *HARMLESS):
            continue
        on_variable = any(argument.type == tf.resource.as_datatype_enum for argument in operation.input_arg)
        if not (own and on_variable):
            return f"{node.op} ({node.name}), whose result depends on what ran before"
    return None
