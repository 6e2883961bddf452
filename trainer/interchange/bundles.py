"""TensorFlow's own files: a prefix with ``.index`` and ``.data-…``, or the single file of the V1 format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from trainer.checkpoint.bundle import BundleError, BundleReader
from trainer.checkpoint.tensors import ATTRIBUTE, OBJECT_GRAPH
from trainer.interchange import own_names
from trainer.interchange.contents import Contents, Kind, Tensor
from trainer.interchange.findings import DAMAGE, Finding, Unusable, listed
from trainer.interchange.locate import Shards, shards
from trainer.interchange.mistaken import refuse_mistaken
from trainer.interchange.values import not_plain, unreadable
from trainer.run_directory.foreign import TABLE_MAGIC

SLICED = "Sliced checkpoints are not supported"  # tensorflow/core/util/tensor_slice_reader.cc
UNSUPPORTED = "Data type not supported"  # tensorflow/core/util/tensor_slice_reader.cc
TRUNCATED, FLIPPED = "ends too early", "checksum does not match"
LOST_GRAPH = "object graph"  # a fact: the positions in the keys are all that is left of the names


def read_bundle(prefix: Path, kind: Kind) -> Contents:
    """List a TensorFlow checkpoint. Reading a value checks it against its checksum.

    Raises:
        Unusable: the index is missing or damaged, so nothing can be listed; or a file is a pointer or a web page.
        Unreadable: the system cannot read it now.
    """
    index = Path(f"{prefix}.index")
    if kind is not Kind.V1 and not index.is_file():
        there = listed(path.name for path in shards(prefix))
        details = (f"{there} hold values without names and shapes, which only the index has",) if there else ()
        raise Unusable(Finding("missing_index", DAMAGE, f"{index} is missing", details))
    for part in (index, *shards(prefix)) if kind is not Kind.V1 else ():
        refuse_mistaken(part)
    try:
        reader = BundleReader(prefix)
        shapes, types = reader.shapes, reader.types
    except BundleError as error:
        raise Unusable(_damaged_index(prefix if kind is Kind.V1 else index, error)) from error

    def read(tensor: Tensor) -> Any:
        try:
            return reader.get(tensor.key)
        except BundleError as error:
            if SLICED in str(error):
                known = f"{tensor.dtype} in slices (a partitioned variable), which TensorFlow cannot read of a V1 file"
                raise Unusable(not_plain(known)) from error
            if UNSUPPORTED in str(error):
                known = f"{tensor.dtype}, which TensorFlow writes into a V1 file and cannot read there"
                raise Unusable(not_plain(known)) from error
            raise Unusable(Finding("tensor", DAMAGE, _reason(error), (tensor.label,))) from error

    names = _full_names(reader) if OBJECT_GRAPH in shapes else {}
    keys = sorted(key for key in shapes if key != OBJECT_GRAPH)
    named = own_names.meanings(key.removesuffix(ATTRIBUTE) for key in keys)  # keys that are not positional

    def label(key: str) -> str:
        path = key.removesuffix(ATTRIBUTE)
        return names[key] if key in names and path not in named else path

    tensors = tuple(Tensor(key, label(key), tuple(shapes[key]), types[key].name) for key in keys)
    return Contents(
        kind=kind,
        path=prefix,
        tensors=tensors,
        read=read,
        name_based=OBJECT_GRAPH not in shapes and not any(key.endswith(ATTRIBUTE) for key in shapes),
        facts={LOST_GRAPH: "lost"} if OBJECT_GRAPH in shapes and not names else {},
    )


def _full_names(reader: BundleReader) -> dict[str, str]:
    """Key → the variable's own name, from the object graph; empty when the graph is damaged."""
    graph = TrackableObjectGraph()
    try:
        graph.ParseFromString(reader.get(OBJECT_GRAPH))
    except (BundleError, DecodeError):
        return {}
    return {
        attribute.checkpoint_key: attribute.full_name if "/" in attribute.full_name else _plain(attribute)
        for node in graph.nodes
        for attribute in node.attributes
    }


def _plain(attribute: Any) -> str:
    # variables made outside Keras are all called "Variable", so the path in the tree says more about them
    return str(attribute.checkpoint_key).removesuffix(ATTRIBUTE)


def _reason(error: BundleError) -> str:
    if error.truncated:
        return TRUNCATED
    return FLIPPED if "Checksum" in str(error) else str(error)


def _damaged_index(path: Path, error: BundleError) -> Finding:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        cut = file.read() != TABLE_MAGIC
    size = path.stat().st_size
    reason = str(error).rpartition("): ")[2]
    if cut:
        title = f"{path} ends too early: its {size} bytes lack the marker at the end of such a file"
        return Finding("truncated_index", DAMAGE, title, (f"TensorFlow: {reason}",))
    return Finding("damaged_index", DAMAGE, f"{path} has changed bytes: {reason}")


def damage(contents: Contents, present: Shards | None = None) -> list[Finding]:
    """Read every tensor and reduce the failures to their causes: a missing shard, a truncated file, changed bytes.

    ``present`` are the checkpoint's files of values. Callers pass it when they know these files better than by name.
    """
    present = shards(contents.path) if present is None else present
    tensors = contents.tensors
    if contents.kind is not Kind.V1 and not contents.name_based:
        tensors = (*tensors, Tensor(OBJECT_GRAPH, "the object graph", (), "string"))
    damaged, findings = unreadable(contents, tensors)
    missing = _missing_shard(contents, present, [label for labels in damaged.values() for label in labels])
    if missing is not None:
        return [missing]
    for reason, labels in damaged.items():
        count = f"{len(labels)} of {len(tensors)} tensors"
        if reason == TRUNCATED:
            findings.append(_truncated(contents, present, labels, count))
        elif reason == FLIPPED:
            title = f"{count} {'has' if len(labels) == 1 else 'have'} changed bytes, {reason}: {listed(labels)}"
            findings.append(Finding("flipped", DAMAGE, title, (f"in {_data_names(contents, present)}",)))
        else:
            findings.append(Finding("unreadable", DAMAGE, f"{count} cannot be read: {reason}", (listed(labels),)))
    return findings


def _data_names(contents: Contents, present: Shards) -> str:
    return listed(map(str, present)) or str(contents.path)


def _missing_shard(contents: Contents, present: Shards, damaged: list[str]) -> Finding | None:
    if contents.kind is Kind.V1:
        return None
    wanted = max((total for _, total in present.values()), default=0)
    absent = sorted(set(range(wanted)) - {number for number, _ in present.values()})
    if present and not absent:
        return None
    names = [f"{contents.path.name}.data-{number:05d}-of-{wanted:05d}" for number in absent]
    title = f"{listed(names)} missing" if names else f"every {contents.path.name}.data-… file is missing"
    details = [f"{len(damaged)} of {len(contents.tensors)} tensors were in it: {listed(damaged)}"]
    if present:
        details.append(f"present: {listed(path.name for path in present)}")
    return Finding("missing_shard", DAMAGE, f"{title} in {contents.path.parent}", tuple(details))


def _truncated(contents: Contents, present: Shards, labels: list[str], count: str) -> Finding:
    numeric = [tensor for tensor in contents.tensors if tensor.dtype != "string"]
    needed = sum(tensor.size * tf.as_dtype(tensor.dtype).size for tensor in numeric)
    found = sum(path.stat().st_size for path in present)
    title = f"{_data_names(contents, present)} {TRUNCATED}: {found} bytes, and the tensors alone need {needed}"
    return Finding("truncated", DAMAGE, title, (f"{count} are cut off: {listed(labels)}",))
