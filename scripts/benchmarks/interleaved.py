"""Blocks of several contenders in alternation, and the table of their medians and ratios.

A machine whose speed varies within a minute still gives a steady ratio of neighbouring blocks. Every round runs one
block of each contender, in another order each time. A ratio is the median over the rounds of (contender / baseline) in
the same round.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

OUTPUTS = Path("outputs/bench")
SETTLING_SECONDS = 0.5  # for background work of the last block to end


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure: its median, extremes and unit. ``ratio`` is relative to the table's baseline."""

    name: str
    median: float
    min: float
    max: float
    unit: str
    ratio: float | None


def cpu_seconds() -> float:
    """User and system time of this process and its living children."""
    process = psutil.Process()
    times = [process.cpu_times(), *(child.cpu_times() for child in process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@dataclasses.dataclass(frozen=True)
class Contender:
    """``block`` does ``amount`` of work and returns its wall seconds and CPU seconds, without the warm-up."""

    name: str
    block: Callable[[], tuple[float, float]]
    amount: float


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of ``work``."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return time.perf_counter() - wall, cpu_seconds() - cpu


Values = dict[str, list[float]]  # of a contender by its name, one for each round


def rates(contenders: Sequence[Contender], baseline: str, rounds: int, unit: str) -> list[Row]:
    """Amount per second of each contender, and its CPU seconds per 1,000 of the amount."""
    wall, cpu = measurements(contenders, rounds)
    return [
        *(row(name, values, f"{unit}/s", wall[baseline]) for name, values in wall.items()),
        *(row(f"{name}: CPU", values, f"s/1000 {unit}", cpu[baseline]) for name, values in cpu.items()),
    ]


def measurements(contenders: Sequence[Contender], rounds: int) -> tuple[Values, Values]:
    """As ``rates``, every value of every round."""
    wall: Values = {contender.name: [] for contender in contenders}
    cpu: Values = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turned = number % len(contenders)
        for contender in [*contenders[turned:], *contenders[:turned]]:
            time.sleep(SETTLING_SECONDS)
            seconds, used = contender.block()
            wall[contender.name].append(contender.amount / seconds)
            cpu[contender.name].append(1000 * used / contender.amount)
    return wall, cpu


def row(name: str, values: Sequence[float], unit: str, baseline: Sequence[float] | None = None) -> Row:
    """The row of one contender's values; ``baseline`` has values from the same rounds."""
    ratio = None
    if baseline is not None:
        ratio = statistics.median(value / other for value, other in zip(values, baseline, strict=True))
    return Row(name, statistics.median(values), min(values), max(values), unit, ratio)


def publish(subcommand: str, title: str, rows: Sequence[Row]) -> None:
    """Print the table and write ``outputs/bench/SUBCOMMAND.json``."""
    table = Table(title=title, caption=f"{platform.machine()}, {os.cpu_count()} cores; ratios are medians over rounds")
    for column in ("", "median", "min – max", "unit", "ratio"):
        table.add_column(column, justify="left" if column in ("", "unit") else "right")
    for each in rows:
        ratio = "" if each.ratio is None else f"{each.ratio:.3f}"
        table.add_row(each.name, f"{each.median:.4g}", f"{each.min:.4g} – {each.max:.4g}", each.unit, ratio)
    Console(width=120).print(table)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    content = {"rows": [dataclasses.asdict(each) for each in rows]}
    (OUTPUTS / f"{subcommand}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {OUTPUTS / subcommand}.json")
