"""The tensors of a checkpoint: a tree of named variables in TensorFlow's own format."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from trainer.checkpoint.bundle import BundleError, BundleReader, translated, without_patterns
from trainer.checkpoint.bundle_writer import BundleWriter
from trainer.checkpoint.manifest import PREFIX
from trainer.command_line import argument, command_line
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.storage.going_on import WRITES

ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"  # what tf.train.Checkpoint appends to a variable's path
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # its key for the structure of the tree
IN_MEMORY = "ram://object-graph"  # a directory in TensorFlow's filesystem in memory
SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The values of a tree at one moment, in host memory. Later steps do not change them.

    On a CPU a value shares its buffer with its variable. An assignment gives the variable a new buffer while the
    snapshot refers to the old one. So a snapshot costs at most one more copy of the state: of the values that an
    assignment changes before they are written, since a value leaves ``values`` then.
    """

    values: dict[str, tf.Tensor]


class NotFinite(Exception):
    """The variables ``names`` hold a NaN or an infinity."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class StateFile:
    """Writes and restores one tree. The tree's variables stay the same for the life of the object."""

    def __init__(self, tree: Mapping[str, Any], flat: Mapping[str, tf.Variable]) -> None:
        self._tree = tree
        self._flat = flat
        self._checkpoint = tf.train.Checkpoint(**tree)

    def snapshot(self) -> Snapshot:
        """The current values. This takes milliseconds, because it avoids the Python code that reads a variable."""
        read = tf.raw_ops.ReadVariableOp
        values = {name: read(resource=variable.handle, dtype=variable.dtype) for name, variable in self._flat.items()}
        with tf.device("/device:CPU:0"):
            return Snapshot(
                {
                    name: value if "device:CPU:" in value.device else tf.raw_ops.Identity(input=value)
                    for name, value in values.items()
                }
            )

    def write(self, snapshot: Snapshot, directory: Path) -> None:
        """Write ``state.index`` and ``state.data-00000-of-00001``, byte for byte as ``tf.train.Checkpoint`` does, and
        take every value out of ``snapshot`` when it is written. Nothing is synced.

        Raises:
            NotFinite: there is a NaN or an infinity. There is no index.
            OSError: the operating system refused a call.
        """
        writer, bad = BundleWriter(directory / PREFIX), []
        try:
            for key in self._graph.keys:
                name = key.removesuffix(ATTRIBUTE)
                if not writer.add(key, _in_place(snapshot.values.pop(name))):
                    bad.append(name)
                WRITES.advance()
            if bad:
                raise NotFinite([name for name in self._flat if name in bad])
            writer.add_text(OBJECT_GRAPH, self._graph.serialized)
            writer.finish()
        finally:
            writer.close()

    @functools.cached_property
    def _graph(self) -> _ObjectGraph:
        """Made when the first checkpoint is written. It takes much of a second and does not change."""
        return _object_graph(self._tree)

    def restore(self, directory: Path) -> None:
        """Assign every variable of the tree from the checkpoint.

        Raises:
            RestoreRefused: names, shapes or types differ in either direction. Nothing was assigned.
            NoValidCheckpoint: a tensor is damaged. Some variables may have been assigned.
            Unreadable: the system cannot read a file now. Some variables may have been assigned.
        """
        stored = stored_tensors(directory)
        differences = []
        for name in [*self._flat, *(name for name in stored if name not in self._flat)]:
            wanted = _describe(self._flat[name]) if name in self._flat else "absent"
            found = stored[name] if name in stored else "absent"
            if wanted != found:
                differences.append(f"  {name}: checkpoint {found}, program {wanted}")
        if differences:
            more = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise RestoreRefused(
                f"{directory} does not hold the state that its configuration builds\n"
                + "\n".join(differences[:SHOWN])
                + more
            )
        try:
            with without_patterns(directory / PREFIX) as prefix, translated(directory / PREFIX, prefix):
                status = self._checkpoint.read(prefix)
        except BundleError as error:
            names = ", ".join(damaged_tensors(directory)[:SHOWN])
            raise NoValidCheckpoint(
                f"{directory} is damaged ({names}): {error}\n"
                "resume again with checkpoint.verify=full, which falls back to the newest valid checkpoint"
            ) from error
        status.assert_consumed()
        status.assert_existing_objects_matched()


