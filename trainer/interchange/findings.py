"""The findings of a diagnosis: causes, each with both values, where it shows and how to fix it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from trainer.errors import NoValidCheckpoint, RestoreRefused, TrainerError

NOTE = 0
MISMATCH = RestoreRefused.exit_status
DAMAGE = NoValidCheckpoint.exit_status
SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Finding:
    """One root cause.

    ``cause`` is a stable word for scripts. ``status`` is the exit status it leads to, 0 for a remark that stops
    nothing. ``title`` says what differs, with both values. ``details`` say where it shows and what follows from it.
    ``overrides`` are the ``key=value`` arguments that make the model fit the file. ``keys`` are the configuration keys
    whose difference it explains; one that ends in a dot is a section.
    """

    cause: str
    status: int
    title: str
    details: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def refusal(self, before: str = "") -> TrainerError:
        """The error that ends what cannot go on for it; ``before`` stands in front of the title."""
        kind = NoValidCheckpoint if self.status == DAMAGE else RestoreRefused
        return kind(before + "\n  ".join((self.title, *self.details)))

    def lines(self) -> list[str]:
        return [f"{self.cause}: {self.title}", *(f"  {detail}" for detail in self.details)]


class Unusable(Exception):
    """The file cannot be read, or must not be read; ``finding`` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.title)
        self.finding = finding


def listed(names: Iterable[str]) -> str:
    """The first few names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shape_text(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"
