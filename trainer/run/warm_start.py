"""Starting a new run from the weights of another: by name and shape, with a report of what was loaded.

Any file with known names can be used: a checkpoint of this program, TensorFlow's own formats with the names of TF-Slim
or Keras, Keras files, safetensors with the names of torchvision.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import PREFIX
from trainer.checkpoint.verification import verify
from trainer.command_line import argument, command_line, consent
from trainer.config import stored
from trainer.config.schema import Config
from trainer.config.schema.preprocessing import NormalizeConfig
from trainer.diagnosis.comparison import BACKGROUND, differing
from trainer.diagnosis.expected import shapes_of
from trainer.diagnosis.silent_settings import differing_settings
from trainer.errors import RestoreRefused
from trainer.interchange import own_names, torch_names
from trainer.interchange.application_modes import HALF, IMAGENET, same
from trainer.interchange.bundles import LOST_GRAPH, damage, read_bundle
from trainer.interchange.contents import ORIGIN, ORIGIN_CONFIG, Contents, Kind, Tensor
from trainer.interchange.findings import DAMAGE, Finding, Unusable, listed
from trainer.interchange.locate import locate
from trainer.interchange.origin import Origin, origin_config, origin_of
from trainer.interchange.readers import read_contents
from trainer.interchange.translation import Translation, head_shape, translate
from trainer.interchange.values import Values, read_values
from trainer.models.inception_v3_units import AUX, HEADS, unit_of
from trainer.run.left_out import left_out
from trainer.storage import durable
from trainer.training.state import TrainingState

TOLD_WHOLE = ("not_inception_v3", "weights_in_parts")  # causes whose details say what to do
AUX_CAUSES = ("aux_unexpected", "aux_absent", "image_size")  # an auxiliary head may start fresh
NAMELESS = Finding("object_graph", DAMAGE, "its object graph names no variable")
# differences between file and run that ``allow`` may name
CLASSES_KEY, SAME_CLASSES_KEY, PREPROCESS_KEY = "model.num_classes", "data.classes", "preprocess"


def find(path: Path) -> Contents:
    """The contents of the checkpoint that ``init_from`` names, without its values. One of this program is verified.

    Raises:
        NoValidCheckpoint: it does not exist, or is damaged.
        RestoreRefused: it is not a file of weights, or of a kind that must not be opened.
    """
    try:
        located = locate(path)
        if located.kind is not Kind.OWN:
            contents = read_contents(located)
            if LOST_GRAPH in contents.facts:  # without its names, whatever is said of the network would be untrue
                raise Unusable(next(iter(damage(contents)), NAMELESS))
            return contents
        manifest = verify(located.path, "full")
        digest = durable.stored_digest(located.path / manifests.FILE_NAME)
        origin = Origin(located.path.name, digest, manifest.step, "raw", manifest.class_names)
        config = (located.path / stored.FILE_NAME).read_text(encoding="utf-8")
        contents = read_bundle(located.path / PREFIX, Kind.BUNDLE)
        facts = {ORIGIN: origin.to_text(), ORIGIN_CONFIG: config}
        return dataclasses.replace(contents, path=located.path, facts=facts)
    except Unusable as error:
        raise error.finding.refusal(f"init_from={path}: ") from error


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """The file that a new run starts from, and how the run may differ from it.

    ``allow`` may contain:
    ``preprocess``: the configured normalisation is right for these weights;
    ``model.num_classes``: a fresh classifier replaces one for another number of classes;
    ``data.classes``: the classes of the file are those of the data under other names, or without any, as in the one
    dense layer that somebody put on top of the network;
    the keys of ``trainer.diagnosis.silent_settings``, which decide what a network computes with equal weights.

    ``classes_follow_data`` says that nobody set ``model.num_classes``, so that a fresh classifier is wanted.
    """

    contents: Contents
    allow: Sequence[str]
    classes_follow_data: bool


# a possible origin of weights, and the normalisation that belongs to it
Known = Sequence[tuple[str, NormalizeConfig]]


def load(start: WarmStart, config: Config, state: TrainingState, class_names: Sequence[str]) -> list[str]:
    """Assign the file's weights to the model's variables. Averages start at the new values.

    The file must have the whole body of the network. A classifier for 1001 classes is used for 1000 without its first
    class, the background. A classifier for other classes than ``class_names``, those of the data, is replaced. The file
    may lack an auxiliary head and gammas that the model has. Returns lines that list what was loaded, what the file has
    but the model does not use, and what starts fresh.

    Raises:
        RestoreRefused: the file is of another network, of one that computes something else with equal weights, has
            another number of classes than configured, or needs another preprocessing; or a tensor in it is no weight,
            see ``trainer.interchange.values``. Nothing was assigned.
        NoValidCheckpoint: a tensor is damaged. Nothing was assigned.
    """
    contents = start.contents
    translation = translate(contents)
    there = {name: head_shape(name, tensor.shape) for name, tensor in translation.weights.items()}
    shapes = {name: tuple(variable.shape) for name, variable in state.variables.items()}
    without_background = {name for name in shapes if name in there and _drops_background(there[name], shapes[name])}
    others = other_classes(start, class_names)
    fitting = {name for name in shapes if name in there and there[name] == shapes[name]} | without_background
    own_head = own_head_of(start, translation, shapes, HEADS[0])
    fitting |= own_head.keys()
    loaded = [name for name in shapes if name in fitting and not (others and unit_of(name) in HEADS)]
    fresh = [name for name in shapes if name not in loaded]
    frozen = [name for name in fresh if state.tuning.is_frozen(name)]
    skipped = [name for name in there if name not in loaded]
    check_doubled(start, translation)
    _check_body(contents, translation, config, state, [*fresh, *skipped])
    _check_classes(start, there, shapes, fresh, others)
    _check_settings(start, translation, config)
    check_normalization(start, _known_normalizations(contents, translation), config)
    tensors = {**translation.weights, **own_head}
    values = values_of(contents, {name: tensors[name] for name in loaded})
    for name, array in values.arrays.items():
        value = _in_our_layout(name, array, translation.channels_first)
        state.variables[name].assign(value[..., 1:] if name in without_background else value)
    for name, shadow in state.ema.items():
        shadow.assign(state.variables[name])
    lines = [f"weights from {contents.path}: {len(loaded)} of {len(shapes)} variables loaded"]
    if not translation.variables:
        lines.append("  they are moving averages: the file has no other weights")
    if others:
        lines.append(f"  {others}: its classifier is not used")
    elif without_background:
        lines.append(f"  of {BACKGROUND} classes the first, the background, was dropped")
    lines += [own_head_line(own_head)] if own_head else []
    lines += [f"  freshly initialised: {listed(f'{name} {list(shapes[name])}' for name in fresh)}"] if fresh else []
    lines += [f"  warning: frozen as they begin: {listed(frozen)}"] if frozen else []
    heads = {name for name in shapes if unit_of(name) in HEADS}
    translation = translation.without(own_head.values())
    lines += left_out(contents, translation, {name: there[name] for name in skipped}, shapes, heads)
    return lines + [f"  warning: {remark}" for remark in values.remarks]


def _drops_background(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return found[-1:] == (BACKGROUND,) and wanted == (*found[:-1], BACKGROUND - 1)


def _check_body(
    contents: Contents, translation: Translation, config: Config, state: TrainingState, differing_names: Sequence[str]
) -> None:
    """Refuse if a variable is on one side only or has another shape, except in a head or a gamma that starts at one."""
    gammas = {name for name in differing_names if name.endswith("/gamma") and name not in translation.weights}
    # some of them in the file and some not is a file with a part missing
    fresh_gammas = set() if any(name.endswith("/gamma") for name in translation.weights) else gammas
    body = [n for n in differing_names if unit_of(n) not in HEADS and not n.startswith(f"{AUX}/")]
    if not set(body) - fresh_gammas:
        return
    findings = differing(translation, shapes_of(config, state))
    causes = [finding for finding in findings if finding.cause not in ("classes", "background_class", *AUX_CAUSES)]
    lines = [f"  {line}" for finding in causes for line in (finding.title, *_holding(finding), *_fitting(finding))]
    raise RestoreRefused(
        f"init_from={contents.path} is not this network\n"
        + "\n".join(lines)
        + f"\nmore: {command_line('doctor', argument('checkpoint', contents.path))}"
    )


def _holding(finding: Finding) -> list[str]:
    return [f"  {detail}" for detail in finding.details] if finding.cause in TOLD_WHOLE else []


def _fitting(finding: Finding) -> list[str]:
    return [f"  to fit it: {shlex.join(finding.overrides)}"] if finding.overrides else []


def other_classes(start: WarmStart, class_names: Sequence[str]) -> str:
    """How the classes that the file names differ from those of the data; empty when they do not, or are not named."""
    origin = origin_of(start.contents)
    if origin is None or SAME_CLASSES_KEY in start.allow:
        return ""
    if tuple(class_names) in (origin.class_names, origin.class_names[1:]):  # the first may be the background
        return ""
    return f"it was trained on {listed(origin.class_names)}, the data has {listed(class_names)}"


def own_head_of(
    start: WarmStart, translation: Translation, shapes: Mapping[str, tuple[int, ...]], classifier: str
) -> dict[str, Tensor]:
    """The one dense layer that somebody put on top of the network, for the variables of its classifier, where the user
    has said that its classes are those of the data; nothing where there are several, or its shapes do not fit.
    """
    kernels = translation.own_head
    taken = SAME_CLASSES_KEY in start.allow and not translation.channels_first
    if not taken or len(kernels) != 1 or f"{classifier}/kernel" in translation.weights:
        return {}
    layer = kernels[0].label.rpartition("/")[0]
    found = {
        f"{classifier}/{leaf}": tensor
        for tensor in translation.unmatched
        for owner, _, leaf in [tensor.label.rpartition("/")]
        if owner == layer
    }
    wanted = {name: shape for name, shape in shapes.items() if name.rpartition("/")[0] == classifier}
    fits = {name: tensor.shape for name, tensor in found.items()} == {n: as_dense(s) for n, s in wanted.items()}
    return found if fits else {}


def as_dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a dense layer that does what a 1×1 convolution after the last pooling does."""
    return shape[2:] if len(shape) == 4 and shape[:2] == (1, 1) else shape