@dataclasses.dataclass(frozen=True)
class _ObjectGraph:
    """What ``tf.train.Checkpoint`` stores beside the values: the tree, and the keys of the variables in file order."""

    serialized: bytes
    keys: tuple[str, ...]


def _object_graph(tree: Mapping[str, Any]) -> _ObjectGraph:
    """The graph that ``tf.train.Checkpoint`` makes of ``tree``, taken from a tree of scalars with the same names.

    The graph has no shapes or values, so the real variables need not be written for it.
    """

    def scalars(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {name: scalars(entry) for name, entry in node.items()}
        return tf.Variable(0, name=node.name.removesuffix(":0"))

    with tf.device("/device:CPU:0"):
        prefix = tf.train.Checkpoint(**scalars(tree)).write(f"{IN_MEMORY}/{PREFIX}")
        restore = {"tensor_names": [OBJECT_GRAPH], "shape_and_slices": [""], "dtypes": [tf.string]}
        serialized = tf.raw_ops.RestoreV2(prefix=prefix, **restore)[0].numpy()
    tf.io.gfile.rmtree(IN_MEMORY)
    graph = TrackableObjectGraph.FromString(serialized)
    keys = [attribute.checkpoint_key for node in graph.nodes for attribute in node.attributes]
    return _ObjectGraph(serialized, tuple(keys))


def _in_place(value: tf.Tensor) -> np.ndarray[Any, Any]:
    """The numbers of a tensor in host memory, where they are."""
    try:
        return np.asarray(memoryview(value))
    except ValueError:  # a type that Python's buffers do not have, such as bfloat16
        copy: np.ndarray[Any, Any] = value.numpy()
        return copy


def damaged_tensors(directory: Path) -> list[str]:
    """Names of the tensors whose bytes do not match their checksum in the index. Reads every value."""
    reader = BundleReader(directory / PREFIX)
    names = []
    for key in sorted(reader.shapes):
        try:
            reader.get(key)
        except BundleError:
            names.append("the object graph" if key == OBJECT_GRAPH else key.removesuffix(ATTRIBUTE))
    return names


def _describe(variable: tf.Variable) -> str:
    return f"{variable.dtype.name}{list(variable.shape)}"


def stored_tensors(directory: Path) -> dict[str, str]:
    """Name in the state tree → type and shape (``float32[3, 3, 3, 32]``) of every tensor in a checkpoint.

    Raises:
        NoValidCheckpoint: the index is damaged.
        Unreadable: the system cannot read it now.
    """
    try:
        reader = BundleReader(directory / PREFIX)
        shapes, types = reader.shapes, reader.types
    except BundleError as error:
        raise NoValidCheckpoint(f"{directory / PREFIX}.index cannot be read: {error}") from error
    return {
        key.removesuffix(ATTRIBUTE): f"{types[key].name}{list(shapes[key])}"
        for key in sorted(shapes)
        if key.endswith(ATTRIBUTE)
    }


class StoredValues:
    """The values in a checkpoint directory, by name in the state tree. Each is read when it is requested."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reader = BundleReader(directory / PREFIX)

    def __getitem__(self, name: str) -> Any:
        """A NumPy array, a scalar for rank 0.

        Raises:
            NoValidCheckpoint: the value is damaged, or cannot be what the index says.
            Unreadable: the system cannot read it now.
        """
        try:
            return self._reader.get(name + ATTRIBUTE)
        except BundleError as error:
            raise NoValidCheckpoint(
                f"{self._directory} is damaged: {name} cannot be read: {error}\n"
                f"look at it: {command_line('doctor', argument('checkpoint', self._directory))}"
            ) from error

    def names(self) -> list[str]:
        """Of all values, in the order in which they lie in the file; behind them is the object graph."""
        graph = TrackableObjectGraph.FromString(self._reader.get(OBJECT_GRAPH))
        keys = [attribute.checkpoint_key for node in graph.nodes for attribute in node.attributes]
        return [str(key).removesuffix(ATTRIBUTE) for key in keys]


def read_tensor(directory: Path, name: str) -> Any:
    """The value of one tensor as a NumPy array (a scalar for rank 0)."""
    return StoredValues(directory)[name]
