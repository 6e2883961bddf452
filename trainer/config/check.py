"""Rules that tie several keys together."""

from __future__ import annotations

import math
import re
import typing

from trainer.config.ranges import to_range
from trainer.config.schema import Config
from trainer.config.schema.networks import KerasApplicationConfig
from trainer.config.schema.preprocessing import PreprocessConfig, TransformName
from trainer.config.schema.sources import DataConfig
from trainer.config.urls import check_url
from trainer.errors import UsageError

CROPS = ("random_area_crop", "central_crop")
TORCH_NETWORKS = ("ConvNeXt", "DenseNet", "EfficientNetB", "MobileNetV2", "MobileNetV3", "ResNet", "VGG")
LEAST_ROWS = 2  # of a logical replica: on a CPU one row alone takes other kernels (8 convolutions, Dense)
OWN_TRANSFORMS = frozenset(typing.get_args(TransformName))


def check(config: Config) -> None:
    """Raise ``UsageError`` when keys conflict that are each valid alone."""
    train = config.train
    if train.global_batch_size % train.accumulate_steps:
        fitting = _divisors(train.global_batch_size)
        closest = min(fitting, key=lambda n: abs(n - train.accumulate_steps))
        raise UsageError(
            f"train.global_batch_size={train.global_batch_size} cannot be split into "
            f"train.accumulate_steps={train.accumulate_steps} equal parts; the nearest that works is {closest}"
        )
    part = train.global_batch_size // train.accumulate_steps
    if config.mixing.name != "none" and part % 2:
        raise UsageError(
            f"mixing={config.mixing.name} mixes neighbours in pairs, but train.global_batch_size="
            f"{train.global_batch_size} with train.accumulate_steps={train.accumulate_steps} makes parts of {part}; "
            f"make it {(part + 1) * train.accumulate_steps}, or set mixing=none"
        )
    _check_logical_replicas(config)
    unequal = unequal_shares(config, 1)
    if unequal is not None:
        raise UsageError(unequal)
    for entry in train.skip_examples:
        to_range("train.skip_examples", entry)
    _check_model(config)
    erasing = config.preprocess.random_erasing
    if erasing.min_area > erasing.max_area:
        raise UsageError(
            f"preprocess.random_erasing.min_area={erasing.min_area} is above its max_area={erasing.max_area}"
        )
    _check_classes(config.data)
    config.data.check_keys(config.preprocess.image_size)
    _check_transforms(config.preprocess)
    levels = config.preprocess.sixteen_bit_range
    if levels is not None and levels[0] >= levels[1]:
        raise UsageError(
            f"preprocess.sixteen_bit_range is {list(levels)}, but must be [black, white], and black is below white"
        )
    if config.evaluation.weights == "ema" and config.ema.decay is None:
        raise UsageError("evaluation.weights=ema needs an average: set ema.decay, e.g. ema.decay=0.9999")
    if config.profile is not None and config.profile[0] > config.profile[1]:
        raise UsageError(f"profile={list(config.profile)} ends before it begins; it is [first step, last step]")
    if config.checkpoint.mirror is not None:
        check_url("checkpoint.mirror", config.checkpoint.mirror)


def _check_transforms(preprocess: PreprocessConfig) -> None:
    replaced = sorted(OWN_TRANSFORMS & preprocess.plugins.keys())
    if replaced:
        raise UsageError(f"preprocess.plugins has {replaced[0]}, which is one of the program's own transforms")
    for name, transforms in (("train", preprocess.train), ("eval", preprocess.eval)):
        if transforms[:1] != ("decode",) or transforms.count("decode") != 1:
            raise UsageError(f"preprocess.{name} is {list(transforms)}, but must begin with decode and have it once")
        if "resize" not in transforms:
            raise UsageError(f"preprocess.{name} is {list(transforms)}, but needs resize to reach image_size")
        after = transforms[transforms.index("resize") + 1 :]
        cropping = [transform for transform in after if transform in CROPS]
        if cropping:
            raise UsageError(f"preprocess.{name} has {cropping[0]} after resize, so images would not be image_size")
        without_keys = [each for each in transforms if each not in OWN_TRANSFORMS | preprocess.plugins.keys()]
        if without_keys:
            raise UsageError(
                f"preprocess.{name} has {without_keys[0]}, a transform of a plug-in, but there is no section "
                f"preprocess.plugins.{without_keys[0]}: its package has no conf/preprocess/plugins/"
                f"{without_keys[0]}.yaml, or the run was started without it"
            )


