"""What is in the name of a kept function: all that may decide it, and nothing that a run may change freely."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import FunctionType
from typing import Any

import keras
import pytest
import tensorflow as tf
from composing import compose
from imports import TABLE
from processes import NARROW
from small_plugin import SMALL, install, installed_here, paced

from trainer.config import plugins
from trainer.config.complete import complete
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.data.images import mixing
from trainer.distributed.replicas import ONE_DEVICE
from trainer.fingerprint import probe
from trainer.models.registry import build_model
from trainer.run import start_cache
from trainer.run.start_cache import COMPILED, DECIDING, start_cache_of
from trainer.runtime.start_cache import StartCache
from trainer.training.state import rolling_statistics
from trainer.training.step import make_evaluation_step, make_train_step


def composed(*overrides: str) -> Config:
    return complete(compose(*NARROW, *overrides), 40, 10)


class OwnLayer(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return 2.0 * x


NETWORK = keras.Model()  # that of the program's own is known by its configuration, and not looked at


def program(*overrides: str) -> str:
    found = start_cache_of(composed(*overrides), ONE_DEVICE, NETWORK)
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


def noting(config: Any, read: set[str], path: str = "") -> Any:
    """``config``, which notes in ``read`` each of its keys that is read."""

    class Noting(type(config)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if dataclasses.is_dataclass(value):
                return noting(value, read, f"{path}{name}.")
            read.add(f"{path}{name}")
            return value

    made = object.__new__(Noting)
    made.__dict__.update(vars(config))
    return made


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_no_other_key_that_a_resume_may_change_freely_is_compiled(policy: str) -> None:
    """What a graph has of such a key must be in the name: a resume would run with the value of an earlier start."""
    config = composed("ema.decay=0.9", "train.accumulate_steps=2", "fine_tuning.freeze_until_step=3")
    tiny = probe.configuration(config)
    state = dataclasses.replace(
        probe.make_state(tiny, ONE_DEVICE, auxiliary=False),
        divergence=rolling_statistics(composed(f"train.on_divergence={policy}")),
    )
    read: set[str] = set()
    watched = noting(tiny, read)
    batch = probe.training_batch(tiny)
    make_train_step(state, watched).get_concrete_function(batch)
    make_evaluation_step(state, watched, scores=True).get_concrete_function(probe.evaluation_batch())
    free = {path for path, _, fact in leaves(config) if fact.resume == "free"}
    assert "train.global_batch_size" in read
    assert read & free <= {*COMPILED, "evaluation.batch_size"}, "the batch is seen in what the function takes"
    if policy == "stop":
        assert set(COMPILED) <= read, "a name that is longer than it must be finds less"


def test_of_plugins_a_network_of_keras_layers_is_kept_as_long_as_it_and_its_code_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    with installed_here(tmp_path):
        config = complete(compose(*SMALL), 40, 10)

        def found(drawn: bool = True) -> StartCache | None:
            model = build_model(config.model, 75, config.seed if drawn else None, "float32")
            return start_cache_of(config, ONE_DEVICE, model)

        first = found()
        assert first is not None
        assert found() == found(drawn=False) == first, "a resume builds it without its draws"
        import trainer_small

        monkeypatch.setattr(trainer_small, "OTHER", 1, raising=False)
        assert found() not in (None, first), "its code may have changed a class of Keras"


def test_nothing_is_kept_of_what_the_code_of_a_plugin_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may do so with anything: an array in its module, a module of another package, a file, the environment."""
    install(tmp_path)
    with installed_here(tmp_path):
        assert start_cache_of(composed(*paced(0.0)), ONE_DEVICE, NETWORK) is not None, "records are no part of a step"
        small, image = complete(compose(*SMALL), 40, 10), keras.Input((8,))
        network = keras.Model(image, OwnLayer()(image))
        assert start_cache_of(small, ONE_DEVICE, network) is None
    for group in (plugins.OPTIMIZERS, plugins.SCHEDULES):
        monkeypatch.setattr(start_cache, "chosen_plugins", lambda config, group=group: [(group, "lion")])
        assert start_cache_of(composed(), ONE_DEVICE, NETWORK) is None


def test_where_functions_run_eagerly_or_operations_are_watched_nothing_is_kept() -> None:
    program()
    tf.config.run_functions_eagerly(True)
    try:
        assert start_cache_of(composed(), ONE_DEVICE, NETWORK) is None
    finally:
        tf.config.run_functions_eagerly(False)
    tf.debugging.enable_check_numerics()
    try:
        assert start_cache_of(composed(), ONE_DEVICE, NETWORK) is None
    finally:
        tf.debugging.disable_check_numerics()
    program()


@pytest.mark.parametrize(
    "free",
    [
        "train.steps=40",
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
        "train.log_every_steps=7",
        "fine_tuning.layer_decay=0.7",
        "evaluation.weights=ema",
        "runtime.precision=mixed_bfloat16",
        "preprocess.image_size=80",
    ],
)
def test_a_key_that_decides_the_result_is_in_the_name(other: str) -> None:
    averaged = ("ema.decay=0.9",) if other == "evaluation.weights=ema" else ()
    assert program(*averaged, other) != program(*averaged)