def own_head_line(own_head: Mapping[str, Tensor]) -> str:
    labels = listed(tensor.label for tensor in own_head.values())
    return f"  the file's own head is the classifier, by {consent([SAME_CLASSES_KEY])}: {labels}"


def _check_classes(
    start: WarmStart,
    there: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    fresh: Sequence[str],
    others: str,
) -> None:
    """Refuse to replace the classifier if the user has set the number of classes."""
    name = f"{HEADS[0]}/bias"
    if name not in fresh or name not in there or start.classes_follow_data or CLASSES_KEY in start.allow:
        return
    found, wanted = there[name][0], shapes[name][0]
    if found != wanted:
        raise RestoreRefused(
            f"init_from={start.contents.path} has {found} classes, {CLASSES_KEY}={wanted}\n"
            f"set {CLASSES_KEY}={found}, or start with a fresh classifier: {consent([CLASSES_KEY])}"
        )
    raise RestoreRefused(
        f"init_from={start.contents.path} is for other classes: {others}\n"
        f"start with a fresh classifier: {consent([CLASSES_KEY])}, or say that they are the same: "
        f"{consent([SAME_CLASSES_KEY])}"
    )


def _check_settings(start: WarmStart, translation: Translation, config: Config) -> None:
    """Refuse when the network computes something else with equal weights, unless each such key is allowed."""
    refused = [s for s in differing_settings(start.contents, translation, config) if s.key not in start.allow]
    if not refused:
        return
    source = "its configuration" if origin_config(start.contents) is not None else f"weights of {translation.scheme}"
    lines = [f"  {s.key}: {s.found} in {source}, {s.configured} is configured" for s in refused]
    raise RestoreRefused(
        f"init_from={start.contents.path} fits in every shape, but its network computes something else\n"
        + "".join(f"{line}\n" for line in lines)
        + f"add {' '.join(f'{s.key}={s.found}' for s in refused)}, or say that what is configured is right: "
        f"{consent(s.key for s in refused)}"
    )


