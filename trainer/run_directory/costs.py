"""What saves and starts have cost a run so far, and how often it failed: what the interval of checkpoints follows."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SaveCost:
    """A typical save, in seconds: what it took from training, and how long it was until the checkpoint was committed.
    A save that is written in the background takes little from training.
    """

    stall: float
    written: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the account of a run says.

    ``running`` is the seconds in which a process worked on it. ``failures`` is the number of lives that ended without
    closing the account, by a kill or a crash; the last life may still go on and does not count. ``starts`` has, of each
    life that made a step, the seconds until then. ``save`` is what the last life that measured it has noted.
    """

    running: float = 0.0
    failures: int = 0
    starts: tuple[float, ...] = ()
    save: SaveCost | None = None
