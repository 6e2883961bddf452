"""What the main thread of a process is doing, noted for the watchdog, in front of the account of the wall time."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.run.hang import REMEMBERED
from trainer.run_directory.costs import Costs, SaveCost
from trainer.run_directory.phases import Phase
from trainer.training.interfaces import Clock


class Watched:
    """A ``Clock`` that also notes the phase, the progress in it, and how long steps take. ``now`` is the time of the
    watchdog, in which a suspended process does not grow older. Every call is passed on to the clock that ``follow``
    names.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._clock: Clock | None = None
        self.state: Phase = "starting"
        self.beats = 0
        self.steps: deque[float] = deque(maxlen=REMEMBERED)  # seconds of the last steps, without other phases
        self.batches: deque[float] = deque(maxlen=REMEMBERED)  # of the last batches of validations
        self.step: int | None = None  # the last one
        self._since = now()
        self._trained = 0.0  # seconds since the last step, in the phase of training
        self._traced = True  # since the last step, so that one says nothing about others

    def follow(self, clock: Clock) -> None:
        self._clock = clock

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        before = self.state
        self._switch(phase)
        try:
            with contextlib.nullcontext() if self._clock is None else self._clock.phase(phase):
                yield
        finally:
            self._switch(before)

    def looping(self) -> None:
        self._switch("training")
        if self._clock is not None:
            self._clock.looping()

    def at(self, step: int) -> None:
        self._switch(self.state)
        if not self._traced:
            self.steps.append(self._trained)
        self._trained, self._traced, self.step = 0.0, False, step
        if self._clock is not None:
            self._clock.at(step)

    def progress(self) -> None:
        if self.state == "validating":
            self.batches.append(self._now() - self._since)
        self._switch(self.state)
        if self._clock is not None:
            self._clock.progress()

    def saved(self) -> None:
        if self._clock is not None:
            self._clock.saved()

    @property
    def earlier(self) -> Costs:
        return Costs() if self._clock is None else self._clock.earlier

    def measured(self, cost: SaveCost) -> None:
        if self._clock is not None:
            self._clock.measured(cost)

    def start_seconds(self) -> float:
        return 0.0 if self._clock is None else self._clock.start_seconds()

    def _switch(self, phase: Phase) -> None:
        now = self._now()
        if self.state == "training":
            self._trained += now - self._since
        self._traced = self._traced or phase == "tracing"
        self.state, self._since = phase, now
        self.beats += 1
