"""torchvision and timm: which of their tensors is which variable of a network of ``keras.applications``.

Only for architectures that both sides have. Names: pytorch/vision torchvision/models/{vgg,densenet,resnet,mobilenetv2,
mobilenetv3,efficientnet,convnext}.py; huggingface/pytorch-image-models timm/models/{resnet,densenet,vgg,efficientnet,
convnext}.py. What the same weights compute with each side's padding, strides and epsilon: ``model.conventions``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from trainer.interchange import torch_names
from trainer.interchange.contents import Contents, Tensor
from trainer.interchange.keras_layers import Layer, Wanted
from trainer.interchange.torch_names import WRAPPERS
from trainer.interchange.translation import Translation

FAMILIES = ("ConvNeXt", "DenseNet", "EfficientNetB", "MobileNetV2", "MobileNetV3", "ResNet", "VGG")
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
VGG_CONVOLUTIONS = {"VGG16": (2, 2, 3, 3, 3), "VGG19": (2, 2, 4, 4, 4)}
PARTS = re.compile(r"(?:block_|expanded_conv_?)(\d*)_?(\w+)")


def is_known(application: str) -> bool:
    return application.startswith(FAMILIES) and not (application.startswith("ResNet") and application.endswith("V2"))


def modules(application: str, paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The modules that each layer may be in torchvision's and timm's definitions, by ``Layer.path``."""
    paths = list(paths)
    if application.startswith("VGG"):
        return dict(_vgg(VGG_CONVOLUTIONS[application]))
    rules = {
        "ConvNeXt": _convnext,
        "DenseNet": _densenet,
        "EfficientNetB": _efficientnet,
        "MobileNetV2": _mobilenet_v2,
        "MobileNetV3": _mobilenet_v3,
        "ResNet": _resnet,
    }
    rule = next(rule for name, rule in rules.items() if application.startswith(name))
    return {path: found for path in paths if (found := rule(path, paths))}


