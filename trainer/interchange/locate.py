"""Recognise what a path is by its content, not by its extension."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import PREFIX
from trainer.checkpoint.verification import newest_valid
from trainer.config import stored
from trainer.errors import NoValidCheckpoint
from trainer.interchange.contents import Kind
from trainer.interchange.findings import DAMAGE, MISMATCH, NOTE, Finding, Unusable, listed
from trainer.interchange.mistaken import refuse_mistaken
from trainer.interchange.other_programs import keras_backup, orbax, pickled
from trainer.interchange.safetensors_files import INDEX
from trainer.run_directory import foreign
from trainer.run_directory.foreign import TABLE_MAGIC, Foreign
from trainer.run_directory.layout import CHECKPOINTS

STATE_FILE = "checkpoint"  # the file in which tf.train.Saver and CheckpointManager name the newest checkpoint
SHARD = re.compile(r"(.+)\.data-(\d{5})-of-(\d{5})")
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
SAFETENSORS_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
STATE_FILE_LIMIT = 1 << 20  # bytes; one line for each checkpoint


@dataclasses.dataclass(frozen=True)
class Located:
    """A checkpoint: its format, the path for its reader, and what was wrong with the path that the user gave."""

    kind: Kind
    path: Path
    findings: tuple[Finding, ...] = ()


def locate(path: Path) -> Located:
    """Find the checkpoint that ``path`` means.

    Raises:
        Unusable: no checkpoint is there, or it is of a kind that must not be opened.
    """
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        return _file(path)
    if Path(f"{path}.index").is_file() or shards(path):
        return _prefix(path)
    near = [str(prefix) for prefix in prefixes(path.parent)] if path.parent.is_dir() else []
    details = (f"TensorFlow checkpoints in {path.parent}: {listed(near)}",) if near else ()
    raise Unusable(Finding("missing", DAMAGE, f"{path} does not exist", details))


Shards = Mapping[Path, tuple[int, int]]  # file → its number, and the expected number of files


def shards(prefix: Path) -> dict[Path, tuple[int, int]]:
    """The ``.data-00000-of-00002`` files of a prefix, each with its number and the expected number of files."""
    found = {}
    if prefix.parent.is_dir():
        for path in sorted(prefix.parent.iterdir()):
            match = SHARD.fullmatch(path.name)
            if match is not None and match.group(1) == prefix.name:
                found[path] = (int(match.group(2)), int(match.group(3)))
    return found


def prefixes(place: Path) -> list[Path]:
    """The prefixes of the TensorFlow checkpoints in a directory, ordered by step (oldest first), then by name."""
    names = set()
    for path in place.iterdir():
        match = SHARD.fullmatch(path.name)
        if path.suffix == ".index":
            names.add(path.name.removesuffix(".index"))
        elif match is not None:
            names.add(match.group(1))

    def age(name: str) -> tuple[int, str]:
        number = re.search(r"-(\d+)$", name)
        return (int(number.group(1)) if number else -1, name)

    return [place / name for name in sorted(names, key=age)]


def is_own(place: Path) -> bool:
    """Whether a directory is a checkpoint of this trainer, complete or not."""
    if (place / manifests.FILE_NAME).is_file() and not (place / CHECKPOINTS).is_dir():
        return True
    written = (place / f"{PREFIX}.index").is_file() or bool(shards(place / PREFIX))
    return written and (directory.is_name(place.name) or (place / stored.FILE_NAME).is_file())


def _directory(place: Path) -> Located:
    if (place / CHECKPOINTS).is_dir():
        return _run_directory(place)
    if is_own(place):
        return Located(Kind.OWN, place)
    if (place / "saved_model.pb").is_file():
        note = Finding("saved_model", NOTE, f"{place} is a SavedModel; its variables were read, its graph was not")
        return Located(Kind.BUNDLE, place / "variables" / "variables", (note,))
    if (place / STATE_FILE).is_file():
        return _state_file(place / STATE_FILE)
    found = prefixes(place)
    indices = sorted(path for path in place.iterdir() if path.name.endswith(INDEX))
    if found or len(indices) == 1:
        return _loose_files(place, found, indices)
    ours = bool(directory.committed(place))
    return _run_directory(place.parent if place.name == CHECKPOINTS else place) if ours else _foreign(place)


def _foreign(place: Path) -> Located:
    """The file to read in a directory of another program."""
    other = foreign.of(place)
    if other is None:
        raise Unusable(Finding("missing", DAMAGE, f"{place} is a directory that holds no checkpoint"))
    if other.weights is None:
        details = (*other.advice.splitlines()[:1], *_told(other)) if _told(other) else tuple(other.advice.splitlines())
        raise Unusable(Finding("foreign_directory", MISMATCH, f"{place} is {other.description}", details))
    inner = locate(other.weights)
    details = ("that file was read", *_told(other))
    finding = Finding("foreign_directory", MISMATCH, f"{place} is {other.description}", details)
    return dataclasses.replace(inner, findings=(finding, *inner.findings))


def _told(other: Foreign) -> tuple[str, ...]:
    """What the checkpoint of another program has in it."""
    if other.place is None or other.kind is None:
        return ()
    return {"keras": keras_backup, "orbax": orbax, "pickle": pickled}[other.kind](other.place)


def _loose_files(place: Path, found: list[Path], indices: list[Path]) -> Located:
    """What a directory of another program holds: the newest prefix, or else the one index."""
    if not found:
        return Located(Kind.SAFETENSORS, indices[0])
    return Located(Kind.BUNDLE, found[-1], (_directory_for_prefix(place, found),))


def _directory_for_prefix(place: Path, found: list[Path]) -> Finding:
    others = (f"the newest of {listed(prefix.name for prefix in found)} was taken",) if len(found) > 1 else ()
    return Finding(
        "directory_for_prefix",
        MISMATCH,
        f"{place} is a directory; TensorFlow wants the prefix {found[-1]}",
        ("a prefix is the common beginning of the names of the .index and .data-… files; it is not a file", *others),
    )


def _run_directory(place: Path) -> Located:
    parent = place / CHECKPOINTS if (place / CHECKPOINTS).is_dir() else place
    committed = directory.committed(parent)
    if not committed and foreign.of(place) is not None:  # Lightning's directory has this name too
        return _foreign(place)
    if not committed:
        raise Unusable(Finding("missing", DAMAGE, f"{parent} holds no checkpoint"))
    skipped: list[str] = []
    try:
        newest = newest_valid(parent, "full", skipped.append).path
    except NoValidCheckpoint:
        newest = committed[-1]
    title = f"{place} is a run directory; its newest {'' if len(skipped) == len(committed) else 'valid '}checkpoint"
    return Located(Kind.OWN, newest, (Finding("run_directory", NOTE, f"{title} is {newest.name}", tuple(skipped)),))


def _state_file(path: Path) -> Located:
    """Follow ``checkpoint``, the text file in which TensorFlow records the newest prefix."""
    text = path.read_bytes()[:STATE_FILE_LIMIT].decode("utf-8", errors="replace")
    match = re.search(r'^model_checkpoint_path: "(.*)"\s*$', text, re.MULTILINE)
    here = prefixes(path.parent)
    if match is None:
        if not here:
            raise Unusable(Finding("state_file", DAMAGE, f"{path} names no checkpoint, and there is none beside it"))
        title = f"{path} names no checkpoint (tf.train.latest_checkpoint() returns None); {here[-1].name} is beside it"
        return Located(Kind.BUNDLE, here[-1], (Finding("state_file", MISMATCH, title),))
    pointed = Path(match.group(1))
    target, moved = path.parent / pointed, path.parent / pointed.name  # an absolute path stays as it is
    single = next((each for each in (target, moved) if foreign.is_table(each)), None)
    if single is not None:
        title = f"{path} names {pointed.name}, a V1 checkpoint, which is one file"
        return Located(Kind.V1, single, (Finding("state_file", NOTE, title),))
    exists = Path(f"{target}.index").is_file()
    if exists and target.parent.samefile(path.parent):
        return Located(Kind.BUNDLE, moved, (_directory_for_prefix(path.parent, [moved]),))
    title = f"{path} points to {pointed}, {'which is another place' if exists else 'where there is no checkpoint'}"
    if exists and moved not in here:
        return Located(Kind.BUNDLE, target, (Finding("state_file", MISMATCH, title, ("that checkpoint was read",)),))
    if not here:
        raise Unusable(Finding("state_file", DAMAGE, title, (f"nor is there one in {path.parent}",)))
    target = moved if moved in here else here[-1]
    details = (f"the files were moved, copied or removed; {target} is beside it: give that prefix",)
    return Located(Kind.BUNDLE, target, (Finding("state_file", MISMATCH, title, details),))


def _prefix(prefix: Path, *findings: Finding) -> Located:
    if prefix.name == PREFIX and is_own(prefix.parent):
        title = f"{prefix} is a prefix; a checkpoint of this trainer is the directory {prefix.parent}"
        return Located(Kind.OWN, prefix.parent, (Finding("prefix_for_directory", MISMATCH, title),))
    return Located(Kind.BUNDLE, prefix, findings)


def _file(path: Path) -> Located:
    match = SHARD.fullmatch(path.name)
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        tail = file.read()
    if path.suffix == ".index" or match is not None:
        prefix = path.with_name(path.name.removesuffix(".index") if match is None else match.group(1))
        title = f"{path.name} is one file of a TensorFlow checkpoint; its prefix is {prefix}"
        return _prefix(prefix, Finding("file_for_prefix", MISMATCH, title))
    if path.name in (manifests.FILE_NAME, stored.FILE_NAME) and is_own(path.parent):
        title = f"{path.name} is one file of a checkpoint; the checkpoint is the directory {path.parent}"
        return Located(Kind.OWN, path.parent, (Finding("file_for_directory", MISMATCH, title),))
    if path.name == STATE_FILE and not head.startswith((HDF5_MAGIC, ZIP_MAGIC)):
        return _state_file(path)
    return _graph(path) or _single_file(path, head, tail)


def _graph(path: Path) -> Located | None:
    """The values that belong to a file with a graph alone; None for other files."""
    if path.name == foreign.SAVED_MODEL:
        return _directory(path.parent)
    values = path.with_name(path.name.removesuffix(".meta"))
    if path.suffix != ".meta" or not (foreign.is_table(values) or values in prefixes(path.parent)):
        return None
    finding = Finding(
        "file_for_prefix", MISMATCH, f"{path.name} is a graph of TensorFlow 1; its values are in {values}"
    )
    return _prefix(values, finding) if values in prefixes(path.parent) else Located(Kind.V1, values, (finding,))


def _single_file(path: Path, head: bytes, tail: bytes) -> Located:
    """The format of a single file, recognised by its first and last bytes."""
    refuse_mistaken(path)
    if tail == TABLE_MAGIC:
        return Located(Kind.V1, path)
    if head.startswith(HDF5_MAGIC):
        return Located(Kind.WEIGHTS_H5 if path.name.endswith(".weights.h5") else Kind.LEGACY_H5, path)
    if head.startswith(ZIP_MAGIC):
        return _archive(path)
    if path.name.endswith(INDEX):
        return Located(Kind.SAFETENSORS, path)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[5:8] == bytes(3)):
        return _safetensors(path)
    raise Unusable(_unknown(path, head))


def _safetensors(path: Path) -> Located:
    match = SAFETENSORS_SHARD.fullmatch(path.name)
    if match is None or int(match[2]) == 1:
        return Located(Kind.SAFETENSORS, path)
    index = path.with_name(match[1] + INDEX)
    title = f"{path.name} is one of {int(match[2])} files, whose index is {index.name}"
    if not index.is_file():
        raise Unusable(Finding("missing_index", DAMAGE, f"{title}, and that is missing in {path.parent}"))
    return Located(Kind.SAFETENSORS, index, (Finding("file_for_index", MISMATCH, title),))


def _unknown(path: Path, head: bytes) -> Finding:
    # a pickle of protocol 2 to 5 begins with PROTO; older ones are text that ends in "."
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or (head and path.suffix in PICKLE_SUFFIXES):
        return _pickle(
            path, "a Python pickle" if pickled else f"a {path.suffix} file, which usually is a Python pickle"
        )
    if path.suffix in (".h5", ".hdf5", ".keras"):
        title = f"{path} does not begin as a {path.suffix} file does: it is empty, overwritten or something else"
        return Finding("damaged", DAMAGE, title)
    if head and path.suffix in foreign.OTHERS:
        return _other(path)
    title = f"{path} is no checkpoint format that is known: it begins with {head[:8].hex(' ') or 'nothing'}"
    return Finding("unknown_format", MISMATCH if head else DAMAGE, title)


def _other(path: Path) -> Finding:
    """A file of a known format that is not read."""
    return Finding("unknown_format", MISMATCH, f"{path} is {foreign.OTHERS[path.suffix]}", (foreign.CONVERT,))


def _archive(path: Path) -> Located:
    """A zip: a .keras model, or PyTorch's archive, which holds a pickle. Only its table of contents is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        title = f"{path} is a zip archive that was cut short or damaged: {error}"
        raise Unusable(Finding("truncated", DAMAGE, title)) from error
    if any(name.endswith("data.pkl") for name in names):
        raise Unusable(_pickle(path, "a PyTorch archive, whose data.pkl is a pickle"))
    if "model.weights.h5" in names:
        return Located(Kind.KERAS, path)
    if path.suffix in foreign.OTHERS:
        raise Unusable(_other(path))
    title = f"{path} is a zip archive without model.weights.h5, so it is no .keras model: it holds {listed(names)}"
    below = any(name.endswith("/model.weights.h5") for name in names)
    advice = ("the files of a model are in a folder of it: unpack it, and give the model.weights.h5 in that folder",)
    raise Unusable(Finding("unknown_format", MISMATCH, title, advice if below else ()))


def _pickle(path: Path, what: str) -> Finding:
    return Finding(
        "pickle",
        MISMATCH,
        f"{path} is {what}, and is not loaded: loading a pickle runs whatever code its author put into it",
        pickled(path),
    )
