"""What the fingerprint knows of a step: an edit in any module of it changes a fact that names the module, and what
only rounds otherwise changes none.
"""

from __future__ import annotations

import dataclasses
import random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import step_facts_once
import tensorflow as tf
from composing import compose
from step_edits import AVERAGE, EDITS, GROUPS, HALF, MEAN, MIXED, PARTS, RMSPROP, SMOOTHED, SUM, WARM_AVERAGE, edit

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.data.images import mixing
from trainer.distributed import replicas
from trainer.fingerprint import facts, probe
from trainer.fingerprint.facts import Fact, FactDifference
from trainer.fingerprint.imagined import two_replicas
from trainer.fingerprint.pieces import file_of, piece_facts
from trainer.fingerprint.step import evaluation_facts, step_facts
from trainer.models import layers
from trainer.training import gradients, losses, schedules, step


def configuration(*arguments: str) -> Config:
    return complete(compose(*arguments), 40, 10)


def facts_of(config: Config) -> list[Fact]:
    return [*step_facts(config, auxiliary=True), *evaluation_facts(config)]


UNEDITED: dict[tuple[str, ...], list[Fact]] = {}


def unedited(arguments: tuple[str, ...]) -> list[Fact]:
    if arguments not in UNEDITED:
        UNEDITED[arguments] = facts_of(configuration(*arguments))
    return UNEDITED[arguments]


