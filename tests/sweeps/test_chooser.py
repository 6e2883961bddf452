"""What a search tries next and what it gives up follow from the seed and from the trials, and from nothing else."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

optuna = pytest.importorskip("optuna", minversion="4.9", reason="needs the extra resumable-trainer[sweeps]")
from optuna.trial import FrozenTrial, TrialState, create_trial  # noqa: E402

from trainer.config.search import Choices, Floats, Integers, Settings  # noqa: E402
from trainer.config.search_keys import PRUNERS, SAMPLERS  # noqa: E402
from trainer.errors import UsageError  # noqa: E402
from trainer.sweeps.chooser import Chooser  # noqa: E402
from trainer.sweeps.pickled import refuse_foreign_pickles  # noqa: E402

NUMBERS = {"seed": Integers(1, 9, 1, log=False), "optimizer.learning_rate": Floats(1e-4, 0.1, None, log=True)}
MIXED = {**NUMBERS, "optimizer": Choices(("adam", "sgd"))}


def chooser(sampler: Mapping[str, Any], pruner: Mapping[str, Any], seed: int = 1) -> Chooser:
    keys = vars(SAMPLERS[sampler["name"]]()) | {"seed": seed} | sampler
    pruning = vars(PRUNERS[pruner["name"]]()) | pruner
    space = NUMBERS if sampler["name"] == "cmaes" else MIXED
    return Chooser(Settings(9, "minimize", None, None, False, keys, pruning), space)


def ended(
    trial: FrozenTrial, state: TrialState = TrialState.COMPLETE, reports: Mapping[int, float] = {}
) -> FrozenTrial:
    value = (trial.params["optimizer.learning_rate"] - 0.01) ** 2 + trial.params["seed"]
    return create_trial(
        state=state,
        value=None if state == TrialState.FAIL else value,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=trial.system_attrs,
        intermediate_values=dict(reports),
    )


def searched(chosen: Chooser, trials: int, history: tuple[FrozenTrial, ...] = ()) -> tuple[FrozenTrial, ...]:
    while len(history) < trials:
        history = (*history, ended(chosen.draw(history)))
    return history


def params(trials: tuple[FrozenTrial, ...]) -> list[dict[str, Any]]:
    return [trial.params for trial in trials]


SAMPLED = {
    "tpe": {"name": "tpe", "n_startup_trials": 3},
    "tpe, all keys together": {"name": "tpe", "n_startup_trials": 3, "multivariate": True, "group": True},
    "random": {"name": "random"},
    "cmaes": {"name": "cmaes"},
    "nsgaii": {"name": "nsgaii", "population_size": 3},
}


@pytest.mark.parametrize("case", SAMPLED)
def test_a_search_goes_on_from_any_place_with_the_same_choices(case: str) -> None:
    if case == "cmaes":
        pytest.importorskip("cmaes")
    whole = searched(chooser(SAMPLED[case], {"name": "none"}), 9)
    assert len({str(each) for each in params(whole)}) > 5
    for at in range(9):
        assert params(searched(chooser(SAMPLED[case], {"name": "none"}), 9, whole[:at])) == params(whole)
    assert params(searched(chooser(SAMPLED[case], {"name": "none"}, seed=2), 9)) != params(whole)


PRUNED = {
    "median": {"name": "median", "n_startup_trials": 2},
    "percentile": {"name": "percentile", "n_startup_trials": 2, "percentile": 40.0},
    "successive_halving": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2},
    "hyperband": {"name": "hyperband", "max_resource": 8, "reduction_factor": 2},
    "threshold": {"name": "threshold", "upper": 5.0},
}


@pytest.mark.parametrize("case", PRUNED)
def test_a_pruner_says_the_same_whenever_it_is_asked(case: str) -> None:
    """After each validation, only at the end, and again after it has kept something with the trial."""
    chosen = chooser(SAMPLED["tpe"], PRUNED[case])
    history: tuple[FrozenTrial, ...] = ()
    given_up = []
    for number in range(8):
        curve = {step: 4 - step / 4 + number % 3 for step in range(1, 9)}
        history = (*history, chosen.draw(history))
        at_once = chosen.watch(history, number, curve)
        looks = [chosen.watch(history, number, dict(itertools.islice(curve.items(), seen))) for seen in range(9)]
        first = next((look for look in looks if look.pruned_at is not None), looks[-1])
        assert first == at_once
        own = create_trial(
            state=TrialState.RUNNING,
            params=history[number].params,
            distributions=history[number].distributions,
            system_attrs=dict(at_once.attributes),
            intermediate_values=dict(at_once.reports),
        )
        assert chosen.watch((*history[:number], own), number, curve) == at_once
        given_up.append(at_once.pruned_at)
        state = TrialState.COMPLETE if at_once.pruned_at is None else TrialState.PRUNED
        history = (*history[:number], ended(own, state, at_once.reports))
    assert None in given_up
    assert given_up != [None] * 8


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('it was run')",)


def test_a_study_from_a_stranger_runs_nothing() -> None:
    pytest.importorskip("cmaes")
    history = searched(chooser(SAMPLED["cmaes"], {"name": "none"}), 9)
    assert any(name.startswith("cma:optimizer") for each in history for name in each.system_attrs)
    refuse_foreign_pickles(history, "study.db")
    harmful = {"cma:optimizer:0": pickle.dumps(Harmful()).hex()}
    foreign = create_trial(value=0.0, params={}, distributions={}, system_attrs=harmful)
    with pytest.raises(
        UsageError, match=r"trial -1 of the study in study\.db has cma:optimizer.*it names builtins\.exec"
    ):
        refuse_foreign_pickles([foreign], "study.db")
