"""Directories and files in which other programs keep networks: what such a place is, and what can be done with it.

They are recognised by names. Of files whose names two programs use (``.ckpt``), the last bytes are read.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from trainer.checkpoint import manifest as manifests
from trainer.command_line import argument, command_line
from trainer.config import stored
from trainer.errors import NoValidCheckpoint
from trainer.storage.unreadable import Unreadable

# keras/src/callbacks/backup_and_restore.py of Keras 3; Keras 2 kept TensorFlow checkpoints in chief/ (and worker_1/ …)
KERAS_WEIGHTS, KERAS_METADATA, KERAS_CHIEF = "latest.weights.h5", "training_metadata.json", "chief"
# the files that mark a checkpoint of Orbax: its "Checkpoint Format Guide", for both versions of its interface
ORBAX = ("orbax.checkpoint", "_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "commit_success.txt")
SAVED_MODEL, SAVED_MODEL_TEXT, TFJS_MODEL = "saved_model.pb", "saved_model.pbtxt", "model.json"
WEIGHTS = (".weights.h5", ".keras", ".h5", ".hdf5", ".safetensors")
KERAS_SHARDS = ".weights.json"
PICKLES = (".ckpt", ".pt", ".pth", ".pth.tar", ".pt.tar", ".bin", ".distcp", ".pkl", ".pickle")
# endings of files that hold a network in a format that is not read
OTHERS = {
    ".onnx": "a model in ONNX",
    ".tflite": "a model for LiteRT (TensorFlow Lite)",
    ".mlmodel": "a model for Core ML",
    ".mlpackage": "a model for Core ML",
    ".engine": "an engine of TensorRT",
    ".msgpack": "weights of Flax",
    ".npz": "arrays of NumPy",
    ".pb": "a frozen graph of TensorFlow 1",
    ".pdparams": "weights of PaddlePaddle",
    ".caffemodel": "weights of Caffe",
    ".params": "weights of MXNet",
}
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # end of a leveldb table: .index files and V1 checkpoints
PART_OF_PREFIX = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")
INDEX = re.compile(r"(.+)\.index")
BELOW = ("", KERAS_CHIEF, "backup", "checkpoints", "lightning_logs", "default", "ckpt")
NUMBERED = re.compile(r"(?:version|global_step|step|epoch|checkpoint|ckpt)?[-_]?\d+")
CONVERT = (
    "its format is not read here: write the weights as .safetensors with the names of torchvision or Keras, and give "
    "that file to doctor"
)
LEVELS = 3


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A checkpoint of another program. ``weights`` is the file or prefix that doctor, inspect and init_from can read,
    where they can. ``advice`` is what to do where they cannot. ``place`` is the pickle, the directory of Orbax or the
    JSON of Keras that says more.
    """

    description: str
    weights: Path | None
    advice: str = ""
    kind: Literal["keras", "orbax", "pickle"] | None = None
    place: Path | None = None

    def lines(self) -> list[str]:
        """What it is and what to do, for a command that needs a run of this program."""
        said = [
            f"it is {self.description}: it has no position in the data from which training could be resumed, and no "
            "digests that could be verified"
        ]
        if self.weights is None:
            return [*said, self.advice]
        return [
            *said,
            "whether its weights fit a network here, and the command that starts a new run from them:",
            f"  {command_line('doctor', argument('checkpoint', self.weights))}",
        ]


def of(place: Path) -> Foreign | None:
    """What another program has left in a directory, or up to three levels below where such programs put it; or what a
    file of it is, or the prefix of its files. None for a run or a checkpoint of this program, and for what is unknown.
    """
    if not place.is_dir():
        return _of_file(place)
    directories = _directories(place, LEVELS)
    found = (foreign for directory in directories for foreign in _recognized(directory, _names(directory)))
    return next(found, None) if not _is_own(place) else None


def _is_own(place: Path) -> bool:
    if (place / manifests.FILE_NAME).is_file() or (place / f"{manifests.PREFIX}.index").is_file():
        return True
    try:
        stored.read(place / stored.FILE_NAME)  # Lightning writes a config.yaml of its own
    except (NoValidCheckpoint, Unreadable):
        return False
    return True


def _of_file(place: Path) -> Foreign | None:
    """What a file is, or the prefix of files that ``place`` may be."""
    names = _names(place.parent)
    there = place.is_file() or f"{place.name}.index" in names
    if not there or _is_own(place.parent):
        return None
    part = PART_OF_PREFIX.fullmatch(place.name)
    prefix = place.name if part is None else part[1]
    if f"{prefix}.index" in names:
        return _tensorflow(place.parent, [f"{prefix}.index"])
    if place.name in (SAVED_MODEL, SAVED_MODEL_TEXT):
        return _saved_model(place.parent, [place.name])
    if place.name.endswith(WEIGHTS):
        return Foreign("a file of weights", place)
    return next(_recognized(place.parent, [place.name]), None)


def _directories(place: Path, levels: int) -> Iterator[Path]:
    """The directory, then those in it that may hold checkpoints, the highest number first."""
    if not place.is_dir() or place.is_symlink():
        return
    yield place
    if levels == 0:
        return
    names = [name for name in _names(place) if (name in BELOW or NUMBERED.fullmatch(name))]
    for name in sorted(names, key=_age, reverse=True):
        if not _is_own(place / name):
            yield from _directories(place / name, levels - 1)


