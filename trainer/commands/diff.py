"""``diff``: the differences between two checkpoints, runs or configuration files."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import FILE_NAME
from trainer.checkpoint.verification import newest_valid, reading, verify
from trainer.commands.arguments import refuse_rest, take_text
from trainer.commands.newest import read_newest
from trainer.commands.wrapping import wrapped
from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.override import changes
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.fingerprint import facts
from trainer.fingerprint.facts import KINDS, STEP
from trainer.run_directory.layout import CHECKPOINTS
from trainer.run_directory.which_checkpoint import refuse_foreign
from trainer.runtime.importing import importing_tensorflow
from trainer.storage.unreadable import readable

SHOWN = 10
HELP = f"""Compare two checkpoints: configuration, structure, optimizer, data, then every tensor, bit for bit.

  python -m trainer diff left=PATH right=PATH

PATH is a checkpoint directory, a run directory (its newest valid checkpoint) or a config.yaml. With a config.yaml only
the configurations are compared. Exit status 0 when both are equal (for checkpoints the tensors alone decide),
{RestoreRefused.exit_status} when they differ, {NoValidCheckpoint.exit_status} when a side cannot be read."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of the comparison; ``checkpoint`` is None for a configuration file."""

    path: Path
    config: Config
    checkpoint: Path | None


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments(arguments)
    paths = [Path(take_text(values, side, "diff")) for side in ("left", "right")]
    refuse_rest(values, ("left", "right"), "diff")
    return read_newest(lambda: _compare(*map(_side, paths)), *paths)


def _side(path: Path) -> Side:
    """The side at ``path``; a checkpoint is verified."""
    with readable(path):
        is_file, is_run = path.is_file(), (path / CHECKPOINTS).is_dir()
    if is_file or not path.is_dir():
        refuse_foreign(path, str(path))
    if is_file:
        return Side(path, stored.read(path), None)
    if not (is_run and directory.committed(path / CHECKPOINTS)):
        refuse_foreign(path, str(path))
    if is_run:
        warn = functools.partial(print, "warning:", file=sys.stderr)
        path = newest_valid(path / CHECKPOINTS, "full", warn).path
    elif not (path / FILE_NAME).is_file():
        raise NoValidCheckpoint(
            f"{path} is not a checkpoint (it has no {FILE_NAME}), a run directory or a configuration file"
        )
    else:
        verify(path, "full")
    with reading(path):
        return Side(path, stored.read(path / stored.FILE_NAME), path)


def _compare(left: Side, right: Side) -> int:
    """Print the differences; returns the exit status."""
    changed = [str(change) for change in changes(left.config, right.config)]
    if left.checkpoint is None or right.checkpoint is None:
        _head(left, right)
        _section("config", changed)
        return RestoreRefused.exit_status if changed else 0
    with reading(left.checkpoint), reading(right.checkpoint):
        stored_facts = [facts.of_checkpoint(side) for side in (left.checkpoint, right.checkpoint)]
        fact_differences = facts.differences(*facts.comparable(*stored_facts))
        with importing_tensorflow():
            from trainer.checkpoint.differences import differing_tensors  # imports TensorFlow, which is slow

        differences = differing_tensors(left.checkpoint, right.checkpoint)
    _head(left, right)
    _section("config", changed)
    sides = zip(("left", "right"), stored_facts, strict=True)
    unknown = [name for name, found in sides if not facts.records_steps(found)]
    for kind in KINDS:
        equal = "equal" if kind != STEP or not unknown else f"not recorded in {' and '.join(unknown)}"
        _section(kind, [str(difference) for difference in fact_differences if difference.fact.kind == kind], equal)
    _section("state", [str(difference) for difference in differences], equal="bitwise equal", unit="tensors")
    return RestoreRefused.exit_status if differences else 0


def _head(left: Side, right: Side) -> None:
    print(f"left   {left.path}\nright  {right.path}")


def _section(name: str, lines: list[str], equal: str = "equal", unit: str = "values") -> None:
    if not lines:
        print(f"{name}: {equal}")
        return
    print(f"{name}: {len(lines)} {unit} differ")
    for line in lines[:SHOWN]:
        print(f"  {line}")
    if len(lines) > SHOWN:
        print(f"  and {len(lines) - SHOWN} more")
