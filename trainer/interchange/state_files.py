"""The whole state of a run in one file of safetensors, and the way back to a checkpoint.

Tensors have their names and types in the state tree: weights, slots, averages, counters. They lie in the order of the
checkpoint's own file of values, so the one part of that file that is missing is its end, TensorFlow's description of
the tree. The metadata has this end, the index, and the texts of the checkpoint's other files. So the way back is to
put bytes together, and needs no TensorFlow; and the digests in the manifest show for every byte whether it is right.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import PREFIX, Manifest, ManifestError
from trainer.checkpoint.tensors import StoredValues
from trainer.checkpoint.verification import reading
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.interchange.contents import ORIGIN, OURS, STATE, Contents, Kind, Tensor
from trainer.interchange.findings import DAMAGE, MISMATCH, Finding, Unusable, listed
from trainer.interchange.origin import Origin
from trainer.interchange.safetensors_files import TYPES, read_safetensors, write_safetensors
from trainer.run_directory.layout import LOCK
from trainer.storage import durable, holding
from trainer.storage.lease import Fence
from trainer.storage.unreadable import readable

INDEX, DATA = f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001"
END = f"{OURS}{DATA}/end"  # the part of the file of values behind the tensors, base64
NAMES = f"{OURS}tensors.sha256"  # the header of safetensors has no digest of its own
HEAD = 8  # bytes of a safetensors file in front of its header


def is_state(path: Path) -> bool:
    """Whether a path is a file with the whole state of a run, whole or damaged.

    Raises:
        Unreadable: the system cannot read it now.
    """
    if not path.is_file():
        return False
    with readable(path):
        try:
            return STATE in read_safetensors(path).facts
        except Unusable:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(HEAD), "little")
                # a file that was cut still is what it was; its header is read as far as it is there
                return f'"{STATE}"'.encode() in file.read(min(length, path.stat().st_size))


def pack(checkpoint: Path, output: Path) -> None:
    """Write a verified checkpoint to ``output``.

    Raises:
        UsageError: a plug-in has a variable of a type that the format does not have; names it.
        Vanished: the checkpoint was deleted meanwhile.
    """
    with reading(checkpoint):
        manifest, stored = directory.manifest_of(checkpoint), StoredValues(checkpoint)
        values = {name: np.asarray(stored[name]) for name in stored.names()}
        texts = {name: (checkpoint / name).read_bytes().decode("utf-8") for name in _texts(manifest)}
        said = (checkpoint / manifests.FILE_NAME).read_bytes().decode("utf-8")
        index, end = (checkpoint / INDEX).read_bytes(), _behind(checkpoint / DATA, values)
    kinds = {np.dtype(kind): name.lower() for name, kind in TYPES.items()}
    if other := [f"{name} ({value.dtype})" for name, value in values.items() if value.dtype not in kinds]:
        raise UsageError(f"format=state has no such types: {listed(other)}\ncopy the directory {checkpoint} instead")
    tensors = [Tensor(name, name, value.shape, kinds[value.dtype]) for name, value in values.items()]
    metadata = {
        STATE: said,
        **{f"{OURS}{name}": text for name, text in texts.items()},
        ORIGIN: _origin(manifest, said),
        NAMES: _digest_of(tensors),
        f"{OURS}{INDEX}": base64.b64encode(index).decode("ascii"),
        END: base64.b64encode(end).decode("ascii"),
    }
    write_safetensors(output, values, metadata)


def _behind(data: Path, values: dict[str, np.ndarray]) -> bytes:
    """What follows the tensors in a file of values.

    Raises:
        UsageError: the tensors do not lie in it as they are given.
    """
    with data.open("rb") as file:
        for name, value in values.items():
            if file.read(value.nbytes) != _raw(value):
                raise UsageError(
                    f"{data} has its tensors in another order than this program writes them: {name} is elsewhere\n"
                    "copy the directory instead, or resume from it and export the next checkpoint"
                )
        return file.read()


def checked_state(contents: Contents) -> Contents:
    """The contents of a safetensors file that says it is a state, of the kind ``STATE``. Every byte of it is compared
    with the digests of its manifest.

    Raises:
        Unusable: a part is missing or was changed.
    """
    manifest = manifest_of(contents)
    for name in _texts(manifest):
        _compare(contents, manifest, name, iter([_encoded(_fact(contents, f"{OURS}{name}"))]))
    _compare(contents, manifest, INDEX, iter([_decoded(contents, f"{OURS}{INDEX}")]))
    _compare(contents, manifest, DATA, _data(contents))
    if _fact(contents, ORIGIN) != _origin(manifest, _fact(contents, STATE)):
        raise _changed(contents, f"its {Path(ORIGIN).name} is not the one that its manifest describes")
    if _fact(contents, NAMES) != _digest_of(contents.tensors):
        raise _changed(contents, "the names, types and shapes of its tensors have another SHA-256")
    return dataclasses.replace(contents, kind=Kind.STATE)


def _compare(contents: Contents, manifest: Manifest, name: str, pieces: Iterator[bytes]) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    if name not in manifest.files or (digest.hexdigest(), size) != (manifest.files[name], manifest.sizes[name]):
        raise _changed(contents, f"its {name} has another SHA-256 than its manifest says")


def _data(contents: Contents) -> Iterator[bytes]:
    """The file of values, piece by piece."""
    for tensor in contents.tensors:
        yield _raw(contents.read(tensor))
    yield _decoded(contents, END)


def manifest_of(contents: Contents) -> Manifest:
    """Of the checkpoint that a state was packed from.

    Raises:
        Unusable: it was changed.
    """
    try:
        return manifests.from_text(_fact(contents, STATE), f"{contents.path}: {manifests.FILE_NAME}")
    except ManifestError as error:
        raise Unusable(Finding("manifest", DAMAGE, str(error))) from error


def unpack(path: Path, run_dir: Path) -> str:
    """Make the checkpoint of a state in ``run_dir``, which this process has locked, unless it is there. Returns its
    name.

    Raises:
        NoValidCheckpoint: the file is damaged. Nothing was made.
        RestoreRefused: it is no such file. Nothing was made.
        UsageError: ``run_dir`` has another checkpoint of the same step.
    """
    with _refusing(path), readable(path):
        contents = read_safetensors(path)
        if STATE not in contents.facts:
            raise Unusable(Finding("foreign", MISMATCH, f"{path} does not hold the state of a run"))
        contents = checked_state(contents)
        manifest = manifest_of(contents)
    name = directory.name_of(manifest.step)
    there = holding.path_of(run_dir) / manifests.CHECKPOINTS / name
    if directory.is_there(there):
        _refuse_other(there, manifest, run_dir, path)
        return name
    directory.commit(
        there.parent,
        manifest.step,
        lambda unfinished: _fill(contents, manifest, unfinished),
        lambda digests, sizes: _fact(contents, STATE),
        Fence(holding.path_of(run_dir) / LOCK),
    )
    return name


def prove(path: Path, place: Path) -> None:
    """Go the way back into the directory ``place``, which is made.

    Raises:
        NoValidCheckpoint: the file is not what was packed.
    """
    place.mkdir()
    with _refusing(path):
        contents = checked_state(read_safetensors(path))
        _fill(contents, manifest_of(contents), place)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except Unusable as error:
        raise error.finding.refusal() from error


def _fill(contents: Contents, manifest: Manifest, place: Path) -> None:
    """Write the files of the checkpoint.

    Raises:
        NoValidCheckpoint: they are not those of the manifest: the file was changed meanwhile.
    """
    for name in _texts(manifest):
        (place / name).write_bytes(_encoded(_fact(contents, f"{OURS}{name}")))
    (place / INDEX).write_bytes(_decoded(contents, f"{OURS}{INDEX}"))
    with (place / DATA).open("wb") as file:
        file.writelines(_data(contents))
    if odd := [name for name, digest in manifest.files.items() if durable.digest(place / name) != digest]:
        raise NoValidCheckpoint(f"{contents.path} was changed while it was read: {listed(odd)}")


def _refuse_other(there: Path, manifest: Manifest, run_dir: Path, path: Path) -> None:
    try:
        found = directory.manifest_of(there)
    except ManifestError as error:
        raise NoValidCheckpoint(f"{there} is damaged: {error}\nmove it away, and run this again") from error
    if found.files != manifest.files:
        raise UsageError(
            f"run_dir={run_dir} has a {there.name} of its own, which is not that of checkpoint={path}\n"
            "choose a new directory for the state"
        )


def _texts(manifest: Manifest) -> list[str]:
    """The files of a checkpoint that are texts, without the manifest."""
    return [name for name in manifest.files if name not in (INDEX, DATA)]


def _origin(manifest: Manifest, text: str) -> str:
    digest = hashlib.sha256(_encoded(text)).hexdigest()
    return Origin(directory.name_of(manifest.step), digest, manifest.step, "raw", manifest.class_names).to_text()


def _digest_of(tensors: Sequence[Tensor]) -> str:
    entries = [[tensor.key, tensor.dtype, list(tensor.shape)] for tensor in tensors]
    return hashlib.sha256(json.dumps(entries).encode("ascii")).hexdigest()


def _fact(contents: Contents, name: str) -> str:
    if name not in contents.facts:
        raise _changed(contents, f"it has no {name}")
    return contents.facts[name]


def _decoded(contents: Contents, name: str) -> bytes:
    try:
        return base64.b64decode(_fact(contents, name), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _changed(contents, f"{name} in it cannot be decoded") from error


def _changed(contents: Contents, how: str) -> Unusable:
    return Unusable(Finding("digest", DAMAGE, f"{contents.path} was changed after it was written: {how}"))


def _raw(value: np.ndarray) -> bytes:
    """Row-major and little-endian."""
    return np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False).tobytes()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may spell halves of characters
