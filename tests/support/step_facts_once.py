"""The facts of a step, found once for all configurations whose steps do the same.

A resume runs a step of the probe, which takes most of its time. For a test that edits no code of a step, what another
test has found is what it would find.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

from trainer.config.schema import Config
from trainer.fingerprint import collect, probe
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.step import evaluation_facts, step_facts
from trainer.run import restore

# What no step depends on: the facts are found without, so a step that begins to read one of these fails.
UNREAD: dict[str, Any] = {
    "experiment": None,
    "data": None,
    "preprocess": None,
    "early_stopping": None,
    "checkpoint": None,
    "profile": None,
}


def install(patch: pytest.MonkeyPatch) -> None:
    """This process finds the facts of equal steps once while ``patch`` lasts."""
    patch.setattr(collect, "step_facts", step_facts_once)
    for module in (collect, restore):
        patch.setattr(module, "evaluation_facts", evaluation_facts_once)


def step_facts_once(config: Config, auxiliary: bool) -> list[Fact]:
    return list(_step_facts(read_by_a_step(config), auxiliary))


def evaluation_facts_once(config: Config) -> list[Fact]:
    return list(_evaluation_facts(read_by_a_step(config)))


def read_by_a_step(config: Config) -> Config:
    """``config`` as the probe has it, without what no step reads."""
    config = probe.configuration(config)
    train = dataclasses.replace(config.train, epochs=None, steps=None, histograms_every_steps=None)
    evaluation = dataclasses.replace(config.evaluation, every_epochs=None, every_steps=None, batch_size=None)
    return dataclasses.replace(config, train=train, evaluation=evaluation, **UNREAD)


_step_facts = functools.cache(step_facts)
_evaluation_facts = functools.cache(evaluation_facts)
