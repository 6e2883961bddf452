"""Starting a new run from the weights of another: by name and shape, and saying what was taken."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import FILE_NAME
from trainer.checkpoint.tensors import read_tensor, stored_tensors
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.state import TrainingState

LEAST_SHARE = 0.5  # of the model's variables; a new classifier or aux head leaves over 0.95 of them
SHOWN = 5
MODEL = "model/"


def find(path: Path) -> Path:
    """The checkpoint directory that ``init_from`` names, verified.

    Raises:
        NoValidCheckpoint: it is not a checkpoint of this program, or damaged.
    """
    if not (path / FILE_NAME).is_file():
        raise NoValidCheckpoint(f"init_from={path} is not a checkpoint directory: it has no {FILE_NAME}")
    directory.verify(path)
    return path


def load(path: Path, state: TrainingState) -> list[str]:
    """Assign every model variable whose name and shape the checkpoint has; averages start at the new values.

    Returns lines that list what was loaded, what the checkpoint has and the model cannot take, and what starts fresh.

    Raises:
        RestoreRefused: less than half of the model's variables match; nothing was assigned.
    """
    there = {name.removeprefix(MODEL): shape for name, shape in stored_tensors(path).items() if name.startswith(MODEL)}
    shapes = {name: f"{variable.dtype.name}{list(variable.shape)}" for name, variable in state.variables.items()}
    loaded = [name for name in shapes if there.get(name) == shapes[name]]
    fresh = [f"{name} {shapes[name]}" for name in shapes if name not in loaded]
    skipped = [f"{name} {shape}" for name, shape in there.items() if name not in loaded]
    if len(loaded) < LEAST_SHARE * len(shapes):
        raise RestoreRefused(
            f"init_from={path} fits {len(loaded)} of the model's {len(shapes)} variables: suspiciously little\n"
            f"  in the checkpoint: {_some(skipped)}\n  in the model: {_some(fresh)}\n"
            "compare model.width, model.min_depth and model.name with the checkpoint's config.yaml"
        )
    for name in loaded:
        state.variables[name].assign(read_tensor(path, MODEL + name))
    for name, shadow in state.ema.items():
        shadow.assign(state.variables[name])
    lines = [f"weights from {path}: {len(loaded)} of {len(shapes)} variables loaded"]
    lines += [f"  freshly initialised: {_some(fresh)}"] if fresh else []
    lines += [f"  not taken from the checkpoint: {_some(skipped)}"] if skipped else []
    return lines


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
