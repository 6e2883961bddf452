"""What is due at a step: a pure decision, from the facts about the step alone.

Nothing here remembers anything. A run that was interrupted between a validation and a save therefore makes up for what
is missing when it resumes, and does nothing twice.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cadence:
    """When a run validates, saves and ends, in steps. ``save_every`` is None where saves follow time alone.
    ``saves_best``: a new best validation is saved at once.
    """

    total: int
    validate_every: int
    save_every: int | None
    saves_best: bool

    def saves_at(self, step: int) -> bool:
        """Whether a save is due by steps."""
        return self.save_every is not None and step % self.save_every == 0


@dataclasses.dataclass(frozen=True)
class Standing:
    """What is known after ``step`` steps."""

    step: int
    noted: int  # the step of the last validation that is in the state
    committed: int | None  # the step of the last checkpoint, committed or on its way; None without any
    recorded: bool  # the history holds a validation of this step
    improved: bool  # this process has validated this step, and it is the best so far
    out_of_patience: bool
    stop_asked: bool
    long_since_saved: bool = False  # a save is due by time, which decides where a save is, and no more


@dataclasses.dataclass(frozen=True)
class Due:
    """What to do before the next step, in this order."""

    validate: bool
    save: bool
    stop: bool  # end because a stop was asked for, with work left to do
    finish: bool  # end because the run is complete
    closing: bool  # a validation of this step is made only because the run ends here

    @property
    def end(self) -> bool:
        """Whether the process ends here, for whatever reason."""
        return self.stop or self.finish


def due(standing: Standing, cadence: Cadence) -> Due:
    """Decide what is due.

    A request to stop postpones a validation to the resumed run, and a save follows. A closing validation leaves no
    trace in the state: a longer run that continues from here must equal one that never ended.
    """
    step = standing.step
    complete = step >= cadence.total or standing.out_of_patience
    on_cadence = step > 0 and step % cadence.validate_every == 0
    closing = complete and step > 0 and not on_cadence
    pending = (on_cadence and standing.noted != step) or (closing and not standing.recorded)
    stop = standing.stop_asked and (pending or not complete)
    wanted = complete or standing.stop_asked or (step > 0 and (cadence.saves_at(step) or standing.long_since_saved))
    return Due(
        validate=pending and not standing.stop_asked,
        save=(wanted or (standing.improved and cadence.saves_best)) and standing.committed != step,
        stop=stop,
        finish=complete and not stop,
        closing=closing,
    )
