"""The steps ahead of a run: whether they have a learning rate, and the command that trains on with one.

A schedule is made for the length that a run begins with. A longer run needs another schedule: after its end the rate is
0 or the floor, and the steps change nothing, or nearly nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.command_line import changing_command
from trainer.config.complete import epochs_to_steps
from trainer.config.override import Change
from trainer.config.schema import Config
from trainer.config.schema.optimization import (
    ConstantScheduleConfig,
    CosineScheduleConfig,
    EndingScheduleConfig,
    ScheduleConfig,
)
from trainer.errors import RestoreRefused, UsageError
from trainer.fingerprint.verdict import Request
from trainer.training.schedules import learning_rate_at

# A rate below this share of the peak changes no float32 weight: Adam's updates are about as large as the rate.
NOTHING = 1e-8
# A rate that is worth training with; below it, a shorter schedule or a constant rate is meant.
WORTHWHILE = 1e-3
# The last steps of any schedule that ends at 0 have next to no rate. More than this share of a run is a mistake.
USUAL_TAIL = 0.01
CONSTANT_SHARE = 0.1  # of the peak, for a run that goes on after its schedule: it has converged at far less
CONSENTS = ("schedule", "schedule.decay_steps")


@dataclasses.dataclass(frozen=True)
class Ahead:
    """The steps ``first`` to ``total - 1``, numbered from 0, of a run with a complete ``config``."""

    config: Config
    first: int
    total: int

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        config = self.config
        number = tf.constant(step, tf.int64)
        return float(learning_rate_at(number, config.optimizer.learning_rate, config.schedule).numpy())

    def without_rate(self) -> int:
        """The step from which on no step has a learning rate; ``total`` when the last has one, or when so few have none
        as with any schedule that ends at 0.
        """
        if self.first >= self.total or not self._is_nothing(self.total - 1):
            return self.total
        low, high = self.first, self.total - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_nothing(middle) else (middle + 1, high)
        few = max(1, int(USUAL_TAIL * (self.total - self.first)))
        return low if self.total - low > few else self.total

    def has_ended(self) -> bool:
        """Whether the schedule's end lies before these steps, which all have its floor as their rate."""
        schedule = self.config.schedule
        if not isinstance(schedule, EndingScheduleConfig) or self.first >= self.total:
            return False
        assert schedule.decay_steps is not None
        rates = {self.rate(step) for step in (self.first, (self.first + self.total) // 2, self.total - 1)}
        return schedule.decay_steps <= self.first and len(rates) == 1 and not self._rises()

    def _rises(self) -> bool:
        """Whether the warm-up goes on, which has no end of its own."""
        assert self.config.schedule.warmup_steps is not None
        return self.first + 1 < self.config.schedule.warmup_steps

    def is_worthwhile(self) -> bool:
        """Whether some of these steps have a rate to train with, and not too many have none."""
        steps = range(self.first, self.total, max(1, (self.total - self.first) // 16))
        peak = self.config.optimizer.learning_rate
        return self.without_rate() == self.total and max(map(self.rate, steps)) >= WORTHWHILE * peak

    def _is_nothing(self, step: int) -> bool:
        return self.rate(step) <= NOTHING * self.config.optimizer.learning_rate


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Keys that give the steps ahead a learning rate, and the names that consent to them."""

    meaning: str
    changes: dict[str, Any]
    consents: tuple[str, ...]


def remedies(ahead: Ahead) -> list[Remedy]:
    """The ways to train the steps ahead with a learning rate, the likeliest meaning first."""
    config, total = ahead.config, ahead.total
    found = []
    if isinstance(config.schedule, EndingScheduleConfig):
        longer = _with_schedule(ahead, dataclasses.replace(config.schedule, decay_steps=total))
        if longer.is_worthwhile():
            meaning = f"to stretch the schedule to step {total}, from learning rate {longer.rate(ahead.first):.3g} on:"
            found.append(Remedy(meaning, {"schedule.decay_steps": total}, ("schedule.decay_steps",)))
    rate = float(f"{CONSTANT_SHARE * config.optimizer.learning_rate:.6g}")
    meaning = f"to train on with a constant learning rate, such as {CONSTANT_SHARE:g} of the peak:"
    changes = {"schedule": "constant", "optimizer.learning_rate": rate}
    return [*found, Remedy(meaning, changes, ("schedule", "optimizer.learning_rate"))]


def longer(run_dir: Path, config: Config, step: int, total: int, examples_per_epoch: int, patience_used: int) -> str:
    """The command that trains a run on which has ended at ``step`` of ``total``. ``patience_used`` counts the
    validations without improvement.
    """
    changes: dict[str, Any] = {}
    consents: list[str] = []
    patience = config.early_stopping.patience
    if patience is not None and patience_used >= patience:
        changes["early_stopping.patience"] = patience_used + patience
        consents.append("early_stopping.patience")
    if step >= total:
        total = 2 * step or epochs_to_steps(1, config, examples_per_epoch)
        changes["train.steps"] = total
    ahead = Ahead(config, step, total)
    if not ahead.is_worthwhile() or ahead.has_ended():
        remedy = remedies(ahead)[0]
        changes |= remedy.changes
        consents += remedy.consents
    return changing_command(run_dir, changes, consents)


def check_new(config: Config, total: int) -> list[str]:
    """Refuse a new run in which no step has a learning rate. Returns warnings about one in which many have none.

    Raises:
        UsageError: says which key decides it.
    """
    ahead = Ahead(config, 0, total)
    peak, idle = config.optimizer.learning_rate, ahead.without_rate()
    if idle == 0 < total:
        raise UsageError(
            f"no step of this run has a learning rate: optimizer.learning_rate={peak:g} with {_schedule(config)} gives "
            f"{ahead.rate(0):g} at the first step and {ahead.rate(total - 1):g} at the last\n"
            "choose another schedule, such as schedule=constant, or a higher optimizer.learning_rate"
        )
    return [_idle_steps(ahead, idle)] if idle < total else []


def check_continued(ahead: Ahead, changes: Sequence[Change], allow: Sequence[str], request: Request) -> list[str]:
    """Refuse to train on without a learning rate, or after the end of the schedule, when ``changes`` make the run do
    so. ``schedule`` in ``allow`` accepts the stored schedule. Of one that is asked for, which needs that name in any
    case, it accepts the floor, but not a rate of 0. Returns warnings: a run that was begun so goes on, as if it had not
    been interrupted.

    Raises:
        RestoreRefused: says what the rates would be, and has the commands that may be meant.
    """
    idle, ended = ahead.without_rate(), ahead.has_ended()
    if idle == ahead.total and not ended:
        return []
    asked = [*request.values, *(change.path for change in changes)]
    names_one = any(key == "schedule" or key.startswith("schedule.") for key in asked)
    accepted = bool(set(allow) & set(CONSENTS)) and not (names_one and idle < ahead.total)
    if accepted or not any(_decides_rates(change.path) for change in changes):
        return [_idle_steps(ahead, idle)] if idle < ahead.total else []
    given = {key: value for key, value in request.values.items() if not _is_length(key)}
    given["train.steps"] = ahead.total
    lines = []
    for remedy in remedies(ahead):
        replaced = [*remedy.changes, *("schedule." for key in remedy.changes if key == "schedule")]
        others = {key: value for key, value in given.items() if not key.startswith(tuple(replaced))}
        names = dict.fromkeys([*allow, *remedy.consents])
        command = changing_command(request.run_dir, others | remedy.changes, names, *request.checkpoint)
        lines += [remedy.meaning, f"  {command}"]
    if idle == ahead.total:
        names = dict.fromkeys([*allow, "schedule"])
        floor = changing_command(request.run_dir, given, names, *request.checkpoint)
        lines += [f"to train on at learning rate {ahead.rate(ahead.first):.3g}, the floor:", f"  {floor}"]
        what = f"has ended, and all of steps {ahead.first + 1} to {ahead.total} would have its floor as learning rate"
    else:
        what = f"gives steps {idle + 1} to {ahead.total} learning rate {ahead.rate(ahead.total - 1):.2g}"
    raise RestoreRefused(
        f"{request.run_dir} at step {ahead.first}: {_schedule(ahead.config)} {what}; nothing was restored or changed\n"
        + "\n".join(lines)
    )


def _with_schedule(ahead: Ahead, schedule: ScheduleConfig) -> Ahead:
    return dataclasses.replace(ahead, config=dataclasses.replace(ahead.config, schedule=schedule))


def _is_length(path: str) -> bool:
    return path in ("train.steps", "train.epochs")


def _decides_rates(path: str) -> bool:
    return _is_length(path) or path.startswith("schedule.") or path == "optimizer.learning_rate"


def _schedule(config: Config) -> str:
    """A schedule in words: its name, and the keys that decide its end."""
    schedule = config.schedule
    if isinstance(schedule, ConstantScheduleConfig):
        return "schedule=constant"
    steps = f" schedule.decay_steps={schedule.decay_steps}" if hasattr(schedule, "decay_steps") else ""
    floor = ""
    if isinstance(schedule, CosineScheduleConfig):
        floor = f" schedule.minimum_fraction={schedule.minimum_fraction:g}"
    return f"schedule={schedule.name}{steps}{floor}"


def _idle_steps(ahead: Ahead, idle: int) -> str:
    return (
        f"steps {idle + 1} to {ahead.total} have learning rate {ahead.rate(ahead.total - 1):.2g} and train "
        f"nothing ({_schedule(ahead.config)})"
    )
