"""What is in the name of a kept function: all that may decide it, and nothing that a run may change freely."""

from __future__ import annotations

from types import FunctionType

import pytest
from composing import compose
from imports import TABLE
from processes import NARROW

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.data.images import mixing
from trainer.distributed.replicas import ONE_DEVICE
from trainer.run.start_cache import DECIDING, start_cache_of


def composed(*overrides: str) -> Config:
    return complete(compose(*NARROW, *overrides), 40, 10)


def program(*overrides: str) -> str:
    found = start_cache_of(composed(*overrides), ONE_DEVICE)
    assert found is not None
    return found.program


def test_the_code_that_decides_is_all_that_steps_and_facts_may_import_but_files_and_records() -> None:
    deciding = {name.removeprefix("trainer.") for name in DECIDING}
    silent = {"storage", "checkpoint", "run_directory"}
    for name in ("training", "models", "distributed", "fingerprint"):
        assert name in deciding
        assert set(TABLE[name]) - silent <= deciding, name


def test_other_code_anywhere_under_a_step_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a function that the step's module imports, but in one that such a function calls."""
    before = program()
    helper = next(
        value
        for name, value in vars(mixing).items()
        if isinstance(value, FunctionType) and value.__module__ == mixing.__name__ and name.startswith("_")
    )
    changed = FunctionType(
        helper.__code__.replace(co_consts=(*helper.__code__.co_consts, "changed")), helper.__globals__, helper.__name__
    )
    monkeypatch.setattr(mixing, helper.__name__, changed)
    assert program() != before


@pytest.mark.parametrize(
    "free",
    [
        "train.steps=40",
        "train.log_every_steps=7",
        "evaluation.every_steps=3",
        "evaluation.batch_size=4",
        "checkpoint.every_steps=5",
        "checkpoint.keep_last=2",
        "profile=[2,3]",
        "divergence.max_rollbacks=9",
        "runtime.watchdog.training=900",
    ],
)
def test_what_a_resume_may_change_freely_finds_what_was_traced_before(free: str) -> None:
    given = ("schedule.decay_steps=12",)
    assert program(*given, free) == program(*given)


@pytest.mark.parametrize(
    "other",
    [
        "seed=1",
        "model.dropout=0.3",
        "model.width=0.02",
        "optimizer=sgd",
        "optimizer.learning_rate=0.1",
        "optimizer.clip_norm=1.0",
        "schedule=constant",
        "schedule.decay_steps=13",
        "ema.decay=0.9",
        "mixing=mixup",
        "train.accumulate_steps=2",
        "train.label_smoothing=0.2",
        "train.global_batch_size=16",
        "train.on_divergence=rollback",
        "fine_tuning.layer_decay=0.7",
        "evaluation.weights=ema",
        "runtime.precision=mixed_bfloat16",
        "preprocess.image_size=80",
    ],
)
def test_a_key_that_decides_the_result_is_in_the_name(other: str) -> None:
    averaged = ("ema.decay=0.9",) if other == "evaluation.weights=ema" else ()
    assert program(*averaged, other) != program(*averaged)
