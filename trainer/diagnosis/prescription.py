"""The command to run next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.verification import newest_valid
from trainer.command_line import argument, command_line, list_command, place_beside, resume_command
from trainer.diagnosis.own_checkpoint import OwnCheckpoint
from trainer.errors import NoValidCheckpoint
from trainer.interchange.findings import DAMAGE, MISMATCH, Finding
from trainer.run_directory.layout import CHECKPOINTS
from trainer.storage.unreadable import Unreadable

# the file fits, or will fit after a conversion
CONVERTED = ("name_based", "foreign_format", "channel_order", "ema_only", "optimizer")
CONVERT_FIRST = "after the command above, run doctor on what it wrote"
MISPLACED = ("foreign_directory", "directory_for_prefix", "file_for_prefix", "file_for_index", "state_file")


def next_command(
    path: Path, own: OwnCheckpoint | None, overrides: Sequence[str], findings: Sequence[Finding], *, foreign: bool
) -> str:
    """The command line to run next, given the findings about the checkpoint at ``path``."""
    damaged = any(finding.status == DAMAGE for finding in findings)
    mismatches = [finding for finding in findings if finding.status == MISMATCH]
    if own is not None and not foreign:
        return _own(path, own, damaged, [f for f in mismatches if f.cause != "prefix_for_directory"], overrides)
    if damaged:
        near = directory_of(path)
        return list_command(near) + "   # then fetch or copy the file again and run doctor once more"
    open_causes = [finding for finding in mismatches if finding.cause not in (*CONVERTED, *MISPLACED)]
    suggested = [override for finding in open_causes for override in finding.overrides]
    if suggested and all(finding.overrides for finding in open_causes):
        given = {override.partition("=")[0] for override in suggested}
        kept = [override for override in overrides if override.partition("=")[0] not in given]
        return command_line("doctor", argument("checkpoint", path), *kept, *suggested)
    if open_causes:
        pickled = any(finding.cause == "pickle" for finding in open_causes)
        return f"{list_command(directory_of(path.parent))}   # {CONVERT_FIRST}" if pickled else look_command(path)
    if path.is_dir() and any(finding.cause == "foreign_directory" for finding in mismatches):
        return list_command(path) + "   # nothing in it could be read: run doctor on a file that was converted"
    return command_line("train", argument("init_from", path), *overrides)


def state_command(path: Path, overrides: Sequence[str], findings: Sequence[Finding]) -> str:
    """The command line to run next, given the findings about a file with the whole state of a run."""
    if any(finding.status == DAMAGE for finding in findings):
        return next_command(path, None, overrides, findings, foreign=True)
    if any(finding.status for finding in findings) and not overrides:
        return look_command(path)
    return resume_command(place_beside(path, "continued"), argument("checkpoint", path))


def _own(path: Path, own: OwnCheckpoint, damaged: bool, mismatches: Sequence[Finding], overrides: Sequence[str]) -> str:
    run_dir = own.run_dir
    target = run_dir if run_dir is not None else place_beside(path, "continued")
    if damaged:
        good = _sibling(path)
        if good is not None and run_dir is not None:
            return command_line(
                "resume", argument("run_dir", run_dir), f"checkpoint={directory.name_of(directory.step_of(good))}"
            )
        return list_command(path.parent) + "   # then restore this checkpoint from a copy"
    if mismatches and not overrides:
        return look_command(path)
    return command_line("resume", argument("run_dir", target), argument("checkpoint", path))


def look_command(path: Path) -> str:
    """The command that lists what a file holds."""
    return command_line("inspect", argument("checkpoint", path))


def _sibling(path: Path) -> Path | None:
    """The newest valid checkpoint of the same run."""
    if path.absolute().parent.name != CHECKPOINTS or not (path.parent).is_dir():
        return None
    try:
        return newest_valid(path.parent, "full", lambda text: None).path
    except (NoValidCheckpoint, Unreadable):
        return None


def directory_of(path: Path) -> Path:
    """The nearest existing directory at or above ``path``."""
    return next(place for place in (path, *path.absolute().parents) if place.is_dir())
