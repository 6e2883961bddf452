"""Directories in which other programs keep their checkpoints: what such a directory is, and what can be done with it.

A directory is recognised by the names in it. Nothing in it is opened.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoint import manifest as manifests
from trainer.command_line import argument, command_line
from trainer.config import stored
from trainer.errors import NoValidCheckpoint
from trainer.storage.unreadable import Unreadable

# keras/src/callbacks/backup_and_restore.py of Keras 3; Keras 2 kept TensorFlow checkpoints in chief/ (and worker_1/ …)
KERAS_WEIGHTS, KERAS_METADATA, KERAS_CHIEF = "latest.weights.h5", "training_metadata.json", "chief"
# the files that mark a checkpoint of Orbax: its "Checkpoint Format Guide", for both versions of its interface
ORBAX = ("orbax.checkpoint", "_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "commit_success.txt")
WEIGHTS = (".weights.h5", ".keras", ".h5", ".hdf5", ".safetensors")
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".distcp")
INDEX = re.compile(r"(.+)\.index")
BELOW = ("", KERAS_CHIEF, "backup", "checkpoints", "lightning_logs", "default", "ckpt")
NUMBERED = re.compile(r"(?:version|step|epoch|checkpoint|ckpt)?[-_]?\d+")
LEVELS = 3


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A checkpoint of another program. ``weights`` is the file or prefix that doctor, inspect and init_from can read,
    where they can. ``advice`` is what to do where they cannot.
    """

    description: str
    weights: Path | None
    advice: str = ""

    def lines(self) -> list[str]:
        """What it is and what to do, for a command that needs a run of this program."""
        said = [
            f"it is {self.description}, written by another program: it has no configuration and no position in the "
            "data that could be resumed, and no digests that could be verified"
        ]
        if self.weights is None:
            return [*said, self.advice]
        return [
            *said,
            "whether its weights fit a network here, and the command that starts a new run from them:",
            f"  {command_line('doctor', argument('checkpoint', self.weights))}",
        ]


def of(place: Path) -> Foreign | None:
    """What another program has left in a directory, or up to three levels below where such programs put it; None for
    a run or a checkpoint of this program, and for anything unknown.
    """
    found = (foreign for directory in _directories(place, LEVELS) for foreign in _recognized(directory))
    return next(found, None) if not _is_own(place) else None


def _is_own(place: Path) -> bool:
    if (place / manifests.FILE_NAME).is_file() or (place / f"{manifests.PREFIX}.index").is_file():
        return True
    try:
        stored.read(place / stored.FILE_NAME)  # Lightning writes a config.yaml of its own
    except (NoValidCheckpoint, Unreadable):
        return False
    return True


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


def _recognized(place: Path) -> Iterator[Foreign]:
    names = _names(place)
    kinds: tuple[Callable[[Path, list[str]], Foreign | None], ...] = (_keras, _orbax, _tensorflow, _weights, _pickles)
    for kind in kinds:
        found = kind(place, names)
        if found is not None:
            yield found


def _keras(place: Path, names: list[str]) -> Foreign | None:
    if KERAS_WEIGHTS not in names:
        return None
    what = f"a backup of Keras's BackupAndRestore ({place / KERAS_WEIGHTS}"
    more = f" and {KERAS_METADATA})" if KERAS_METADATA in names else ")"
    return Foreign(what + more, place / KERAS_WEIGHTS)


def _orbax(place: Path, names: list[str]) -> Foreign | None:
    marks = [name for name in ORBAX if name in names]
    if not marks:
        return None
    advice = (
        "its format is not read here: restore it with Orbax, save the weights as .safetensors with the names of "
        "torchvision or Keras, and give that file to doctor"
    )
    return Foreign(f"a checkpoint of Orbax ({place / marks[0]})", None, advice)


def _tensorflow(place: Path, names: list[str]) -> Foreign | None:
    prefixes = [match[1] for name in names if (match := INDEX.fullmatch(name)) is not None]
    if not prefixes:
        return None
    newest = place / max(prefixes, key=_age)
    if place.name == KERAS_CHIEF:
        return Foreign(f"a backup of Keras's BackupAndRestore, a TensorFlow checkpoint ({newest}.index)", newest)
    return Foreign(f"a TensorFlow checkpoint ({newest}.index)", newest)


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
        "it is a Python pickle, which is not opened here: loading one runs whatever code its author put into it\n"
        "convert it where you trust it: safetensors.torch.save_file(state_dict, 'weights.safetensors'), and give that "
        "file to doctor"
    )
    return Foreign(f"a checkpoint of {program} ({place / files[-1]})", None, advice)
