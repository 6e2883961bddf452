"""Messages for the end of a run whose directory is no longer where its name says: what to do about it."""

from __future__ import annotations

import os

from trainer.checkpoint import directory
from trainer.command_line import move_command, resume_command
from trainer.storage.holding import Held


def way_on(held: Held, lost: Held, committed: int | None, step: int, failure: str | None) -> str:
    """What was saved of the run at ``step``, and the commands that continue it.

    ``held`` is the run directory. ``lost`` is the directory that is not in its place: the run directory itself or one
    inside it. ``committed`` is the step of the newest checkpoint. ``failure`` says why the current step has none.
    """
    place = lost.whereabouts()
    newest = "no checkpoint was committed" if committed is None else f"{directory.name_of(committed)} is committed"
    missing = _missing(committed, step, failure)
    if lost.is_deleted:
        last = "" if committed is None else f"the last checkpoint in it was {directory.name_of(committed)}"
        what = "; ".join(part for part in (last, missing) if part) or "nothing was committed in it"
        return (
            f"{what}\nput a copy of it, from a mirror or elsewhere, back to {lost.name}, and continue with:\n"
            f"  {resume_command(held.name)}"
        )
    here = f"{newest} there{f'; {missing}' if missing else ''}"
    if committed is None:
        return f"{here}\nstart the run again"
    if place is None:
        return f"{here}\nwhen it can be reached again, continue with:\n  {resume_command(held.name)}"
    if lost is held:
        return f"{here}\ncontinue with:\n  {resume_command(place)}"
    first = f" after you have moved away what is at {lost.name} now" if os.path.lexists(lost.name) else ""
    back = move_command(place, lost.name)
    return f"{here}\nput it back{first}, and continue with:\n  {back}\n  {resume_command(held.name)}"


def _missing(committed: int | None, step: int, failure: str | None) -> str:
    """The steps that are lost; empty when none are."""
    first = (committed or 0) + 1
    if step < first:
        return ""
    steps = f"step {step} is" if first == step else f"steps {first} to {step} are"
    return f"{steps} lost{f' ({failure})' if failure is not None else ''}"
