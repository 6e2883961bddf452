"""Fills in, once, the values that depend on the data or the machine, so that a stored configuration is complete."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping

from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.config.schema.optimization import EndingScheduleConfig, ExponentialScheduleConfig


def total_steps(config: Config, examples_per_epoch: int) -> int:
    """Length of the run in optimizer steps: ``train.steps``, else ``train.epochs`` rounded up to a step."""
    if config.train.steps is not None:
        return config.train.steps
    return epochs_to_steps(config.train.epochs, config, examples_per_epoch)


def epochs_to_steps(epochs: float, config: Config, examples_per_epoch: int) -> int:
    # rounded first: 0.1 * 30 examples must not become 4 of 3.0000000000000004
    return math.ceil(round(epochs * examples_per_epoch / config.train.global_batch_size, 6))


def complete(config: Config, examples_per_epoch: int, num_classes: int) -> Config:
    """``config`` with every ``completed`` key filled in. Keys that have a value keep it."""
    schedule = config.schedule
    if schedule.warmup_steps is None:
        warmup = epochs_to_steps(schedule.warmup_epochs, config, examples_per_epoch)
        schedule = dataclasses.replace(schedule, warmup_steps=warmup)
    if isinstance(schedule, ExponentialScheduleConfig) and schedule.decay_steps is None:
        period = epochs_to_steps(schedule.decay_epochs, config, examples_per_epoch)
        schedule = dataclasses.replace(schedule, decay_steps=max(1, period))
    elif isinstance(schedule, EndingScheduleConfig) and schedule.decay_steps is None:
        schedule = dataclasses.replace(schedule, decay_steps=max(1, total_steps(config, examples_per_epoch)))
    evaluation = config.evaluation
    if evaluation.every_steps is None:
        cadence = max(1, epochs_to_steps(evaluation.every_epochs, config, examples_per_epoch))
        evaluation = dataclasses.replace(evaluation, every_steps=cadence)
    model = with_initial_updates(config, 0).model
    if model.num_classes is None:
        model = dataclasses.replace(model, num_classes=num_classes)
    runtime = config.runtime
    if runtime.threads is None:
        runtime = dataclasses.replace(runtime, threads=len(os.sched_getaffinity(0)))
    completed = dataclasses.replace(config, schedule=schedule, evaluation=evaluation, model=model, runtime=runtime)
    missing = [path for path, value, fact in leaves(completed) if fact.completed and value is None]
    assert not missing, f"keys left incomplete: {missing}"
    return completed


def with_initial_updates(config: Config, updates: int) -> Config:
    """``config`` with ``model.batch_norm.initial_updates`` filled in, if it is null."""
    model = config.model
    if model.batch_norm.initial_updates is not None:
        return config
    batch_norm = dataclasses.replace(model.batch_norm, initial_updates=updates)
    return dataclasses.replace(config, model=dataclasses.replace(model, batch_norm=batch_norm))


def with_leaves(config: Config, changes: Mapping[str, object]) -> Config:
    """``config`` with the leaves at the given dotted keys replaced."""

    def rebuild(node: object, path: str) -> object:
        assert dataclasses.is_dataclass(node)
        assert not isinstance(node, type)
        values = {}
        for field in dataclasses.fields(node):
            dotted = f"{path}.{field.name}" if path else field.name
            value = getattr(node, field.name)
            values[field.name] = value
            if dataclasses.is_dataclass(value):
                values[field.name] = rebuild(value, dotted)
            elif isinstance(value, Mapping):
                values[field.name] = {name: rebuild(each, f"{dotted}.{name}") for name, each in value.items()}
            if dotted in changes:
                values[field.name] = changes[dotted]
        return dataclasses.replace(node, **values)

    rebuilt = rebuild(config, "")
    assert isinstance(rebuilt, Config)
    return rebuilt
