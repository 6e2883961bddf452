"""``verify``: whether the checkpoints of a run are as they were written, and whether training again leads to them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import FILE_NAME, Manifest
from trainer.checkpoint.verification import Vanished, foreign_note, reading, verify
from trainer.command_line import argument, command_line, with_variable
from trainer.commands.arguments import refuse_rest, take_text
from trainer.commands.wrapping import wrapped
from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.complete import with_leaves
from trainer.config.parse import leaves
from trainer.config.ranges import to_range
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, RestoreRefused, UsageError, warn
from trainer.run_directory import which_checkpoint
from trainer.run_directory.layout import CHECKPOINTS
from trainer.runtime.importing import importing_tensorflow
from trainer.storage.unreadable import Unreadable

SKIP = "train.skip_examples"
SHOWN = 5
KNOWN = ("run_dir", "checkpoint", "replay")
HELP = f"""Check the checkpoints of a run, and with replay=true that training leads from one to the next.

  python -m trainer verify run_dir=DIR [checkpoint=latest|best|step-N|PATH] [replay=true]

Every file is compared with its SHA-256, and damage is named down to the tensor. Files that the manifest does not name
are listed, but are not damage. checkpoint= checks one checkpoint. The run may be training meanwhile: nothing is locked,
nothing is written into it, and a checkpoint that it deletes is not an error. replay=true trains again, in a temporary
directory, from a checkpoint (the last but one, or checkpoint=) to the next kept one, and compares every tensor, bit for
bit. This shows corruption, nondeterminism and a changed environment. Exit status 0,
{NoValidCheckpoint.exit_status} when a checkpoint is damaged or cannot be read, or there is none,
{RestoreRefused.exit_status} when the replay ends in another state."""


@dataclasses.dataclass(frozen=True)
class Leg:
    """A stretch of training between two checkpoints of a run; ``config`` trains from the first to the second."""

    start: Path
    end: Path
    config: Config
    consents: tuple[str, ...]  # the changes that were allowed when the run continued from the first


@dataclasses.dataclass(frozen=True)
class Entry:
    """A checkpoint of the run, with its own manifest and configuration."""

    path: Path
    manifest: Manifest
    config: Config


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments(arguments)
    run_dir = Path(take_text(values, "run_dir", "verify"))
    chosen = str(values.pop("checkpoint")) if "checkpoint" in values else None
    replay = values.pop("replay") if "replay" in values else False
    refuse_rest(values, KNOWN, "verify")
    if not isinstance(replay, bool):
        raise UsageError(f"replay={replay} must be true or false")
    which_checkpoint.refuse_missing(run_dir)
    parent = run_dir / CHECKPOINTS
    if chosen is None:
        which_checkpoint.refuse_foreign_run(run_dir)
    place = None if chosen is None else which_checkpoint.named(run_dir, chosen, "full", warn)
    if place is not None:
        which_checkpoint.refuse_foreign(place, f"checkpoint={chosen}")
    if not _check(parent, place):
        return NoValidCheckpoint.exit_status
    if replay:
        _replay(_leg(parent, place))
    return 0


def _check(parent: Path, chosen: Path | None) -> bool:
    """Verify and print a line for each checkpoint; True when all that still exist are whole."""
    paths = directory.committed(parent) if chosen is None else [chosen]
    whole, damaged, unreadable = 0, 0, 0
    for path in paths:
        try:
            manifest = verify(path, "full")
        except Vanished:
            print(f"{path.name}  its run has deleted it meanwhile")
        except NoValidCheckpoint as error:
            damaged += 1
            print(f"{path.name}  DAMAGED\n  {error}")
        except Unreadable as error:
            unreadable += 1
            print(f"{path.name}  CANNOT BE READ\n  {error}")
        else:
            whole += 1
            size = sum(manifest.sizes.values()) / 1e6
            print(f"{path.name}  ok  {len(manifest.files)} files, {size:.1f} MB, made {manifest.created}")
            for note in foreign_note(path, manifest):
                print(f"  {note}")
    away = directory.put_away(parent)
    if away:
        print(f"{len(away)} more are in {directory.QUARANTINE}/ and {directory.SUPERSEDED}/, which were not checked")
    if not paths:
        raise NoValidCheckpoint(f"{parent} holds no checkpoint")
    print(f"{whole} whole, {damaged} damaged{f', {unreadable} cannot be read' if unreadable else ''}")
    return damaged == unreadable == 0


def _leg(parent: Path, chosen: Path | None) -> Leg:
    """The stretch to train again: the one after the chosen checkpoint, or the last one of the run."""
    entries = []
    for path in directory.committed(parent):
        try:
            with reading(path):
                manifest = manifests.read(path / FILE_NAME)
                entries.append(Entry(path, manifest, stored.read(path / stored.FILE_NAME)))
        except Vanished:
            continue
    ends = [number for number, entry in enumerate(entries) if number > 0 and not _was_interrupted(entry)]
    if chosen is None:
        pairs = [(end - 1, end) for end in reversed(ends)]
    else:
        start = chosen.resolve()
        pairs = [
            (number, end) for number, entry in enumerate(entries) for end in ends
            if entry.path.resolve() == start and end > number
        ]  # fmt: skip
    if not pairs:
        since = "" if chosen is None else f" from {chosen.name} on"
        raise NoValidCheckpoint(
            f"there is nothing to replay in {parent}{since}: a replay needs a later checkpoint, "
            "and one that a signal committed before the validation of its step does not count"
        )
    first, last = pairs[0]
    return _stretch(entries[first], entries[last])


def _was_interrupted(entry: Entry) -> bool:
    """Whether a signal committed the step before its validation. Then a replay would not end in this state."""
    cadence = entry.config.evaluation.every_steps
    assert cadence is not None, "a stored configuration is complete"
    return entry.manifest.validation is None and entry.manifest.step > 0 and entry.manifest.step % cadence == 0


def _stretch(start: Entry, end: Entry) -> Leg:
    """The training from ``start`` to ``end``, as the run did it.

    Raises:
        UsageError: the run was changed in between, so no one configuration leads from ``start`` to ``end``.
    """
    step = end.manifest.step
    free = {path for path, _, fact in leaves(end.config) if fact.resume == "free"}
    consents: list[str] = []
    more = end.config.train.skip_examples[len(start.config.train.skip_examples) :]
    # then it makes no difference that the stretch began without them
    skipped_later = all(to_range(SKIP, entry).start >= start.manifest.examples for entry in more)
    for begun in end.manifest.lineage:
        accepted = [text.partition(":")[0] for text in begun.changes if text.partition(":")[0] not in free]
        if SKIP in accepted and skipped_later:
            consents.append(SKIP)
            accepted.remove(SKIP)
        if start.manifest.step < begun.from_step < step and accepted:
            raise UsageError(
                f"the run was resumed at step {begun.from_step} with {'; '.join(begun.changes)}\n"
                f"so no one configuration leads from {start.path.name} to {end.path.name}; choose another checkpoint="
            )
        if begun.from_step == start.manifest.step:
            consents += accepted
    quiet = {
        "train.steps": step,
        "checkpoint.every_steps": step + 1,  # the end is committed in any case
        "checkpoint.every_minutes": None,
        "checkpoint.keep_best": 0,
        "checkpoint.mirror": None,
        "tracking.trackers": (),
    }
    return Leg(start.path, end.path, with_leaves(end.config, quiet), tuple(consents))


def _replicas(checkpoint: Path) -> str | None:
    """The replicas that made a checkpoint; None where an earlier version did not record them."""
    versions = manifests.read(checkpoint / FILE_NAME).versions
    return versions["replicas"] if "replicas" in versions else None


def _temporary_directory(run_dir: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="trainer-replay-")
    except OSError as error:
        again = command_line("verify", argument("run_dir", run_dir), "replay=true")
        command = with_variable("TMPDIR", run_dir.absolute().parent, again)
        raise UsageError(
            f"a replay trains in the temporary directory {tempfile.gettempdir()}, which cannot be written: "
            f"{error.strerror}\nname another one, such as the place of the run:\n  {command}"
        ) from error


def _replay(leg: Leg) -> None:
    """Train the stretch again.

    Raises:
        RestoreRefused: it ends in another state, or this program or data may not continue from its start.
    """
    print(f"training again from {leg.start.name} to {leg.end.name}, in a temporary directory", flush=True)
    with importing_tensorflow():
        from trainer.checkpoint.differences import differing_tensors
        from trainer.run import session  # imports TensorFlow, which is slow

    with _temporary_directory(leg.start.parent.parent) as place, reading(leg.start), reading(leg.end):
        with contextlib.redirect_stdout(io.StringIO()):  # a run's output about a temporary directory
            made = session.replay(leg.start, leg.config, leg.consents, Path(place) / "run")
        differences = differing_tensors(leg.end, made)
        layouts = [_replicas(path) for path in (leg.end, made)]
    bound = leg.config.train.logical_replicas is None  # to the number of replicas
    if differences and bound and None not in layouts and layouts[0] != layouts[1]:
        raise UsageError(
            f"{leg.end.name} was made by replicas: {layouts[0]}, and here there are: {layouts[1]}; so the last bits "
            "differ in any case, and the replay shows nothing\n"
            "to replay it, run this on a machine with as many devices, in one process"
        )
    if differences:
        raise RestoreRefused(
            "\n".join(
                [
                    f"training again from {leg.start.name} does not end in {leg.end.name}: "
                    f"{len(differences)} tensors differ (stored against made again)",
                    *(f"  {difference}" for difference in differences[:SHOWN]),
                    "a step is not deterministic here, the machine or a library has changed, or the stored state was "
                    "changed together with its digests",
                ]
            )
        )
    print(f"training again from {leg.start.name} ends in {leg.end.name}: bitwise equal")
