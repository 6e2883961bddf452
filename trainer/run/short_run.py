"""What a run of a given length will not reach, because a constant was chosen for longer runs.

Each of these ends with exit status 0 and numbers that say less than they seem to, so the run says it when it starts.
"""

from __future__ import annotations

import math
from pathlib import Path

from trainer.command_line import argument, changing_command
from trainer.config.schema import Config
from trainer.config.schema.optimization import EndingScheduleConfig

LEFT = 0.05  # the largest share of its first values that an average may have at the end


def warnings(config: Config, total_steps: int, momentum: float, resumed: Path | None) -> list[str]:
    """Lines about settings of the complete ``config`` that mislead in a run of ``total_steps`` steps.

    ``momentum`` is the largest of the network's batch norm layers. ``resumed`` is the directory of a run that is
    continued, whose commands need consent; None for a new run.
    """
    if total_steps == 0:
        return []
    found = [
        *_statistics(config, total_steps, momentum, resumed),
        *_average(config, total_steps, resumed),
        *_learning_rate(config, total_steps, resumed),
        *_frozen(config, total_steps),
        *_patience(config, total_steps),
    ]
    for key, step, consequence in (
        ("profile", None if config.profile is None else config.profile[0], "nothing is profiled"),
        ("train.histograms_every_steps", config.train.histograms_every_steps, "there are no histograms"),
        ("checkpoint.keep_every_steps", config.checkpoint.keep_every_steps, "no checkpoint is kept for it"),
    ):
        if step is not None and step > total_steps:
            found.append(f"{key}: step {step} is after the last one, {total_steps}, so {consequence}")
    return found


def _statistics(config: Config, total_steps: int, momentum: float, resumed: Path | None) -> list[str]:
    norm, frozen, parts = config.model.batch_norm, config.fine_tuning.freeze_until_step, config.train.accumulate_steps
    updates = (total_steps - frozen) * parts
    if norm.warmup or updates <= 0 or momentum**updates <= LEFT:
        return []
    enough = frozen + math.ceil(math.log(LEFT) / math.log(momentum) / parts)
    key = "model.batch_norm.warmup=true"
    return [
        f"the batch norm statistics, which every validation uses, will have gone {_percent(1 - momentum**updates)} of "
        f"the way from their first values by step {total_steps}: their momentum, {momentum:g}, is for {enough} steps "
        f"and more\n{_settle(config, key, enough, resumed)}"
    ]


def _settle(config: Config, key: str, enough: int, resumed: Path | None) -> str:
    if resumed is None:
        return f"let it follow the length of the run: {key}"
    # a schedule that ends with the run as it is would give the further steps no learning rate
    schedule = ["schedule.decay_steps"] if isinstance(config.schedule, EndingScheduleConfig) else []
    changes = dict.fromkeys(["train.steps", *schedule], enough)
    return f"train on: {changing_command(resumed, changes, schedule)}\nor start a new run with {key}"


def _average(config: Config, total_steps: int, resumed: Path | None) -> list[str]:
    decay = config.ema.decay
    if decay is None or config.ema.warmup or decay**total_steps <= LEFT:
        return []
    return [
        f"the average of the weights will have gone {_percent(1 - decay**total_steps)} of the way from the first "
        f"weights by step {total_steps}: ema.decay={decay:g} is for longer runs\n"
        f"let it follow the length of the run: {_override('ema.warmup', True, resumed)}"
    ]


def _learning_rate(config: Config, total_steps: int, resumed: Path | None) -> list[str]:
    warmup = config.schedule.warmup_steps
    assert warmup is not None, "complete() fills it in"
    if warmup <= 1 or warmup < total_steps:
        return []
    return [
        f"the learning rate rises until the last step, {total_steps}, where it has {_percent(total_steps / warmup)} of "
        f"its peak: its warm-up takes {warmup} steps\n"
        f"shorten it: {_override('schedule.warmup_steps', total_steps // 10, resumed)}"
    ]


def _frozen(config: Config, total_steps: int) -> list[str]:
    frozen = config.fine_tuning.freeze_until_step
    if frozen < total_steps:
        return []
    return [
        f"fine_tuning.freeze_until_step={frozen} is not before the last step, {total_steps}, so this run trains the "
        "classifiers alone"
    ]


def _patience(config: Config, total_steps: int) -> list[str]:
    patience, every = config.early_stopping.patience, config.evaluation.every_steps
    assert every is not None, "complete() fills it in"
    # the first validation is what the next ones are compared with; one after the last step stops nothing
    if patience is None or (patience + 1) * every < total_steps:
        return []
    return [
        f"early_stopping.patience={patience} cannot end this run early: it takes {patience + 1} validations, one in "
        f"{every} steps, and the run ends at step {total_steps}"
    ]


def _override(key: str, value: bool | int, resumed: Path | None) -> str:
    if resumed is None:
        return argument(key, value)
    return changing_command(resumed, {key: value}, [key])


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.2g} %"