def unequal_shares(config: Config, replicas: int) -> str | None:
    """Why a batch cannot be divided among ``replicas`` replicas without splitting a group; None when it can. Each of
    them computes as many logical replicas, where there are any.
    """
    train, norm = config.train, config.model.batch_norm
    devices = f"{replicas} replica{'s' if replicas > 1 else ''}"
    logical = train.logical_replicas
    if logical is not None:
        if logical % replicas:
            return (
                f"train.logical_replicas={logical} cannot be divided equally among {devices}; the numbers that work: "
                f"{', '.join(map(str, sorted({*_divisors(logical)})))}"
            )
        replicas, devices = logical, f"train.logical_replicas={logical}"
    pair = 1 if config.mixing.name == "none" else 2
    group = 1 if norm.synchronized else norm.group_size
    factors = [
        (replicas, devices),
        (train.accumulate_steps, f"train.accumulate_steps={train.accumulate_steps}"),
        (group, f"groups of model.batch_norm.group_size={group}"),
        (math.lcm(pair, group) // group, "pairs that are mixed"),
    ]
    unit = math.prod(factor for factor, _ in factors)
    reason = " x ".join(name for factor, name in factors if factor > 1)
    for key, size, divisor, why in (
        ("train.global_batch_size", train.global_batch_size, unit, reason),
        ("evaluation.batch_size", config.evaluation.batch_size, replicas, devices),
    ):
        if size % divisor:
            below, above = size // divisor * divisor, -(-size // divisor) * divisor
            nearest = f"{below} and {above}" if below else str(above)
            return f"{key}={size} cannot be divided equally among {why}; the nearest that work: {nearest}"
    return None


def _check_logical_replicas(config: Config) -> None:
    """Refuse what logical replicas cannot keep the bits of, or were not seen to.

    The order of their sum is a binary tree. The devices' own parts of it are whole branches only if every number of
    devices that may compute divides it into equal halves again and again, so it is a power of two.
    """
    logical, runtime, norm = config.train.logical_replicas, config.runtime, config.model.batch_norm
    if logical is None:
        return
    name = f"train.logical_replicas={logical}"
    if logical & (logical - 1):
        below = 1 << (logical.bit_length() - 1)
        raise UsageError(f"{name} is not a power of two; the nearest that work: {below} and {2 * below}")
    if norm.synchronized:
        raise UsageError(
            f"{name} computes the shares of a batch one by one, and model.batch_norm.synchronized=true needs all at "
            "every layer; normalise over groups within a share: model.batch_norm.synchronized=false "
            f"model.batch_norm.group_size={_group_within(config, logical)}"
        )
    if not runtime.deterministic:
        raise UsageError(
            f"{name} promises the same bits on other devices, and runtime.deterministic=false promises none; set it to "
            "true, or train.logical_replicas=null"
        )
    if runtime.xla:
        raise UsageError(
            f"{name} needs sums in the order that is written, which runtime.xla=true was not shown to keep; set it to "
            "false, or train.logical_replicas=null"
        )
    size = config.evaluation.batch_size
    if size % logical == 0 and size < LEAST_ROWS * logical:
        raise UsageError(
            f"evaluation.batch_size={size} gives each of {name} {size // logical} example, which other kernels compute "
            f"than several; the least is {LEAST_ROWS * logical}"
        )


def _group_within(config: Config, logical: int) -> int:
    """The largest group of examples, up to that of the configuration, of which a share has whole ones; 2 if it has
    none.
    """
    share = config.train.global_batch_size // (config.train.accumulate_steps * logical)
    fitting = [size for size in _divisors(max(share, 1)) if LEAST_ROWS <= size <= config.model.batch_norm.group_size]
    return max(fitting, default=LEAST_ROWS)


def _check_model(config: Config) -> None:
    name, size, smallest = config.model.name, config.preprocess.image_size, config.model.smallest_image()
    if size < smallest:
        raise UsageError(f"preprocess.image_size is {size}, but must be at least {smallest} for {name}")
    torch = isinstance(config.model, KerasApplicationConfig) and config.model.conventions == "torch"
    if torch and (not name.startswith(TORCH_NETWORKS) or re.fullmatch(r"ResNet\d+V2", name)):
        raise UsageError(
            f"model.conventions=torch is for networks that torchvision has with the same layers, and {name} is none of "
            f"them; they are {', '.join(TORCH_NETWORKS)} with their numbers; set model.conventions=keras"
        )


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return [*small, *(number // n for n in small)]


def _check_classes(data: DataConfig) -> None:
    classes, weights = data.classes, data.class_weights
    if classes is None:
        return
    if len(classes) < 2:
        raise UsageError(f"data.classes is {list(classes)}, but at least two classes are needed; null: all")
    twice = [name for index, name in enumerate(classes) if name in classes[:index]]
    if twice:
        raise UsageError(f"data.classes has {twice[0]} twice")
    if weights is not None and len(weights) != len(classes):
        raise UsageError(f"data.class_weights has {len(weights)} numbers, but data.classes has {len(classes)} classes")
