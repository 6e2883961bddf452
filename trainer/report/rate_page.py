"""The page of a learning rate range test: one small file with the curve as a picture (SVG) and as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UsageError, measure
from trainer.report.parts import environment, part
from trainer.storage.durable import replace

LEAST = 10  # steps
WIDTH, HEIGHT = 800, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 15, 15, 45
RAISED = 1.5  # the picture ends at so many times the fall of the loss above where it began


@dataclasses.dataclass(frozen=True)
class Curve:
    """A range test: the ``rates`` in their order and the ``losses`` at them. ``smoothed`` may be shorter, where losses
    were not finite. ``lines`` are what is to be said about it.
    """

    title: str
    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggested: float | None
    lines: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A label on an axis, at its place in the picture."""

    at: float
    text: str


class Scale:
    """From rates and losses to places in the picture."""

    def __init__(self, curve: Curve) -> None:
        self.first, self.last = math.log10(curve.rates[0]), math.log10(curve.rates[-1])
        shown = [value for value in curve.smoothed if math.isfinite(value)] or [0.0]
        begin, self.lowest = shown[0], min(shown)
        fall = begin - self.lowest or abs(begin) or 1.0
        # what lies above is cut: the last losses of a test would leave nothing of the others to be seen
        self.highest = min(max(shown), begin + RAISED * fall)
        margin = 0.05 * (self.highest - self.lowest) or 1.0
        self.lowest, self.highest = self.lowest - margin, self.highest + margin

    def x(self, rate: float) -> float:
        share = (math.log10(rate) - self.first) / (self.last - self.first or 1.0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        share = (loss - self.lowest) / (self.highest - self.lowest)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    def decades(self) -> list[Mark]:
        powers = range(math.ceil(self.first - 1e-9), math.floor(self.last + 1e-9) + 1)
        return [Mark(self.x(10.0**power), f"1e{power}") for power in powers]

    def levels(self) -> list[Mark]:
        values = [self.lowest + (self.highest - self.lowest) * part / 4 for part in range(5)]
        return [Mark(self.y(value), measure(value)) for value in values]


def write(path: Path, curve: Curve) -> None:
    """Write the page.

    Raises:
        UsageError: ``path`` cannot be written.
    """
    try:
        replace(path, render(curve).encode("utf-8", errors="replace"))
    except OSError as error:
        raise UsageError(f"the curve cannot be written to {path}: {error.strerror}") from error


def render(curve: Curve) -> str:
    """The page as text."""
    scale = Scale(curve)
    points = [
        (scale.x(rate), scale.y(loss))
        for rate, loss in zip(curve.rates, curve.losses, strict=True)
        if math.isfinite(loss)
    ]
    smoothed = [(scale.x(rate), scale.y(loss)) for rate, loss in zip(curve.rates, curve.smoothed, strict=False)]
    rows = [
        (f"{rate:.3g}", measure(loss), measure(curve.smoothed[number]) if number < len(curve.smoothed) else "—")
        for number, (rate, loss) in enumerate(zip(curve.rates, curve.losses, strict=True))
    ]
    return environment().get_template("rate_page.html").render(
        title=curve.title,
        style=part("page.css"),
        width=WIDTH,
        height=HEIGHT,
        box=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        points=points,
        smoothed=" ".join(f"{x:.1f},{y:.1f}" for x, y in smoothed),
        suggested=None if curve.suggested is None else scale.x(curve.suggested),
        decades=scale.decades(),
        levels=scale.levels(),
        lines=curve.lines,
        rows=rows,
    )  # fmt: skip
