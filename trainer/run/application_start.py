"""Starting a new run of a network of ``keras.applications``, or of a plug-in, from the weights of another program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.command_line import consent
from trainer.config.schema import Config
from trainer.config.schema.networks import KerasApplicationConfig
from trainer.config.schema.preprocessing import NormalizeConfig
from trainer.diagnosis.prescription import look_command
from trainer.errors import RestoreRefused
from trainer.interchange import own_layers, own_names, torch_layers, torch_names
from trainer.interchange.application_modes import IMAGENET, mode_of, of_layer
from trainer.interchange.contents import NETWORKS, ORIGIN_CONFIG, Contents
from trainer.interchange.findings import listed
from trainer.interchange.keras_layers import Wanted, translate_keras, wanted_layers
from trainer.interchange.nameless import with_names
from trainer.interchange.origin import origin_config
from trainer.interchange.translation import Translation
from trainer.models.conventions import differs
from trainer.models.depth import FAMILIES
from trainer.models.heads import head_layers
from trainer.run.left_out import left_out
from trainer.run.warm_start import (
    CLASSES_KEY,
    SAME_CLASSES_KEY,
    Known,
    WarmStart,
    check_doubled,
    check_normalization,
    other_classes,
    own_head_line,
    own_head_of,
    values_of,
)
from trainer.training.state import TrainingState

VGG_CHANNELS = 512
CONVENTIONS_KEY = "model.conventions"
KERNEL_RANK = 2  # a tensor with fewer dimensions is a bias, a norm or a counter
NORMALIZATION = re.compile(r"(?:.*/)?normalization(?:_\d+)?/(mean|variance)")


def load(start: WarmStart, config: Config, state: TrainingState, class_names: Sequence[str]) -> list[str]:
    """Assign the file's weights to the model's variables. Averages start at the new values.

    The file must have every layer before the head, complete. The head may be missing as a whole. Returns lines as
    ``warm_start.load`` does.

    Raises:
        RestoreRefused, NoValidCheckpoint: as ``warm_start.load``. Nothing was assigned.
    """
    wanted = wanted_layers(state.model)
    contents = start.contents
    translation = _translate(contents, wanted, config)
    shapes = {name: tuple(variable.shape) for name, variable in state.variables.items()}
    there = {name: tensor.shape for name, tensor in translation.weights.items()}
    heads = head_layers(state.model)
    others = other_classes(start, class_names)
    check_doubled(start, translation)
    _check_origin(start, config)
    without = _without_biases(translation, shapes)
    _check_body(start, translation, config, {n: s for n, s in shapes.items() if n not in without}, heads)
    _check_conventions(start, translation, config)
    classifier = heads[-1]
    own_head = own_head_of(start, translation, shapes, classifier)
    _check_classes(start, there, shapes, classifier, others)
    check_normalization(start, _known(start.contents, translation, config), config)
    usable = {name for name in there if there[name] == shapes[name]} | own_head.keys()
    blocked = {name for name in shapes if others and name.rpartition("/")[0] == classifier}
    loaded = [name for name in shapes if name in usable and name not in blocked]
    fresh = [name for name in shapes if name not in loaded and name not in without]
    tensors = {**translation.weights, **own_head}
    values = values_of(contents, {name: tensors[name] for name in loaded})
    for name in without:
        state.variables[name].assign(np.zeros(shapes[name], np.float32))
    for name, array in values.arrays.items():
        turned = _from_torch(name, array, shapes) if translation.scheme == torch_names.TITLE else array
        state.variables[name].assign(turned.reshape(shapes[name]))  # a dense layer for a 1×1 convolution
    for name, shadow in state.ema.items():
        shadow.assign(state.variables[name])
    lines = [f"weights from {contents.path}: {len(loaded)} of {len(shapes)} variables loaded"]
    lines += [f"  {len(without)} biases are 0: its convolutions have none, before batch norm"] if without else []
    lines += [f"  {others}: its classifier is not used"] if others else []
    lines += [own_head_line(own_head)] if own_head else []
    lines += [f"  freshly initialised: {listed(f'{name} {list(shapes[name])}' for name in fresh)}"] if fresh else []
    frozen = [name for name in fresh if state.tuning.is_frozen(name)]
    lines += [f"  warning: frozen as they begin: {listed(frozen)}"] if frozen else []
    skipped = {name: there[name] for name in there if name not in loaded}
    rest = translation.without(own_head.values())
    lines += left_out(contents, rest, skipped, shapes, {f"{classifier}/{leaf}" for leaf in ("kernel", "bias")})
    return lines + [f"  warning: {remark}" for remark in values.remarks]


def _translate(contents: Contents, wanted: Wanted, config: Config) -> Translation:
    """The file in this trainer's terms, by the names that understand most of it."""
    own = own_layers.translate_own(contents, wanted)
    if ORIGIN_CONFIG in contents.facts and len(own.weights) > 0:
        return own
    if not isinstance(config.model, KerasApplicationConfig):
        return translate_keras(contents, wanted)
    candidates = [translate_keras(with_names(contents, config.model.name), wanted)]
    if torch_layers.is_known(config.model.name):
        candidates.append(torch_layers.translate_torch(contents, wanted, config.model.name))
    return max(candidates, key=lambda candidate: len(candidate.weights))


