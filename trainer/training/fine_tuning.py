"""What ``fine_tuning`` asks of each layer: how fast it learns, and whether it learns at all.

Both are functions of the configuration and the layer's name. A frozen layer has its slots like any other, so what is
frozen may change when a run is resumed, and the state tree is the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping, Sequence

import keras

from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config
from trainer.config.schema.training import FineTuningConfig
from trainer.errors import UsageError
from trainer.models.depth import depths, layer_path
from trainer.models.heads import head_layers
from trainer.models.inception_v3_units import HEADS
from trainer.models.layers import FusedBatchNormalization

NEAREST = 3


@dataclasses.dataclass(frozen=True)
class Tuning:
    """``factors`` has the factor of the learning rate of each layer that does not have the whole of it, ``frozen`` the
    layers that stay as they are, ``heads`` those that ``fine_tuning.freeze_until_step`` leaves; all by the layer's path
    in the state tree.
    """

    factors: Mapping[str, float]
    frozen: frozenset[str]
    heads: frozenset[str]

    def factor(self, variable: str) -> float:
        """The factor of the learning rate of a variable, by its name in the state tree."""
        return self.factors.get(variable.rpartition("/")[0], 1.0)

    def is_of_head(self, variable: str) -> bool:
        return variable.rpartition("/")[0] in self.heads

    def is_frozen(self, variable: str) -> bool:
        return variable.rpartition("/")[0] in self.frozen


def apply_tuning(model: keras.Model, config: Config) -> Tuning:
    """What ``config.fine_tuning`` means for ``model``. From here on its frozen batch norm layers normalise by their
    moving statistics in training too, and do not move them.

    Raises:
        UsageError: no layer fits a pattern, or nothing is left to train.
    """
    heads = HEADS if isinstance(config.model, InceptionV3Config) else head_layers(model)
    tuning = Tuning(_factors(model, config), frozen_layers(model, config.fine_tuning), frozenset(heads))
    _refuse_frozen_classifiers(tuning, config)
    freeze(model, tuning)
    return tuning


def _refuse_frozen_classifiers(tuning: Tuning, config: Config) -> None:
    until = config.fine_tuning.freeze_until_step
    if until and tuning.heads <= tuning.frozen:
        raise UsageError(
            f"fine_tuning.freeze={_list(config.fine_tuning.freeze)} has the classifiers, which alone are trained "
            f"before fine_tuning.freeze_until_step={until}; set one of the two"
        )


def freeze(model: keras.Model, tuning: Tuning) -> None:
    for layer in model.layers:
        if isinstance(layer, FusedBatchNormalization):
            layer.frozen = layer_path(layer) in tuning.frozen


def _factors(model: keras.Model, config: Config) -> dict[str, float]:
    decay = config.fine_tuning.layer_decay
    if decay == 1.0:
        return {}
    found = depths(model, config.model)
    deepest = max(found.values())
    return {path: decay ** (deepest - depth) for path, depth in found.items() if depth < deepest}


def frozen_layers(model: keras.Model, config: FineTuningConfig) -> frozenset[str]:
    """The layers with variables that the patterns of ``fine_tuning.freeze`` name. A pattern fits a layer when it fits
    the layer's path, or a level above it: ``mixed_5b`` means all of that block.

    Raises:
        UsageError: a pattern fits nothing, or the patterns leave nothing to train.
    """
    layers = {layer_path(layer): layer for layer in model.layers if layer.variables}
    frozen: set[str] = set()
    for pattern in config.freeze:
        meant = pattern.replace(".", "/").strip("/")
        fitting = {path for path in layers if any(fnmatch.fnmatchcase(level, meant) for level in _levels(path))}
        if not fitting:
            raise UsageError(_refusal(pattern, meant, list(layers)))
        frozen |= fitting
    if frozen and not any(layer.trainable_variables for path, layer in layers.items() if path not in frozen):
        raise UsageError(
            f"fine_tuning.freeze={_list(config.freeze)} freezes every layer of {model.name}, so there is nothing to "
            "train\nname the layers that keep their weights, such as all but the classifier"
        )
    return frozenset(frozen)


def _levels(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _refusal(pattern: str, meant: str, paths: Sequence[str]) -> str:
    levels = list(dict.fromkeys(level for path in paths for level in _levels(path)))
    bare = meant.strip("*?")
    by_last = {level.rpartition("/")[2]: level for level in reversed(levels)}
    near = difflib.get_close_matches(bare, levels, NEAREST, 0.5)
    near += [by_last[last] for last in difflib.get_close_matches(bare.rpartition("/")[2], by_last, NEAREST, 0.6)]
    nearest = list(dict.fromkeys(near))[:NEAREST] or [levels[0], "…", levels[-1]]
    return (
        f"fine_tuning.freeze has {pattern}, which is the name of no layer of this network\n"
        f"{'the nearest' if near else 'its layers'}: {', '.join(nearest)}; * stands for any text"
    )


def _list(patterns: Sequence[str]) -> str:
    return f"[{','.join(patterns)}]"
