"""The keys of ``hydra/sweeper=optuna``, and those of each sampler and pruner: Optuna's arguments of the same name."""

# no ``from __future__ import annotations``: OmegaConf reads the types themselves
import dataclasses
from typing import Any

DIRECTIONS = ("minimize", "maximize")


@dataclasses.dataclass
class Tpe:
    name: str = "tpe"
    seed: int | None = None
    n_startup_trials: int = 10
    n_ei_candidates: int = 24
    multivariate: bool = False
    group: bool = False
    constant_liar: bool = False


@dataclasses.dataclass
class Random:
    name: str = "random"
    seed: int | None = None


@dataclasses.dataclass
class CmaEs:
    name: str = "cmaes"
    seed: int | None = None
    sigma0: float | None = None
    n_startup_trials: int = 1
    consider_pruned_trials: bool = False
    popsize: int | None = None
    use_separable_cma: bool = False


@dataclasses.dataclass
class NsgaII:
    name: str = "nsgaii"
    seed: int | None = None
    population_size: int = 50
    mutation_prob: float | None = None
    crossover_prob: float = 0.9
    swapping_prob: float = 0.5


@dataclasses.dataclass
class NoPruner:
    name: str = "none"


@dataclasses.dataclass
class Median:
    name: str = "median"
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1


@dataclasses.dataclass
class Percentile:
    name: str = "percentile"
    percentile: float = 25.0
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1


@dataclasses.dataclass
class SuccessiveHalving:
    name: str = "successive_halving"
    min_resource: Any = "auto"
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0


@dataclasses.dataclass
class Hyperband:
    name: str = "hyperband"
    min_resource: int = 1
    max_resource: Any = "auto"
    reduction_factor: int = 3
    bootstrap_count: int = 0


@dataclasses.dataclass
class Threshold:
    name: str = "threshold"
    lower: float | None = None
    upper: float | None = None
    n_warmup_steps: int = 0
    interval_steps: int = 1


SAMPLERS = {keys.name: keys for keys in (Tpe, Random, CmaEs, NsgaII)}
PRUNERS = {keys.name: keys for keys in (NoPruner, Median, Percentile, SuccessiveHalving, Hyperband, Threshold)}


@dataclasses.dataclass
class OptunaKeys:
    """``n_trials`` is the number of all trials of the search, and not of those of one process."""

    defaults: list[Any] = dataclasses.field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])
    sampler: Any = "???"
    pruner: Any = "???"
    direction: str = "minimize"
    storage: str | None = None
    study_name: str | None = None
    n_trials: int = 20
    n_jobs: int = 1
    max_failure_rate: float = 0.0
    params: dict[str, Any] | None = None