def _without_biases(translation: Translation, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Biases of Keras's ResNets that torchvision's have not: batch norm follows."""
    if translation.scheme != torch_names.TITLE:
        return set()
    found = {name for name in shapes if name.endswith("_conv/bias") and name not in translation.weights}
    return {name for name in found if name.replace("_conv/bias", "_bn/beta") in translation.weights}


def _from_torch(name: str, array: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    value = torch_layers.value_of(array, shapes[name])
    if name == "fc1/kernel":  # of VGG, behind a grid of 512 channels
        return torch_layers.flattened(value, VGG_CHANNELS)
    return value


def _check_conventions(start: WarmStart, translation: Translation, config: Config) -> None:
    """Refuse weights of the other side's network where it computes something else with them."""
    model = config.model
    if not isinstance(model, KerasApplicationConfig) or not differs(model.name) or CONVENTIONS_KEY in start.allow:
        return
    origin = origin_config(start.contents)
    found = "torch" if translation.scheme == torch_names.TITLE else "keras"
    if origin is not None and isinstance(origin.model, KerasApplicationConfig):
        found = origin.model.conventions
    # timm has EfficientNets of both kinds under the same names
    either = model.name.startswith("EfficientNet") and any(".conv_pw" in t.label for t in translation.weights.values())
    if found == model.conventions and not either:
        return
    advice = f"add {CONVENTIONS_KEY}={found}, or say that what is configured is right: {consent([CONVENTIONS_KEY])}"
    if either:
        advice = (
            f"set {CONVENTIONS_KEY}=keras for timm's tf_efficientnet…, {CONVENTIONS_KEY}=torch for efficientnet…, "
            f"and say so: {consent([CONVENTIONS_KEY])}"
        )
    raise RestoreRefused(
        f"init_from={start.contents.path} fits in every shape, but its network computes something else\n"
        f"  {CONVENTIONS_KEY}: {'either' if either else found} in weights of {translation.scheme}, {model.conventions} "
        f"is configured\n{advice}"
    )


def _check_origin(start: WarmStart, config: Config) -> None:
    """Refuse the weights of another network of ours."""
    origin = origin_config(start.contents)
    if origin is not None and origin.model.name != config.model.name:
        raise RestoreRefused(
            f"init_from={start.contents.path} is of another network\n"
            f"  model.name: {origin.model.name} in its configuration, {config.model.name} is configured\n"
            f"add model.name={origin.model.name}, or give another file"
        )


def _check_body(
    start: WarmStart,
    translation: Translation,
    config: Config,
    shapes: Mapping[str, tuple[int, ...]],
    heads: Sequence[str],
) -> None:
    """Refuse if a variable before the head is missing or has another shape, if a part of the head is missing, or if
    the file has further blocks of such a network.
    """
    there, name = translation.weights, config.model.name
    body = [variable for variable in shapes if variable.rpartition("/")[0] not in heads]
    absent = [variable for variable in body if variable not in there]
    other = [variable for variable in body if variable in there and there[variable].shape != shapes[variable]]
    kernels = [variable for variable in body if len(shapes[variable]) > 1]
    found = [variable for variable in kernels if variable in there]
    further = _further_blocks(translation, config)
    lines = []
    if len(found) < len(kernels) / 2:
        names = [*(tensor.label for tensor in translation.unmatched), *there]
        lines = [
            f"{len(found)} of the {len(kernels)} kernels of {name} before its head are in it",
            f"it holds {listed(names) or 'no tensors'}",
        ]
    else:
        if further:
            lines.append(f"it has further blocks, which {name} does not have: {listed(further)}")
        if absent:
            lines.append(f"{len(absent)} variables of {name} are not in it: {listed(absent)}")
        if other:
            first = ", ".join(
                f"{variable} is {list(there[variable].shape)} in the file and {list(shapes[variable])} in the model"
                for variable in other[:2]
            )
            lines.append(f"{len(other)} variables have another shape: {first}")
    if not lines:
        return
    networks = start.contents.facts[NETWORKS] if NETWORKS in start.contents.facts else ""
    lines += [f"it calls its network {networks}"] if networks else []
    raise RestoreRefused(
        f"init_from={start.contents.path} is not this network\n"
        + "".join(f"  {line}\n" for line in lines)
        + f"look at it: {look_command(start.contents.path)}"
    )


def _further_blocks(translation: Translation, config: Config) -> list[str]:
    """Kernels whose names are those of blocks of such networks: ResNet101 has all that ResNet50 has, and more."""
    if not isinstance(config.model, KerasApplicationConfig):
        return []
    family = next(rule for name, rule in FAMILIES.items() if config.model.name.startswith(name))
    if family.inside is None:
        return []
    found = []
    for tensor in translation.unmatched:
        layer = tensor.label.rpartition("/")[0].rpartition("/")[2]
        if len(tensor.shape) > KERNEL_RANK and family.inside.search(layer):
            found.append(tensor.label)
    return found


def _check_classes(
    start: WarmStart,
    there: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    classifier: str,
    others: str,
) -> None:
    """Refuse to replace the classifier if the user has set the number of classes."""
    name = f"{classifier}/kernel"
    if name not in there or start.classes_follow_data or CLASSES_KEY in start.allow:
        return
    found, wanted = there[name][-1], shapes[name][-1]
    if found != wanted:
        raise RestoreRefused(
            f"init_from={start.contents.path} has {found} classes, {CLASSES_KEY}={wanted}\n"
            f"set {CLASSES_KEY}={found}, or start with a fresh classifier: {consent([CLASSES_KEY])}"
        )
    if others:
        raise RestoreRefused(
            f"init_from={start.contents.path} is for other classes: {others}\n"
            f"start with a fresh classifier: {consent([CLASSES_KEY])}, or say that they are the same: "
            f"{consent([SAME_CLASSES_KEY])}"
        )


def _known(contents: Contents, translation: Translation, config: Config) -> Known:
    """The possible origins of these weights, with the right normalisation for each."""
    if ORIGIN_CONFIG in contents.facts or translation.scheme == own_names.TITLE:
        origin = origin_config(contents)
        return [] if origin is None else [("its configuration", origin.preprocess.normalize)]
    if not isinstance(config.model, KerasApplicationConfig):
        return []
    if translation.scheme == torch_names.TITLE:
        return [("torchvision and timm normalise by ImageNet, unless timm's pretrained_cfg says otherwise", IMAGENET)]
    layer = _of_its_layer(contents)
    if layer is not None:
        return [("its own layers Rescaling and Normalization, which this network leaves out", layer)]
    return [(f"keras.applications has {config.model.name} with", mode_of(config.model.name))]


def _of_its_layer(contents: Contents) -> NormalizeConfig | None:
    found: dict[str, np.ndarray] = {}
    for tensor in contents.tensors:
        if match := NORMALIZATION.fullmatch(tensor.label):
            found[match[1]] = np.ravel(contents.read(tensor))
    if found.keys() != {"mean", "variance"} or any(value.shape != (3,) for value in found.values()):
        return None
    return of_layer(found["mean"].tolist(), found["variance"].tolist())
