"""Starting a new run from the weights of another: by name and shape, and saying what was taken.

Any file whose names are understood will do: a checkpoint of this program, TensorFlow's own formats with the names of
TF-Slim or Keras, Keras files, safetensors with the names of torchvision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.checkpoint.layout import PREFIX
from trainer.checkpoint.verification import verify
from trainer.diagnosis.bundles import read_bundle
from trainer.diagnosis.contents import Contents, Kind
from trainer.diagnosis.findings import Unusable, listed
from trainer.diagnosis.formats import locate
from trainer.diagnosis.readers import read_contents
from trainer.diagnosis.translation import Translation, head_shape, translate
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.state import TrainingState

LEAST_SHARE = 0.5  # of the model's variables; a new classifier or aux head leaves over 0.95 of them


def find(path: Path) -> Contents:
    """The contents of the checkpoint that ``init_from`` names, not yet its values; one of ours is verified.

    Raises:
        NoValidCheckpoint: it does not exist, is damaged, or must not be opened.
    """
    try:
        located = locate(path)
        if located.kind is not Kind.OWN:
            return read_contents(located)
        verify(located.path, "full")
        return read_bundle(located.path / PREFIX, Kind.BUNDLE)
    except Unusable as error:
        details = "".join(f"\n  {detail}" for detail in error.finding.details)
        raise NoValidCheckpoint(f"init_from={path}: {error.finding.title}{details}") from error


def load(contents: Contents, state: TrainingState) -> list[str]:
    """Assign every model variable whose name and shape the file has; averages start at the new values.

    Returns lines that list what was loaded, what the file has and the model cannot take, and what starts fresh.

    Raises:
        RestoreRefused: less than half of the model's variables match; nothing was assigned.
        NoValidCheckpoint: a tensor is damaged; nothing was assigned.
    """
    translation = translate(contents)
    there = {name: head_shape(name, tensor.shape) for name, tensor in translation.weights.items()}
    shapes = {name: tuple(variable.shape) for name, variable in state.variables.items()}
    loaded = [name for name in shapes if name in there and there[name] == shapes[name]]
    fresh = [f"{name} {list(shapes[name])}" for name in shapes if name not in loaded]
    skipped = [f"{name} {list(shape)}" for name, shape in there.items() if name not in loaded]
    if len(loaded) < LEAST_SHARE * len(shapes):
        raise RestoreRefused(
            f"init_from={contents.path} fits {len(loaded)} of {len(shapes)} variables: suspiciously little\n"
            f"  in the file: {listed(skipped) or 'nothing of an Inception V3'}\n  in the model: {listed(fresh)}\n"
            f"ask why: python -m trainer doctor checkpoint={contents.path}"
        )
    values = {name: _value(contents, translation, name) for name in loaded}
    for name, value in values.items():
        state.variables[name].assign(value)
    for name, shadow in state.ema.items():
        shadow.assign(state.variables[name])
    lines = [f"weights from {contents.path}: {len(loaded)} of {len(shapes)} variables loaded"]
    lines += [f"  freshly initialised: {listed(fresh)}"] if fresh else []
    lines += [f"  not taken from the file: {listed(skipped)}"] if skipped else []
    if translation.channels_first:
        lines.append("  average pools of this network do not count padding, torchvision's do: logits will differ")
    return lines


def _value(contents: Contents, translation: Translation, name: str) -> np.ndarray:
    """A variable's value in the layout of the model."""
    tensor = translation.weights[name]
    try:
        value = np.asarray(contents.read(tensor))
    except Unusable as error:
        raise NoValidCheckpoint(f"init_from={contents.path}: {error.finding.title}") from error
    if translation.channels_first and value.ndim in (2, 4):
        value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
    return value.reshape(head_shape(name, value.shape))