def differences(patch: pytest.MonkeyPatch, arguments: tuple[str, ...], *edits: Any) -> list[FactDifference]:
    """What an edit changes; of the pieces alone if it changes them, which takes a fifth of the time."""
    there = unedited(arguments)
    edit(patch, *edits)
    config = configuration(*arguments)
    pieces = list(piece_facts(probe.configuration(config), two_replicas(), auxiliary=True))
    found = facts.differences(*facts.comparable(there, pieces))
    return found or facts.differences(there, facts_of(config))


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_of_any_part_of_the_step_is_a_difference_that_names_its_module(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, module, before, after = EDITS[what]
    found = differences(monkeypatch, arguments, module, before, after)
    assert found, "nothing differs"
    if module is mixing:
        assert {file_of(gradients)} == {difference.fact.file for difference in found[:1]}  # after its own facts
    else:
        assert found[0].fact.file == file_of(module), found[0]


def test_the_schedule_of_the_step_is_that_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has facts of its own, at fixed steps; the step is seen to use it."""
    found = differences(monkeypatch, (), schedules, "tf.cast(peak * factor", "tf.cast(1.01 * peak * factor")
    assert {difference.fact.where for difference in found} == {"step update"}


BENIGN: dict[str, tuple[tuple[str, ...], ModuleType, str, str]] = {
    "a local renamed": ((), losses, SMOOTHED, f"aim = {SMOOTHED}"),
    "a mean by hand": ((), losses, MEAN, SUM),
    "a product sorted otherwise": (WARM_AVERAGE, step, "change * (1.0 - decay)", "change - change * decay"),
    "statistics added otherwise": (
        (),
        layers,
        "moving * momentum + batch * (1.0 - momentum)",
        "batch + (moving - batch) * momentum",
    ),
    "parts divided first": (PARTS, gradients, "[before + gradient for", "[(before / 3.0 + gradient / 3.0) * 3.0 for"),
}


@pytest.mark.parametrize("what", BENIGN)
def test_an_edit_that_computes_the_same_but_for_rounding_is_none(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, *edits = BENIGN[what]
    assert differences(monkeypatch, arguments, *edits) == []
    if what != "a local renamed":
        assert facts_of(configuration(*arguments)) != unedited(arguments), "a case where nothing rounds proves nothing"


@pytest.mark.parametrize("arguments", [(), (*RMSPROP, *AVERAGE, *GROUPS, *PARTS, *MIXED)])
def test_the_facts_are_the_same_every_time_and_are_kept_by_their_text(arguments: tuple[str, ...]) -> None:
    there = unedited(arguments)
    assert facts.from_text(facts.to_text(there)) == there
    assert facts_of(configuration(*arguments)) == there


def test_nothing_around_the_probe_is_touched() -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.random()), float(tf.random.uniform([]))]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        tf.random.set_seed(1)

    seed()
    expected = [drawn(), drawn()]
    seed()
    first = drawn()
    facts_of(configuration(*HALF))
    assert [first, drawn()] == expected
    assert replicas.count_here() == 1


def test_what_only_sizes_or_executes_a_run_changes_no_fact() -> None:
    config = configuration()
    others = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, global_batch_size=64, log_every_steps=7),
        runtime=dataclasses.replace(config.runtime, xla=True, deterministic=False, virtual_devices=4),
    )
    assert facts_of(others) == unedited(())


@pytest.mark.parametrize("arguments", [(), (*RMSPROP, *AVERAGE, *GROUPS, *PARTS, *MIXED)])
def test_what_other_tests_find_once_is_what_each_would_find(arguments: tuple[str, ...]) -> None:
    """They share facts over configurations that differ in what no step reads: here it is not there at all."""
    config = configuration(*arguments)
    of_step = step_facts_once.step_facts_once(config, True)
    assert [*of_step, *step_facts_once.evaluation_facts_once(config)] == unedited(arguments)
    other = configuration(*arguments, "seed=1")
    assert step_facts_once.step_facts_once(other, True) != of_step, "what a step reads tells configurations apart"


def test_numbers_agree_but_for_rounding_and_nothing_else_does() -> None:
    def differing(old: Any, new: Any, kind: str = facts.STEP) -> bool:
        sides = [[Fact(kind, "step update", "kernel", value, (), "trainer/training/step.py")] for value in (old, new)]
        return bool(facts.differences(*sides))

    assert not differing([1.0, 0.0], [1.0 + 1e-6, 1e-6])
    assert differing([1.0, 0.0], [1.0, 1e-4])
    assert differing([1e-9], [2e-9]), "of small numbers too"
    assert differing([3], [4])
    assert differing([1.0], [1.0, 1.0])
    assert differing(["inf"], [1.0])
    assert not differing(["inf"], ["inf"])
    assert differing([1.0], [1.0 + 1e-6], kind="behaviour")


def mixing_facts(shift: float, box: float = 75.0) -> list[Fact]:
    """Facts about mixing, with a share that is ``shift`` larger."""
    kept = 0.0910951 + shift
    values: dict[tuple[str, str], Any] = {
        ("behaviour", "images"): f"[4, 75, 75, 3] mean {0.133355 + shift:.6g} digest {hash(shift):016x}",
        ("behaviour", "label weights"): [f"{kept:.6g}"],
        ("step", "kept"): [kept],
        ("step", "box"): [0.0, 0.0, box, box],
    }
    return [Fact(kind, "mixing", name, value, (), "mixing.py") for (kind, name), value in values.items()]


def test_mixing_on_a_processor_that_rounds_its_draws_otherwise_is_the_same() -> None:
    assert facts.differences(mixing_facts(0.0), mixing_facts(6e-9)) == []
    assert [str(each.fact.attribute) for each in facts.differences(mixing_facts(0.0), mixing_facts(0.001))] == [
        "images",
        "label weights",
        "kept",
    ]
    assert [each.fact.attribute for each in facts.differences(mixing_facts(0.0), mixing_facts(0.0, 74.0))] == ["box"]
    assert facts.differences([Fact("behaviour", "mixing", "label weights", ["x"], (), "")], mixing_facts(0.0))


def test_what_one_side_alone_tells_of_a_step_is_not_compared() -> None:
    there = unedited(())
    older = [fact for fact in there if fact.where != "step objective"]
    left, right = facts.comparable(older, there)
    assert (left, right) == (older, older)
    other = [Fact("behaviour", "mixing", "images", "x", (), "trainer/data/images/mixing.py")]
    assert facts.comparable(other, []) == (other, [])
