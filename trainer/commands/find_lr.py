"""``find-lr``: which learning rate suits a run, by a range test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.arguments import take_list
from trainer.commands.consenting import offering
from trainer.commands.newest import read_newest
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose_run
from trainer.errors import UsageError, measure, nearest, warn
from trainer.report import rate_page
from trainer.report.rate_page import Curve
from trainer.run_directory.places import refuse_output, refuse_replacing
from trainer.runtime.importing import importing_tensorflow

if TYPE_CHECKING:
    from trainer.run.rate_range_test import Range, Subject
    from trainer.training.rate_range import Finding, Tried

FILE_NAME = "learning-rates.html"
LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
HELP = f"""Find a learning rate: train a copy of a run's state at rising rates, and see where the loss falls and leaves.

  python -m trainer find-lr run_dir=DIR [checkpoint=latest|best|step-N|PATH] [steps={STEPS}] [lowest={LOWEST:g}]
                            [highest={HIGHEST:g}] [output=PATH] [allow=[…]]
  python -m trainer find-lr key=value … [steps={STEPS}] [lowest={LOWEST:g}] [highest={HIGHEST:g}] [output=PATH]

With run_dir= and a run there, the test begins at its checkpoint; otherwise the arguments are those of train, and it
begins as that run would. Each step has a higher rate than the one before, from lowest to highest. The test ends early
when the loss has left for good.

It suggests a tenth of the rate at which the smoothed loss is lowest, and prints the command that uses it. Where the
losses tell no rate, it says why and suggests none. The curve is drawn in output, {FILE_NAME} in the current directory
unless it is named.

Nothing is changed: the state is a copy in memory, the run is not locked, and it may be training meanwhile."""
OWN = ("checkpoint", "steps", "lowest", "highest", "output")
ROWS = 12  # of the table


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    own = [text for text in arguments if text.partition("=")[0] in OWN]
    values = parse_arguments(own)
    rest = [text for text in arguments if text not in own]
    given = _run_dir(rest)
    output = [Path(text) for text in take_list(values, "output")]
    page = output[0] if output else Path(FILE_NAME)
    named = f"output={page}" if output else f"the curve {page}"
    refuse_output(page, named)
    refuse_replacing(page, named)
    checkpoint = str(values.pop("checkpoint")) if "checkpoint" in values else None
    if checkpoint is not None and given is None:
        raise UsageError("checkpoint= is one of a run: find-lr needs run_dir=DIR with it")
    lowest, highest = _rate(values, "lowest", LOWEST), _rate(values, "highest", HIGHEST)
    steps = values.pop("steps", STEPS)
    if type(steps) is not int or steps < rate_page.LEAST:
        raise UsageError(f"steps={steps} must be an integer of at least {rate_page.LEAST}")
    if not lowest < highest:
        raise UsageError(f"lowest={lowest:g} must be below highest={highest:g}")
    if given is None:
        invocation, config = compose_run(rest)
        with importing_tensorflow():
            from trainer.run import rate_range_test  # imports TensorFlow, which is slow

        wanted = rate_range_test.Range(lowest, highest, steps)
        subject = rate_range_test.of_new_run(invocation, config)
        tried, found = _test(subject, wanted)
        way = None if found.rate is None else rate_range_test.command_for_new_run(found.rate, invocation, config)
        title = f"Learning rates of {config.experiment}, from the start"
    else:
        allow = _of_run(rest)
        with importing_tensorflow():
            from trainer.run import rate_range_test

        place, chosen, wanted = given, checkpoint or "latest", rate_range_test.Range(lowest, highest, steps)
        with offering("find-lr", arguments):
            subject = read_newest(lambda: rate_range_test.of_run(place, chosen, allow), place)
        step = subject.step
        tried, found = _test(subject, wanted)
        way = None if found.rate is None else rate_range_test.command_for_run(found.rate, place, chosen, subject, step)
        title = f"Learning rates of {place} at step {step}"
    lines = _lines(found, way)
    losses = [each.loss for each in tried]
    curve = Curve(title, [each.rate for each in tried], losses, found.smoothed, found.rate, lines)
    rate_page.write(page, curve)
    _print(tried, found)
    print("\n".join(lines))
    print(page)
    return 0


def _run_dir(arguments: Sequence[str]) -> Path | None:
    """The run that an argument names and that is there; None where the arguments describe a new one."""
    named = [text for text in arguments if text.startswith("run_dir=")]
    if not named:
        return None
    place = Path(str(parse_arguments(named[-1:])["run_dir"]))
    others = [text for text in arguments if not text.startswith(("run_dir=", "allow="))]
    return None if others and not place.exists() else place


def _of_run(arguments: Sequence[str]) -> list[str]:
    """``allow`` among the arguments of a run that is there.

    Raises:
        UsageError: there are others. They would make it another run.
    """
    values = parse_arguments(arguments)
    values.pop("run_dir")
    allow = take_list(values, "allow")
    for key, value in values.items():
        raise UsageError(
            f"{key}={value}: the run that run_dir names is there, with a configuration of its own{nearest(key, OWN)}\n"
            "leave the argument out, or leave run_dir out to test a new run"
        )
    return allow


def _rate(values: dict[str, object], name: str, otherwise: float) -> float:
    value = values.pop(name, otherwise)
    if type(value) not in (int, float) or not 0.0 < float(str(value)) < math.inf:
        raise UsageError(f"{name}={value} must be a number above 0")
    return float(str(value))


def _test(subject: Subject, wanted: Range) -> tuple[list[Tried], Finding]:
    from trainer.data.sources.progress import tracked
    from trainer.training.rate_range import judge

    for text in (*subject.prepared.notes, *subject.prepared.warnings):
        warn(text.removeprefix("warning: "))
    print(f"{wanted.steps} steps at learning rates from {wanted.lowest:g} to {wanted.highest:g}", flush=True)
    tried = list(tracked(subject.tried(wanted), "training a copy", wanted.steps))
    return tried, judge(tried)


def _lines(found: Finding, way: tuple[str, str] | None) -> list[str]:
    if way is None:
        return [f"no learning rate is suggested: {found.reason}"]
    what, command = way
    return [f"suggested learning rate: {found.rate:g}, {found.reason}", f"{what}:", f"  {command}"]


def _print(tried: Sequence[Tried], found: Finding) -> None:
    """Some of the steps, evenly spaced, and the last."""
    print("learning rate  loss      smoothed")
    stride = max(1, math.ceil(len(tried) / ROWS))
    for number, each in enumerate(tried):
        if number % stride == 0 or number == len(tried) - 1:
            smoothed = measure(found.smoothed[number]) if number < len(found.smoothed) else ""
            print(f"{each.rate:<13.2e}  {measure(each.loss):<8}  {smoothed}".rstrip())