def _vgg(convolutions: tuple[int, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    place = 0
    for block, count in enumerate(convolutions, 1):
        for number in range(1, count + 1):
            yield f"block{block}_conv{number}", (f"features.{place}",)
            place += 2  # an activation follows
        place += 1  # a pooling
    yield "fc1", ("classifier.0", "pre_logits.fc1")
    yield "fc2", ("classifier.3", "pre_logits.fc2")
    yield "predictions", ("classifier.6", "head.fc")


def _densenet(path: str, paths: list[str]) -> tuple[str, ...]:
    fixed = {
        "conv1_conv": "features.conv0",
        "conv1_bn": "features.norm0",
        "bn": "features.norm5",
        "predictions": "classifier",
    }
    if path in fixed:
        return (fixed[path],)
    if match := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(bn|conv)", path):
        layer = f"features.denseblock{int(match[1]) - 1}.denselayer{match[2]}"
        number = int(match[3]) + 1 if match[4] == "bn" else int(match[3])
        return (f"{layer}.{'norm' if match[4] == 'bn' else 'conv'}{number}",)
    match = re.fullmatch(r"pool(\d)_(bn|conv)", path)
    return (f"features.transition{int(match[1]) - 1}.{'norm' if match[2] == 'bn' else 'conv'}",) if match else ()


def _resnet(path: str, paths: list[str]) -> tuple[str, ...]:
    fixed = {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "fc"}
    if path in fixed:
        return (fixed[path],)
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(bn|conv)", path)
    if match is None:
        return ()
    block, is_norm = f"layer{int(match[1]) - 1}.{int(match[2]) - 1}", match[4] == "bn"
    if match[3] == "0":
        return (f"{block}.downsample.{int(is_norm)}",)
    return (f"{block}.{'bn' if is_norm else 'conv'}{match[3]}",)


def _convnext(path: str, paths: list[str]) -> tuple[str, ...]:
    name = re.sub(r"^convnext_[a-z]+_", "", path)
    fixed = {
        "stem_conv": ("features.0.0", "stem.0"),
        "stem_layernorm": ("features.0.1", "stem.1"),
        "head_layernorm": ("classifier.0", "head.norm"),
        "head_dense": ("classifier.2", "head.fc"),
    }
    if name in fixed:
        return fixed[name]
    if match := re.fullmatch(r"downsampling_(layernorm|conv)_(\d)", name):
        part, stage = int(match[1] == "conv"), int(match[2])
        return (f"features.{2 * stage + 2}.{part}", f"stages.{stage + 1}.downsample.{part}")
    match = re.fullmatch(r"stage_(\d)_block_(\d+)_(\w+)", name)
    if match is None:
        return ()
    stage, block = int(match[1]), match[2]
    parts = {
        "depthwise_conv": ("block.0", "conv_dw"),
        "layernorm": ("block.2", "norm"),
        "pointwise_conv_1": ("block.3", "mlp.fc1"),
        "pointwise_conv_2": ("block.5", "mlp.fc2"),
        "layer_scale": ("", ""),
    }
    if match[3] not in parts:
        return ()
    ends = parts[match[3]]
    starts = (f"features.{2 * stage + 1}.{block}", f"stages.{stage}.blocks.{block}")
    return tuple(f"{start}.{end}".rstrip(".") for start, end in zip(starts, ends, strict=True))


def _inverted(path: str) -> tuple[int, str] | None:
    """The number of an inverted residual and the part of it; MobileNet V2 and V3."""
    match = PARTS.fullmatch(path)
    return (int(match[1] or 0), match[2].lower()) if match else None


def _mobilenet_v2(path: str, paths: list[str]) -> tuple[str, ...]:
    fixed = {
        "Conv1": "features.0.0",
        "bn_Conv1": "features.0.1",
        "Conv_1": "features.18.0",
        "Conv_1_bn": "features.18.1",
        "predictions": "classifier.1",
    }
    if path in fixed:
        return (fixed[path],)
    found = _inverted(path)
    if found is None:
        return ()
    block, part = found
    ends = ["expand", "depthwise"] if block else ["depthwise"]
    if part in ("project", "project_bn"):
        return (f"features.{block + 1}.conv.{len(ends) + (part == 'project_bn')}",)
    return (f"features.{block + 1}.conv.{ends.index(part.removesuffix('_bn'))}.{int(part.endswith('_bn'))}",)


def _mobilenet_v3(path: str, paths: list[str]) -> tuple[str, ...]:
    last = max(found[0] for each in paths if (found := _inverted(each)))
    fixed = {
        "conv": "features.0.0",
        "conv_bn": "features.0.1",
        "conv_1": f"features.{last + 2}.0",
        "conv_1_bn": f"features.{last + 2}.1",
        "conv_2": "classifier.0",
        "logits": "classifier.3",
    }
    if path in fixed:
        return (fixed[path],)
    found = _inverted(path)
    if found is None:
        return ()
    block, part = found
    prefix = f"expanded_conv_{block}_" if block else "expanded_conv_"
    order = ["expand", "depthwise", "squeeze_excite_conv", "project"]
    there = [each for each in order if f"{prefix}{each}" in paths]
    start = f"features.{block + 1}.block"
    if part.startswith("squeeze_excite_conv"):
        return (f"{start}.{there.index('squeeze_excite_conv')}.{'fc2' if part.endswith('_1') else 'fc1'}",)
    return (f"{start}.{there.index(part.removesuffix('_bn'))}.{int(part.endswith('_bn'))}",)


def _efficientnet(path: str, paths: list[str]) -> tuple[str, ...]:
    fixed = {
        "stem_conv": ("features.0.0", "conv_stem"),
        "stem_bn": ("features.0.1", "bn1"),
        "top_conv": ("features.8.0", "conv_head"),
        "top_bn": ("features.8.1", "bn2"),
        "predictions": ("classifier.1", "classifier"),
    }
    if path in fixed:
        return fixed[path]
    match = re.fullmatch(r"block(\d)([a-z])_(\w+)", path)
    if match is None:
        return ()
    stage, number, part = int(match[1]), ord(match[2]) - ord("a"), match[3]
    expands = f"block{stage}{match[2]}_expand_conv" in paths
    names = ["expand_conv", "dwconv", "se", "project_conv"] if expands else ["dwconv", "se", "project_conv"]
    vision, timm = f"features.{stage}.{number}.block", f"blocks.{stage - 1}.{number}"
    pairs = {"expand_bn": "expand_conv", "bn": "dwconv", "project_bn": "project_conv"}
    norms = {"expand_bn": "bn1", "bn": "bn2" if expands else "bn1", "project_bn": "bn3" if expands else "bn2"}
    convs = {"expand_conv": "conv_pw", "dwconv": "conv_dw", "project_conv": "conv_pwl" if expands else "conv_pw"}
    if part in ("se_reduce", "se_expand"):
        first = part == "se_reduce"
        return (
            f"{vision}.{names.index('se')}.{'fc1' if first else 'fc2'}",
            f"{timm}.se.conv_{'reduce' if first else 'expand'}",
        )
    if part in pairs:
        return (f"{vision}.{names.index(pairs[part])}.1", f"{timm}.{norms[part]}")
    return (f"{vision}.{names.index(part)}.0", f"{timm}.{convs[part]}")


def translate_torch(contents: Contents, wanted: Wanted, application: str) -> Translation:
    """``contents`` in this trainer's terms; shapes are TensorFlow's. ``value_of`` turns the values the same way."""
    layers = {layer.path: layer for layer in wanted.named.values()}
    layers |= {layer.path: layer for each in wanted.numbered.values() for layer in each}
    places = modules(application, layers)
    labels: dict[str, Tensor] = {}
    prefixes: dict[str, int] = {}
    known = {f"{module}.{leaf}" for found in places.values() for module in found for leaf in _leaves()}
    known |= {f"{m}.{e}" for found in places.values() for m in found for e in ("gamma", "layer_scale")}
    for tensor in contents.tensors:
        parts = [part for part in tensor.label.split(".") if part not in WRAPPERS]
        for start in range(len(parts)):
            if ".".join(parts[start:]) in known:
                prefix = ".".join(parts[:start])
                prefixes[prefix] = prefixes[prefix] + 1 if prefix in prefixes else 1
                break
    most = max(prefixes, key=lambda prefix: prefixes[prefix], default="")
    for tensor in contents.tensors:
        plain = ".".join(part for part in tensor.label.split(".") if part not in WRAPPERS)
        if plain.startswith(f"{most}." if most else ""):
            labels[plain.removeprefix(f"{most}." if most else "")] = tensor
    variables: dict[str, Tensor] = {}
    for path, found in places.items():
        for leaf, shape in layers[path].variables.items():
            for name in _names(found, leaf, layers[path]):
                if name in labels:
                    variables[f"{path}/{leaf}"] = _turned(labels[name], shape)
                    break
    taken = {tensor.key for tensor in variables.values()}
    rest = [tensor for tensor in contents.tensors if tensor.key not in taken]
    counters = [t.label for t in rest if t.label.endswith("num_batches_tracked")]
    return Translation(
        scheme=torch_names.TITLE,
        variables=variables,
        shadows={},
        slots={},
        optimizer=None,
        counters=tuple(counters),
        unmatched=tuple(tensor for tensor in rest if tensor.label not in counters),
        channels_first=True,
        doubled={},
        mixed_layouts=(),
    )


def _leaves() -> tuple[str, ...]:
    return ("weight", "bias", "running_mean", "running_var")


def _names(found: tuple[str, ...], leaf: str, layer: Layer) -> Iterator[str]:
    for module in found:
        if layer.path.endswith("layer_scale"):
            yield from (f"{module}.layer_scale", f"{module}.gamma")
        else:
            yield f"{module}.{LEAVES[leaf]}"


def _turned(tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """The tensor with the shape that ``value_of`` gives it."""
    probe = np.broadcast_to(np.float32(0), tensor.shape)
    shape = value_of(probe, wanted).shape if probe.size else tensor.shape
    return Tensor(tensor.key, tensor.label, tuple(shape), tensor.dtype)


def value_of(value: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """A value of torch's in TensorFlow's layout, for a variable of the shape ``wanted``; unchanged where it cannot be.

    out×in×height×width becomes height×width×in×out, for a depthwise one height×width×in×1; out×in becomes in×out, also
    where the variable is a 1×1 convolution's.
    """
    if value.ndim == 4:
        kernel = value.transpose(2, 3, 1, 0)
        if len(wanted) == 4 and wanted[3] == 1 and kernel.shape[2] == 1:
            kernel = kernel.transpose(0, 1, 3, 2)
        return kernel.reshape(wanted) if kernel.shape[:2] == (1, 1) and len(wanted) == 2 else kernel
    if value.ndim == 2 and len(wanted) == 2:
        return value.T
    if value.ndim == 2 and len(wanted) == 4 and wanted[:2] == (1, 1):
        return value.T[np.newaxis, np.newaxis]
    return value.reshape(wanted) if value.ndim == 3 and value.size == np.prod(wanted) else value


def flattened(value: np.ndarray, channels: int) -> np.ndarray:
    """A dense kernel in×out behind a flattened grid: its rows from channels×height×width to height×width×channels."""
    side = round((value.shape[0] / channels) ** 0.5)
    grid = value.reshape(channels, side, side, value.shape[1])
    return grid.transpose(1, 2, 0, 3).reshape(value.shape)