def _age(name: str) -> tuple[int, str]:
    number = re.search(r"\d+$", name)
    return (int(number.group()) if number else -1, name)


def _names(place: Path) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except OSError:  # it cannot be read, so nothing is known about it
        return []


def _recognized(place: Path, names: list[str]) -> Iterator[Foreign]:
    """What the files ``names`` in ``place`` are."""
    for kind in KINDS:
        found = kind(place, names)
        if found is not None:
            yield found


def _keras(place: Path, names: list[str]) -> Foreign | None:
    if KERAS_WEIGHTS not in names:
        return None
    what = f"a backup of Keras's BackupAndRestore ({place / KERAS_WEIGHTS}"
    more = f" and {KERAS_METADATA})" if KERAS_METADATA in names else ")"
    about = place / KERAS_METADATA
    return Foreign(what + more, place / KERAS_WEIGHTS, kind="keras", place=about if about.is_file() else None)


def _orbax(place: Path, names: list[str]) -> Foreign | None:
    marks = [name for name in ORBAX if name in names]
    if not marks:
        return None
    advice = (
        "its format is not read here: restore it with Orbax, save the weights as .safetensors with the names of "
        "torchvision or Keras, and give that file to doctor"
    )
    return Foreign(f"a checkpoint of Orbax ({place / marks[0]})", None, advice, "orbax", place)


def _tensorflow(place: Path, names: list[str]) -> Foreign | None:
    prefixes = [match[1] for name in names if (match := INDEX.fullmatch(name)) is not None]
    if not prefixes:
        return None
    newest = place / max(prefixes, key=_age)
    if place.name == KERAS_CHIEF:
        return Foreign(f"a backup of Keras's BackupAndRestore, a TensorFlow checkpoint ({newest}.index)", newest)
    return Foreign(f"a TensorFlow checkpoint ({newest}.index)", newest)


def _saved_model(place: Path, names: list[str]) -> Foreign | None:
    if SAVED_MODEL in names:
        return Foreign(f"a SavedModel ({place / SAVED_MODEL}), a network for inference", place)
    if SAVED_MODEL_TEXT not in names:
        return None
    advice = "its form with text is not read here: load it in TensorFlow and save it again, which writes saved_model.pb"
    return Foreign(f"a SavedModel as text ({place / SAVED_MODEL_TEXT})", None, advice)


def _keras_shards(place: Path, names: list[str]) -> Foreign | None:
    files = [name for name in names if name.endswith(KERAS_SHARDS)]
    if not files:
        return None
    advice = "write one file where Keras reads it: model.save_weights('model.weights.h5'), and give that file to doctor"
    return Foreign(f"Keras's index of weights in several files ({place / files[-1]})", None, advice)


def _table(place: Path, names: list[str]) -> Foreign | None:
    """A V1 checkpoint, whose name is often the same as that of Lightning's pickles, or has no ending."""
    likely = [name for name in names if name.endswith(".ckpt") or ".ckpt-" in name or name.startswith("model-")]
    tables = [place / name for name in likely if is_table(place / name)]
    if not tables:
        return None
    newest = max(tables, key=lambda path: _age(path.name))
    return Foreign(f"a TensorFlow V1 checkpoint ({newest})", newest)


def is_table(path: Path) -> bool:
    """Whether a file ends as a V1 checkpoint of TensorFlow and an ``.index`` do."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
            return file.read() == TABLE_MAGIC
    except OSError:
        return False


def _tensorflow_js(place: Path, names: list[str]) -> Foreign | None:
    if TFJS_MODEL not in names or not any(name.endswith(".bin") for name in names):
        return None
    return Foreign(f"a model for TensorFlow.js ({place / TFJS_MODEL})", None, CONVERT)


def _others(place: Path, names: list[str]) -> Foreign | None:
    found = [name for name in names if any(name.endswith(ending) for ending in OTHERS)]
    if not found:
        return None
    what = next(what for ending, what in OTHERS.items() if found[-1].endswith(ending))
    return Foreign(f"{what} ({place / found[-1]})", None, CONVERT)


def _weights(place: Path, names: list[str]) -> Foreign | None:
    files = [name for name in names if name.endswith(WEIGHTS)]
    if not files:
        return None
    newest = max(files, key=lambda name: _age(name.partition(".")[0]))
    return Foreign(f"a directory with weights ({place / newest})", place / newest)


def _pickles(place: Path, names: list[str]) -> Foreign | None:
    files = [name for name in names if name.endswith(PICKLES)]
    if not files:
        return None
    program = "PyTorch Lightning" if any(name.endswith(".ckpt") for name in files) else "PyTorch"
    advice = (
        "it is a Python pickle, which is not loaded here: loading one runs whatever code its author put into it\n"
        "convert it where you trust it: safetensors.torch.save_file(state_dict, 'weights.safetensors'), and give that "
        "file to doctor"
    )
    newest = place / max(files, key=lambda name: _age(name.partition(".")[0]))
    return Foreign(f"a checkpoint of {program} ({newest})", None, advice, "pickle", newest)


# the first that recognizes a place says what it is
KINDS: tuple[Callable[[Path, list[str]], Foreign | None], ...] = (
    _keras,
    _saved_model,
    _orbax,
    _tensorflow,
    _keras_shards,
    _weights,
    _table,
    _tensorflow_js,
    _pickles,
    _others,
)