def check_normalization(start: WarmStart, known: Known, config: Config) -> None:
    """Refuse another normalisation: weights need the range of pixel values that they were trained on."""
    if PREPROCESS_KEY in start.allow:
        return
    configured = config.preprocess.normalize
    if len(known) == 1 and same(known[0][1], configured):
        return
    meant = [f"  {source}: {_overrides(normalize, configured)}" for source, normalize in known]
    if len(known) == 1:
        title = "belongs to another preprocessing than the configured one"
        advice = f"add that, or say that the configured one is right: {consent([PREPROCESS_KEY])}"
    else:
        title = "does not say which preprocessing it belongs to"
        advice = f"add the right one, and say so: {consent([PREPROCESS_KEY])}"
    raise RestoreRefused(
        f"init_from={start.contents.path} {title}\n"
        + "".join(f"{line}\n" for line in meant)
        + f"  configured: mean {_list(configured.mean)} std {_list(configured.std)}{_channels(configured)}\n{advice}"
    )


def _overrides(normalize: NormalizeConfig, configured: NormalizeConfig) -> str:
    """The arguments that set a normalisation; the order of channels where it is not the configured one."""
    text = f"preprocess.normalize.mean={_list(normalize.mean)} preprocess.normalize.std={_list(normalize.std)}"
    differs = normalize.channels != configured.channels
    return f"{text} preprocess.normalize.channels={normalize.channels}" if differs else text


