"""A network's weights as a ``state_dict`` of torchvision or timm: their names, their layouts, channels first.

The way back is that of ``init_from``: ``torch_names`` for Inception V3, ``torch_layers`` for ``keras.applications``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from trainer.config.described import plain
from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config, KerasApplicationConfig
from trainer.errors import UsageError
from trainer.interchange import torch_layers, torch_names
from trainer.models.conventions import differs
from trainer.models.inception_v3_units import BODY, PUBLISHED

Library = Literal["torchvision", "timm"]
# of a family of keras.applications → the beginning of the function in torchvision; timm's are the same but for `tf_`
FUNCTIONS = {
    "ConvNeXt": "convnext_",
    "DenseNet": "densenet",
    "EfficientNet": "efficientnet_",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3": "mobilenet_v3_",
    "ResNet": "resnet",
    "VGG": "vgg",
}
OF_TIMM = ("ConvNeXt", "DenseNet", "EfficientNet", "ResNet")
COUNTER = "num_batches_tracked"  # of every batch norm in torch; nothing but training reads it
EPSILON = 1e-3  # torchvision/models/inception.py, BasicConv2d
RELU = "relu"
# layers that are 1×1 convolutions in Keras and linear in torchvision
LINEAR = ("conv_2", "logits")
BEHIND_A_GRID, GRID_CHANNELS = "fc1", 512  # of VGG


def refuse_other_network(config: Config, library: Library) -> None:
    """
    Raises:
        UsageError: ``library`` has no network that computes what the configured one does; says what differs.
    """
    model = config.model
    if isinstance(model, InceptionV3Config):
        theirs = {
            "model.width": (model.width, 1.0),
            "model.min_depth": (model.min_depth, min(model.min_depth, *PUBLISHED.values())),
            "model.activation": (model.activation, RELU),
            "model.count_include_pad": (model.count_include_pad, True),
            "model.batch_norm.epsilon": (model.batch_norm.epsilon, EPSILON),
        }
        other = [
            f"{key} is {plain(found)}, and theirs {plain(own)}" for key, (found, own) in theirs.items() if found != own
        ]
        if other:
            raise UsageError(f"names={library}: its inception_v3 computes something else: {'; '.join(other)}")
        return
    if not isinstance(model, KerasApplicationConfig) or not torch_layers.is_known(model.name):
        raise UsageError(f"names={library}: {model.name} is no network that {library} has with the same layers")
    if library == "timm" and not model.name.startswith(OF_TIMM):
        raise UsageError(f"names=timm: timm's {model.name} has other layers or names; names=torchvision has it")
    is_tf = library == "timm" and model.name.startswith("EfficientNet")  # timm has these as Keras's, too
    if differs(model.name) and model.conventions != "torch" and not is_tf:
        raise UsageError(
            f"names={library}: the same weights compute something else there: model.conventions is "
            f"{model.conventions}, and theirs is torch; a run begins with one of them"
        )


def constructor(config: Config, library: Library, classes: int) -> str:
    """The Python expression that builds the network which the state is loaded into."""
    model = config.model
    if isinstance(model, InceptionV3Config):
        if library == "timm":
            return f'timm.create_model("inception_v3", num_classes={classes}, aux_logits=False)'
        without = "weights=None, init_weights=False, aux_logits=False"
        return f"torchvision.models.inception_v3({without}, num_classes={classes})"
    family = next(family for family in FUNCTIONS if model.name.startswith(family))
    function = FUNCTIONS[family] + model.name.removeprefix(family).lower()
    if library == "timm":
        assert isinstance(model, KerasApplicationConfig)
        as_keras = family == "EfficientNet" and model.conventions == "keras"
        return f'timm.create_model("{"tf_" if as_keras else ""}{function}", num_classes={classes})'
    return f"torchvision.models.{function}(weights=None, num_classes={classes})"


def state_dict(values: Mapping[str, np.ndarray], config: Config, library: Library) -> dict[str, np.ndarray]:
    """``values`` by their names in the state tree (``mixed_5b/…/kernel``), without those of the auxiliary classifier,
    as ``load_state_dict`` takes them: strictly, so the counters of batch norm are there too, as int64 zeros.

    ``refuse_other_network`` must have accepted the configuration.
    """
    if isinstance(config.model, InceptionV3Config):
        named = {f"{_unit_of(name)}.{_leaf_of(name)}": _turned(name, value) for name, value in values.items()}
        scales = {f"{module}.bn.weight": np.ones(BODY[unit], np.float32) for unit, module in MODULES.items()}
        found = {**scales, **named}  # without model.batch_norm.scale it is 1
    else:
        found = _application(values, config.model.name, library)
    norms = [name.removesuffix("running_mean") for name in found if name.endswith("running_mean")]
    return found | {f"{norm}{COUNTER}": np.zeros([], np.int64) for norm in norms}


def _application(values: Mapping[str, np.ndarray], name: str, library: Library) -> dict[str, np.ndarray]:
    places = torch_layers.modules(name, {variable.rpartition("/")[0] for variable in values})
    found = {}
    for variable, value in values.items():
        layer, _, leaf = variable.rpartition("/")
        if leaf == "bias" and _norm_behind(layer, values):
            continue  # torchvision's convolutions before a batch norm have none; it is in the norm's mean
        if leaf == "moving_mean" and (bias := layer.replace("_bn", "_conv") + "/bias") in values:
            value = value - values[bias]  # noqa: PLW2901  # norm(x + bias) with the mean m is norm(x) with m - bias
        module = places[layer][-1 if library == "timm" else 0]
        if layer.endswith("layer_scale"):
            label, turned = ("gamma", value) if library == "timm" else ("layer_scale", value.reshape(-1, 1, 1))
        else:
            label, turned = torch_layers.LEAVES[leaf], _turned(variable, value)
        found[f"{module}.{label}"] = np.ascontiguousarray(turned)
    return found


def _norm_behind(layer: str, values: Mapping[str, np.ndarray]) -> bool:
    return layer.endswith("_conv") and f"{layer.removesuffix('_conv')}_bn/moving_mean" in values


def _turned(variable: str, value: np.ndarray) -> np.ndarray:
    """A value in torch's layout: the inverse of ``torch_layers.value_of`` and ``flattened``."""
    layer = variable.rpartition("/")[0]
    if value.ndim == 4:
        if layer in LINEAR:
            return value[0, 0].T
        return value.transpose(2, 3, 0, 1) if value.shape[3] == 1 else value.transpose(3, 2, 0, 1)
    if value.ndim == 2 and layer == BEHIND_A_GRID:
        side = round((value.shape[0] / GRID_CHANNELS) ** 0.5)
        grid = value.reshape(side, side, GRID_CHANNELS, value.shape[1])
        return grid.transpose(3, 2, 0, 1).reshape(value.shape[1], -1)
    return value.T if value.ndim == 2 else value


def _modules() -> dict[str, str]:
    """Torchvision's module of each unit of Inception V3."""
    stem = {unit: unit.capitalize() for unit in BODY if "/" not in unit}
    branches = {
        f"{block.lower()}/{unit}": f"{block}.{branch}"
        for block, of in torch_names.BRANCHES.items()
        for branch, unit in of.items()
    }
    return stem | branches


MODULES = _modules()
HEADS = {unit: module for module, unit in torch_names.HEADS.items()}
UNIT_LEAVES = {ours: theirs for theirs, ours in torch_names.LEAVES.items()}


def _unit_of(variable: str) -> str:
    layer = variable.rpartition("/")[0]
    return HEADS[layer] if layer in HEADS else MODULES[layer.rpartition("/")[0]]


def _leaf_of(variable: str) -> str:
    layer, _, leaf = variable.rpartition("/")
    if layer in HEADS:
        return torch_layers.LEAVES[leaf]
    return UNIT_LEAVES[f"{layer.rpartition('/')[2]}/{leaf}"]
