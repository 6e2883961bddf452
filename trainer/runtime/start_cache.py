"""Functions that TensorFlow has traced and optimised, kept for the next start of the same program.

A process that makes its first step traces the network (Python), lets TensorFlow's graph optimizers work on the graph,
and only then computes. The first two take most of the time from the start to the first step, and a program that is
started again as it was does both again. Here the graph is kept as TensorFlow has optimised it. The next process adds it
to TensorFlow as a function and calls that, with the optimizers off, because their work is done: the same operations on
the same numbers in the same order, so the same bits.

**Why a kept function is the right one.** Its name is a digest of everything that is known to decide the graph: the code
of the program as it is loaded (``loaded_code``), the configuration, the packages that are installed, the processor, the
devices, the environment variables of TensorFlow and its kernels, and the options that TensorFlow runs functions with.
What it takes is compared with the batch and the variables at hand. What the digest does not cover is not kept: a graph
that other people's code computes in (``trainer.run.start_cache``), one for several replicas or processes, for a GPU, or
for XLA (which keeps its own), and one that calls Python, depends on anything but its arguments and the named variables,
or calls functions, as logical replicas do: TensorFlow specialises these while it optimises, and does not tell what they
became. Nothing is kept or taken where functions run eagerly, or operations are watched, as debugging does.

**Why a file is trusted.** It lies in the user's cache directory, never in a run directory, belongs to the user, and
nobody else may write it. It has its own SHA-256. What is damaged, foreign or of another version is as good as absent.
It may be deleted at any time.

TensorFlow promises neither the collection of optimised graphs nor ``add_function_def``: another version than the tested
one traces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2, op_def_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.eager import context, execute
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import config, ops
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.ops import control_flow_util

from trainer.runtime import loaded_code, machine
from trainer.runtime.purity import PYTHON
from trainer.runtime.user_cache import KEEPING, replacing, user_cache

FORMAT = 1
TESTED = "2.21."  # versions of TensorFlow that begin so
LARGEST = 256 * 2**20  # bytes of all that is kept; what was not used for the longest time goes first
ENVIRONMENT = ("TF_", "XLA_", "KERAS_", "ONEDNN_", "DNNL_", "OMP_", "KMP_", "MKL_")
# These decide what is printed, and how OpenMP starts. Importing scikit-learn sets the last two.
SILENT = ("TF_CPP_MIN_LOG_LEVEL", "TF_CPP_MAX_VLOG_LEVEL", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")

Result = TypeVar("Result")
Signature = list[tuple[str, list[int | None]]]  # dtype and shape


@dataclasses.dataclass(frozen=True)
class StartCache:
    """What a program keeps in ``directory``. ``program`` is the digest of what decides its graphs."""

    directory: Path
    program: str
    # function that is not kept yet -> where what was said of it is to be kept with it, and what that is
    said: dict[str, list[tuple[Path, str]]] = dataclasses.field(default_factory=dict, compare=False)

    def kept(
        self,
        name: str,
        traced: tf.types.experimental.PolymorphicFunction,
        variables: Mapping[str, tf.Variable],
        result: Callable[[Sequence[tf.Tensor]], Result],
    ) -> Kept[Result]:
        """``traced``, which takes one structure of tensors and changes ``variables``, kept as ``name``.

        ``result`` makes what ``traced`` returns of the tensors in it, which it has in the order of ``tf.nest``.
        """
        return Kept(self._path(name), traced, variables, result, lambda: self._keep_said(name))

    def text(self, name: str, of: str, make: Callable[[], str]) -> str:
        """What ``make`` says of the function that is kept as ``of``, kept as ``name`` beside it.

        A process that finds no such function makes the text anew, and keeps it when it has traced and kept the
        function: so both are of one process, and of the libraries as they were then. One that is refused before its
        first step leaves nothing.
        """
        path = self._path(name)
        with contextlib.suppress(OSError, ValueError):
            if self._path(of).exists():
                return _read(path)[1].decode()
        made = make()
        self.said.setdefault(of, []).append((path, made))
        return made

    def _keep_said(self, name: str) -> None:
        """Keep what was said of a function that is kept now."""
        for path, text in self.said.pop(name, ()):
            _write(path, b"", text.encode())

    def _path(self, name: str) -> Path:
        return self.directory / f"{self.program}-{name}"


def start_cache(code: Collection[str], configuration: str) -> StartCache | None:
    """The cache of this process, which runs the ``code`` of these packages with this ``configuration``; None where
    nothing can be kept.
    """
    place = user_cache()
    if place is None or not tf.__version__.startswith(TESTED) or tf.config.list_logical_devices("GPU"):
        return None
    if tf.config.functions_run_eagerly() or context.context().op_callbacks:
        return None
    facts = (
        FORMAT,
        loaded_code.digest(code),
        configuration,
        sys.version,
        (tf.version.VERSION, tf.version.GIT_VERSION, tf.version.COMPILER_VERSION),
        _installed(),
        machine.digest(),
        [device.name for device in tf.config.list_logical_devices()],
        sorted(
            (name, value) for name, value in os.environ.items() if name.startswith(ENVIRONMENT) and name not in SILENT
        ),
        (
            keras.config.dtype_policy().name,
            keras.config.floatx(),
            keras.config.epsilon(),
            keras.config.image_data_format(),
        ),
        # settings under which Python makes other operations of the same code
        (
            config.is_op_determinism_enabled(),
            control_flow_util.ENABLE_CONTROL_FLOW_V2,
            ops.is_auto_dtype_conversion_enabled(),
            ops.is_numpy_style_type_promotion(),
        ),
        hashlib.sha256(context.context().function_call_options.config_proto_serialized).hexdigest(),
    )
    return StartCache(place / "start", hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32])


def _installed() -> list[str]:
    """The packages beside TensorFlow and their versions, as their directories are named."""
    names: set[str] = set()
    for path in sys.path:
        with contextlib.suppress(OSError):
            names.update(name for name in os.listdir(path or ".") if name.endswith((".dist-info", ".egg-info")))
    return sorted(names)


class Kept(Generic[Result]):
    """A function that is taken from ``path`` at its first call, or traced then and written there in the background."""

    def __init__(
        self,
        path: Path,
        traced: tf.types.experimental.PolymorphicFunction,
        variables: Mapping[str, tf.Variable],
        result: Callable[[Sequence[tf.Tensor]], Result],
        when_kept: Callable[[], object],
    ) -> None:
        self._path = path
        self._when_kept = when_kept
        self._traced = traced
        self._variables = variables
        self._result = result
        self._taken: _Taken | None = None
        self._is_first = True

    def __call__(self, argument: Any) -> Result:
        if self._is_first:
            self._is_first = False
            self._taken = _take(self._path, argument, self._variables)
            if self._taken is None:
                return self._trace(argument)
            return self._result(self._try(self._taken, argument))
        if self._taken is not None and self._taken.takes(argument):
            return self._result(self._taken.call(argument))
        result: Result = self._traced(argument)
        return result

    def get_concrete_function(self, argument: Any) -> tf.types.experimental.ConcreteFunction:
        """As TensorFlow has traced it; traced now where it was taken from the cache."""
        return self._traced.get_concrete_function(argument)

    def _try(self, taken: _Taken, argument: Any) -> Sequence[tf.Tensor]:
        """The first call of a function that was taken. What cannot be called would fail at every start, so it goes."""
        try:
            return taken.call(argument)
        except tf.errors.OpError:
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise

    def _trace(self, argument: Any) -> Result:
        running = context.context()
        running.enable_graph_collection()
        try:
            result: Result = self._traced(argument)
            collected = running.export_run_metadata()
        finally:
            running.disable_graph_collection()
        function = self._traced.get_concrete_function(argument)  # which was made by the call
        entry = (self._path, function, argument, self._variables, collected, self._when_kept)
        threading.Thread(target=_keep, args=entry, name=KEEPING).start()
        return result


class _Taken:
    """A kept function that TensorFlow knows, as long as this object is there."""

    def __init__(
        self, definition: function_pb2.FunctionDef, inputs: Signature, captured: Sequence[tf.Variable]
    ) -> None:
        running = context.context()
        definition.signature.name = f"kept_{id(self)}_{definition.signature.name}"
        running.add_function_def(definition)
        weakref.finalize(self, running.remove_function, definition.signature.name).atexit = False
        self._name = definition.signature.name
        self._outputs = len(definition.signature.output_arg)
        self._inputs = inputs
        self._captured = [variable.handle for variable in captured]
        options = config_pb2.ConfigProto.FromString(running.function_call_options.config_proto_serialized)
        options.graph_options.rewrite_options.disable_meta_optimizer = True
        self._attributes = ("executor_type", "", "config_proto", options.SerializeToString())

    def takes(self, argument: Any) -> bool:
        return _signature(argument) == self._inputs

    def call(self, argument: Any) -> Sequence[tf.Tensor]:
        arguments = [*tf.nest.flatten(argument), *self._captured]
        outputs: Sequence[tf.Tensor] = execute.execute(
            self._name.encode(), self._outputs, arguments, self._attributes, context.context()
        )
        return outputs


def _signature(argument: Any) -> Signature:
    return [(tensor.dtype.name, tensor.shape.as_list()) for tensor in tf.nest.flatten(argument)]


def _take(path: Path, argument: Any, variables: Mapping[str, tf.Variable]) -> _Taken | None:
    """What is kept at ``path``; None if it is absent, damaged, another's, or for other arguments or variables."""
    try:
        header, definition = _read(path)
        described = json.loads(header)
        captured = [variables[name] for name, *_ in described["captured"]]
        alike = described["captured"] == [[name, *_kind(variables[name])] for name, *_ in described["captured"]]
        inputs = [(name, shape) for name, shape in described["inputs"]]
        if not alike or inputs != _signature(argument):
            return None
        taken = _Taken(function_pb2.FunctionDef.FromString(definition), inputs, captured)
    except (OSError, ValueError, KeyError, DecodeError, tf.errors.OpError):
        return None
    return taken


