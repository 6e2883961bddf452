"""What a search tries next, and what it gives up: Optuna's samplers and pruners as functions of the search so far.

Both are made anew for each question, and answer it in a study in memory that holds a copy of the trials. The sampler's
seed is derived from that of the search and the number of the trial. So neither remembers anything, and a search that
was killed chooses what one that nobody killed would.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainer.config.search import Choices, Domain, Integers, Settings
from trainer.runtime.seeds import derive_seed

SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
}
PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}
STUDY = "search"  # hyperband draws the bracket of a trial from this name and its number

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # its users have chosen the key


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the pruner made of the validations of a trial: the step at which it gives the trial up, None if it does not;
    the validations up to there; and what it keeps with the trial.
    """

    pruned_at: int | None
    reports: Mapping[int, float]
    attributes: Mapping[str, Any]


class Chooser:
    def __init__(self, settings: Settings, space: Mapping[str, Domain]) -> None:
        self.settings = settings
        self.distributions = {name: _distribution(domain) for name, domain in space.items()}

    @property
    def pruner(self) -> str:
        return str(self.settings.pruner["name"])

    def draw(self, history: Sequence[FrozenTrial]) -> FrozenTrial:
        """The trial that comes after ``history``, running."""
        keys = _without_name(self.settings.sampler)
        keys["seed"] = derive_seed(keys["seed"], "search", len(history))
        study = self._copy(history, SAMPLERS[self.settings.sampler["name"]](**keys))
        study.ask(self.distributions)
        drawn = study.get_trials()[-1]
        assert drawn.number == len(history)
        return running(drawn.params, drawn.distributions, drawn.system_attrs)

    def watch(self, history: Sequence[FrozenTrial], number: int, validations: Mapping[int, float]) -> Seen:
        """Show the pruner every validation of a trial, in their order."""
        own = history[number]
        kept = {name: value for name, value in own.system_attrs.items() if not name.startswith("completed_rung_")}
        trials = [*history]
        trials[number] = running(own.params, own.distributions, kept)
        study = self._copy(trials, optuna.samplers.RandomSampler(0))
        trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
        pruned_at, reports = None, {}
        for step, value in sorted(validations.items()):
            trial.report(value, step)
            reports[step] = value
            if trial.should_prune():
                pruned_at = step
                break
        return Seen(pruned_at, reports, study.get_trials()[number].system_attrs)

    def _copy(self, trials: Sequence[FrozenTrial], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        study = optuna.create_study(
            study_name=STUDY,
            direction=self.settings.direction,
            sampler=sampler,
            pruner=PRUNERS[self.pruner](**_without_name(self.settings.pruner)),
        )
        study.add_trials(trials)
        return study

    def described(self) -> dict[str, str]:
        """What decides the choices, by key, as text."""
        found = {"hydra.sweeper.direction": self.settings.direction}
        for kind, keys in (("sampler", self.settings.sampler), ("pruner", self.settings.pruner)):
            found |= {f"hydra.sweeper.{kind}.{name}": str(value) for name, value in keys.items()}
        return found | {name: str(distribution) for name, distribution in self.distributions.items()}


def _without_name(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a sampler or pruner."""
    return {name: value for name, value in keys.items() if name != "name"}


def running(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], attributes: Mapping[str, Any]
) -> FrozenTrial:
    """A trial that is not over."""
    return create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions=dict(distributions),
        system_attrs=dict(attributes),
    )


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, Integers):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
