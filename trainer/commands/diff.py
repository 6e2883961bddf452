"""``diff``: what differs between two checkpoints (or the newest ones of two runs)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import FILE_NAME
from trainer.commands.arguments import parse_arguments, refuse_rest, take_text
from trainer.config import stored
from trainer.config.parse import leaves
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.quiet import quiet_startup
from trainer.run_directory import CHECKPOINTS

SHOWN = 10
HELP = f"""Compare two checkpoints: configuration, then every tensor, bit for bit.

  python -m trainer diff left=PATH right=PATH

PATH is a checkpoint directory or a run directory (its newest valid checkpoint). Exit status 0 when the states
are bitwise equal, {RestoreRefused.exit_status} when not, {NoValidCheckpoint.exit_status} when one cannot be read."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    values = parse_arguments(arguments)
    paths = [Path(take_text(values, side, "diff")) for side in ("left", "right")]
    refuse_rest(values, ("left", "right"), "diff")
    left, right = map(_checkpoint, paths)
    print(f"left   {left}\nright  {right}")
    for line in _config_differences(left, right):
        print(line)

    with quiet_startup():
        from trainer.checkpoint.compare import differing_tensors  # imports TensorFlow, which is slow

    differences = differing_tensors(left, right)
    if not differences:
        print("state: bitwise equal")
        return 0
    print(f"state: {len(differences)} tensors differ")
    for difference in differences[:SHOWN]:
        print(f"  {difference}")
    if len(differences) > SHOWN:
        print(f"  and {len(differences) - SHOWN} more")
    return RestoreRefused.exit_status


def _checkpoint(path: Path) -> Path:
    """The checkpoint directory that ``path`` means, verified."""
    if (path / CHECKPOINTS).is_dir():
        newest, _ = directory.newest_valid(path / CHECKPOINTS, lambda text: print(f"warning: {text}", file=sys.stderr))
        return newest
    if not (path / FILE_NAME).is_file():
        raise NoValidCheckpoint(f"{path} is neither a checkpoint nor a run directory: it has no {FILE_NAME}")
    directory.verify(path)
    return path


def _config_differences(left: Path, right: Path) -> list[str]:
    sides = [{key: value for key, value, _ in leaves(stored.read(path / stored.FILE_NAME))} for path in (left, right)]
    lines = []
    for key in [*sides[0], *(key for key in sides[1] if key not in sides[0])]:
        values = [side[key] if key in side else "(absent)" for side in sides]
        if values[0] != values[1]:
            lines.append(f"config: {key}: {values[0]} against {values[1]}")
    return lines or ["config: equal"]