def _channels(normalize: NormalizeConfig) -> str:
    return "" if normalize.channels == "rgb" else f" channels {normalize.channels}"


def _known_normalizations(contents: Contents, translation: Translation) -> Known:
    """The possible origins of weights of this kind, with the right normalisation for each."""
    if ORIGIN_CONFIG in contents.facts or translation.scheme == own_names.TITLE:
        origin = origin_config(contents)
        return [] if origin is None else [("its configuration", origin.preprocess.normalize)]
    if translation.scheme == torch_names.TITLE:
        return [
            ("torchvision with transform_input=True (its published weights), timm tf_in1k and tv_in1k", HALF),
            ("torchvision with transform_input=False, timm gluon_in1k", IMAGENET),
        ]
    return [(f"weights of {translation.scheme} are for pixels in -1..1", HALF)]


def _list(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:.9g}' for value in values)}]"


def check_doubled(start: WarmStart, translation: Translation) -> None:
    """Refuse a file in which it is open what a tensor means: which one would be taken were chance. A SavedModel of
    Keras has each variable twice, with equal values.
    """
    contents = start.contents
    for name, (first, *others) in translation.doubled.items():
        value = _read(contents, first)
        differing_ones = [tensor for tensor in others if not np.array_equal(value, _read(contents, tensor))]
        if differing_ones:
            raise RestoreRefused(
                f"init_from={contents.path} has {len(translation.doubled)} variables twice, with different values: it "
                f"may hold two networks\n  {name}: {first.label} and {differing_ones[0].label}\n"
                "write a file with one of them"
            )
    if translation.mixed_layouts:
        channels_first, channels_last = translation.mixed_layouts
        raise RestoreRefused(
            f"init_from={contents.path} has kernels in two layouts\n"
            f"  out×in×height×width: {channels_first}\n  height×width×in×out: {channels_last}\n"
            "write all of them in one layout"
        )


def _read(contents: Contents, tensor: Tensor) -> np.ndarray:
    return values_of(contents, {tensor.label: tensor}).arrays[tensor.label]


def values_of(contents: Contents, wanted: Mapping[str, Tensor]) -> Values:
    try:
        return read_values(contents, wanted)
    except Unusable as error:
        finding = error.finding
        if finding.status == DAMAGE and contents.kind in (Kind.BUNDLE, Kind.V1):
            finding = next(iter(damage(contents)), finding)  # which of its files, and how much of it
        raise finding.refusal(f"init_from={contents.path}: ") from error


def _in_our_layout(name: str, value: np.ndarray, channels_first: bool) -> np.ndarray:
    if channels_first and value.ndim in (2, 4):
        value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
    return value.reshape(head_shape(name, value.shape))