def _read(path: Path) -> tuple[bytes, bytes]:
    """The header and the content of an entry, which counts as used from now on.

    Raises:
        OSError: it is absent, or cannot be read.
        ValueError: it is damaged, or others than the user may have written it.
    """
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{path} may be another's")
        digest, header, content = file.read().split(b"\n", 2)
    if hashlib.sha256(header + b"\n" + content).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged")
    os.utime(path)
    return header, content


def _write(path: Path, header: bytes, content: bytes) -> None:
    """Keep an entry; ``header`` is one line."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(hashlib.sha256(header + b"\n" + content).hexdigest().encode() + b"\n" + header + b"\n" + content)
    _make_room(path.parent)


def _kind(variable: tf.Variable) -> list[Any]:
    return [variable.dtype.name, variable.shape.as_list()]


def _keep(
    path: Path,
    function: tf.types.experimental.ConcreteFunction,
    argument: Any,
    variables: Mapping[str, tf.Variable],
    collected: config_pb2.RunMetadata,
    when_kept: Callable[[], object],
) -> None:
    """Write a function that was traced, if nothing but its argument and ``variables`` decides what it does."""
    names = {id(variable.handle): name for name, variable in variables.items()}
    captured = [names.get(id(each)) for each in function.captured_inputs]
    graph = _optimised(function, collected)
    if graph is None or None in captured:
        return
    inputs = _signature(argument)
    if len(inputs) + len(captured) != len(function.inputs):
        return
    header = {"inputs": inputs, "captured": [[name, *_kind(variables[name])] for name in captured if name is not None]}
    # a full disk, or a graph that cannot be made a function, costs the next start its time, and nothing else
    with contextlib.suppress(OSError, ValueError):
        definition = _definition(function.function_def.signature.input_arg, graph)
        _write(path, json.dumps(header).encode(), definition.SerializeToString())
        when_kept()


def _optimised(
    function: tf.types.experimental.ConcreteFunction, collected: config_pb2.RunMetadata
) -> graph_pb2.GraphDef | None:
    """The graph of ``function`` as TensorFlow has optimised it, among all that ran meanwhile; None if it cannot be told
    apart, ran on several devices, or needs more than itself.
    """
    wanted = [argument.name for argument in function.function_def.signature.input_arg]
    found = [
        each
        for each in collected.function_graphs
        if _in_order(each.pre_optimization_graph, "_Arg") == wanted and len(each.partition_graphs) == 1
    ]
    if len(found) != 1:
        return None
    graph = found[0].post_optimization_graph
    return None if any(_needs_more(node) for node in graph.node) else graph


def _needs_more(node: node_def_pb2.NodeDef) -> bool:
    """Whether ``node`` runs Python, or a function. The library of an optimised graph may lack those that it calls."""
    return node.op in PYTHON or any(value.HasField("func") or value.list.func for value in node.attr.values())


def _in_order(graph: graph_pb2.GraphDef, operation: str) -> list[str]:
    """The names of the arguments or results, in order."""
    nodes = (node for node in graph.node if node.op == operation)
    return [node.name for node in sorted(nodes, key=lambda node: node.attr["index"].i)]


def _definition(arguments: Sequence[op_def_pb2.OpDef.ArgDef], graph: graph_pb2.GraphDef) -> function_pb2.FunctionDef:
    """A function of ``arguments`` that does what ``graph`` does, which may lack arguments that it does not use."""
    names = {argument.name for argument in arguments}
    inputs = {node.name: node.input for node in graph.node}
    body = graph_pb2.GraphDef(versions=graph.versions)
    for node in graph.node:
        if node.op not in ("_Arg", "_Retval"):
            copy = body.node.add()
            copy.CopyFrom(node)
            copy.attr.pop("_class", None)  # which names arguments; all is on one device
            del copy.input[:]
            copy.input.extend(each for each in node.input if not each.startswith("^") or each[1:] not in names)
    results = [inputs[name][0] for name in _in_order(graph, "_Retval")]
    used = set(_in_order(graph, "_Arg"))
    function = FuncGraph("kept")
    with function.as_default():
        function.inputs = [tf.raw_ops.Placeholder(dtype=argument.type) for argument in arguments]
        by_name = dict(zip((argument.name for argument in arguments), function.inputs, strict=True))
        function.outputs = tf.graph_util.import_graph_def(
            body,
            input_map={name: placeholder for name, placeholder in by_name.items() if name in used},
            return_elements=[name if ":" in name else f"{name}:0" for name in results],
            name="",
        )
        # every operation with an effect is done, as in the graph, where nothing is left that need not be done
        function.control_outputs = [
            operation
            for operation in function.get_operations()
            if operation.op_def is not None and operation.op_def.is_stateful
        ]
    definition: function_pb2.FunctionDef = atomic_function.from_func_graph("kept", function, {}).definition
    return definition


def _make_room(directory: Path) -> None:
    newest_first = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    sizes = np.cumsum([path.stat().st_size for path in newest_first])
    for path, size in zip(newest_first, sizes, strict=True):
        if size > LARGEST:
            path.unlink(missing_ok=True)
