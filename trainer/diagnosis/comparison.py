"""Compare the variables of a file with those of a model, and find the root causes of the differences.

Each check looks for one cause and returns the variables that the cause accounts for. So the consequences of a cause are
not reported beside it. Differences that no check accounts for are reported by name at the end.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from trainer.diagnosis.expected import Expected
from trainer.diagnosis.widths import SHARE, Width, infer
from trainer.interchange.contents import Tensor
from trainer.interchange.findings import MISMATCH, Finding, listed, shape_text
from trainer.interchange.translation import Translation, head_shape
from trainer.models.inception_v3 import AUX_POOL, AUX_STRIDE
from trainer.models.inception_v3_units import AUX, AUX_KERNEL_UNIT, BODY, HEADS, PUBLISHED, unit_of

BACKGROUND = 1001  # a class for "none of them", then ImageNet's 1000 classes, as TF-Slim numbers them
KERNEL = "conv/kernel"
# torch.nn.utils.prune, weight_norm and parametrize, and PEFT
IN_PARTS = re.compile(r"\.weight_(?:orig|mask|g|v)$|\.parametrizations\.|\.base_layer\.|\.lora_[A-Za-z]")
NAMELESS = re.compile(r"/vars/\d+$")  # the variables of a layer in a Keras 3 file without the layer's name
SMALLEST_IMAGE, PUBLISHED_IMAGE = 75, 299  # pixels


@dataclasses.dataclass(frozen=True)
class Sides:
    """Shapes of the model's variables: those in the file, in TensorFlow's layout, and those of the model."""

    found: Mapping[str, tuple[int, ...]]
    wanted: Mapping[str, tuple[int, ...]]
    expected: Expected
    known: Width | None  # the file's, where its own configuration says so
    own_head: tuple[Tensor, ...]  # dense layers of the file that the network does not have

    def filters(self, side: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Unit → output channels of its convolution."""
        return {
            unit: side[f"{unit}/{KERNEL}"][-1]
            for unit in PUBLISHED
            if f"{unit}/{KERNEL}" in side and len(side[f"{unit}/{KERNEL}"]) == 4
        }

    @property
    def width(self) -> Width:
        model = self.expected.inception
        return Width(model.width, model.min_depth)


@dataclasses.dataclass(frozen=True)
class Cause:
    """A finding and the variables whose difference it accounts for."""

    finding: Finding
    accounts_for: Collection[str]


def differing(translation: Translation, expected: Expected, known: Width | None = None) -> list[Finding]:
    """Why the file's variables are not the model's; empty when they are. ``known`` is the file's own width."""
    found = {name: head_shape(name, tensor.shape) for name, tensor in translation.weights.items()}
    sides = Sides(found, expected.model, expected, known, translation.own_head)
    parts = [label for label in translation.unknown if IN_PARTS.search(label)]
    if parts and any(name.endswith("kernel") and name not in found for name in expected.model):
        return [_in_parts(parts)]
    if len(translation.units) < len(BODY) / 2:
        return [_not_inception_v3(translation)]
    open_names = {
        name
        for name in found.keys() | expected.model.keys()
        if name not in found or name not in expected.model or found[name] != expected.model[name]
    }
    findings = []
    checks: tuple[Callable[[Sides, set[str]], list[Cause]], ...] = (
        _aux_head,
        _classifier,
        _batch_norm,
        _gamma,
        _input_channels,
        _filters,
        _aux_window,
        _classes,
        _windows,
        _rest,
    )
    for check in checks:
        for cause in check(sides, open_names):
            findings.append(cause.finding)
            open_names -= set(cause.accounts_for)
    return findings


def _in_parts(labels: Sequence[str]) -> Finding:
    return Finding(
        "weights_in_parts",
        MISMATCH,
        f"it does not hold the weights themselves, but {len(labels)} parts that make them: {listed(labels)}",
        (
            "pruning, weight normalisation, torch's parametrizations and LoRA store weights in that way",
            "merge the parts where the model is loaded (prune.remove, parametrize.remove_parametrizations, "
            "merge_and_unload), and write the file again",
        ),
    )


def _not_inception_v3(translation: Translation) -> Finding:
    names = [*translation.weights, *translation.unknown]
    nameless = any(NAMELESS.search(label) for label in translation.unknown)
    return Finding(
        "not_inception_v3",
        MISMATCH,
        f"{len(translation.units)} of the {len(BODY)} convolutions of Inception V3 are in it",
        (
            f"it holds {listed(names) or 'no tensors'}",
            *(["its layers have no names: load it where it was written, and save it with a newer Keras 3"] * nameless),
        ),
    )


def _aux_head(sides: Sides, open_names: set[str]) -> list[Cause]:
    there = any(name.startswith(f"{AUX}/") for name in sides.found)
    if there == sides.expected.inception.aux_logits:
        return []
    names = [name for name in open_names if name.startswith(f"{AUX}/")]
    if there:
        title = "the checkpoint has an auxiliary head, the model has none (model.aux_logits=false)"
    else:
        title = "the checkpoint has no auxiliary head, the model has one (model.aux_logits=true)"
    cause = "aux_unexpected" if there else "aux_absent"
    override = f"model.aux_logits={str(there).lower()}"
    details = (f"{len(names)} variables under {AUX}/",)
    return [Cause(Finding(cause, MISMATCH, title, details, (override,), ("model.aux_logits",)), names)]


def _classifier(sides: Sides, open_names: set[str]) -> list[Cause]:
    names = [name for name in open_names if unit_of(name) == HEADS[0] and name not in sides.found]
    if len(names) < 2:
        return []
    title = f"the checkpoint has no classifier, the model has {HEADS[0]} with {sides.expected.num_classes} classes"
    layers = listed(f"{tensor.label} {list(tensor.shape)}" for tensor in sides.own_head)
    text = head_text(len(sides.own_head))
    return [Cause(Finding("classifier_absent", MISMATCH, title, (f"{text}: {layers}" if layers else text,)), names)]


def head_text(dense_layers: int) -> str:
    """What a file has in place of the network's classifier, by the number of dense layers of its own."""
    match dense_layers:
        case 0:
            return "it was saved as a feature extractor"
        case 1:
            return "it has a classifier of its own, and does not say for which classes"
    return f"it has a head of its own with {dense_layers} dense layers, and this network's is one layer"


def _batch_norm(sides: Sides, open_names: set[str]) -> list[Cause]:
    biased = [unit for unit in PUBLISHED if f"{unit}/conv/bias" in open_names]
    bare = [unit for unit in biased if f"{unit}/batch_norm/beta" not in sides.found]
    if not bare:
        return []
    details = (
        f"{bare[0]}: checkpoint conv/bias, model batch_norm/beta, moving_mean and moving_variance",
        "TF-Slim writes this when slim.arg_scope(inception_v3_arg_scope()) was forgotten around the network",
        "no setting of the model fits: batch norm has to be in the program that writes the checkpoint",
    )
    title = f"{len(bare)} of {len(PUBLISHED)} convolutions have biases where the model has batch norm"
    names = [name for name in open_names if unit_of(name) in bare and not name.endswith(KERNEL)]
    return [Cause(Finding("batch_norm_absent", MISMATCH, title, details), names)]


def _gamma(sides: Sides, open_names: set[str]) -> list[Cause]:
    names = [name for name in open_names if name.endswith("/gamma") and (name in sides.found) != (name in sides.wanted)]
    if not names:
        return []
    wanted = sides.expected.inception.batch_norm.scale
    found, missing = ("no", "one") if wanted else ("a", "none")
    title = (
        f"batch norm has {found} multiplier (gamma) in the checkpoint and {missing} in the model "
        f"(model.batch_norm.scale={str(wanted).lower()})"
    )
    details = (f"{len(names)} variables, first {min(names)}",)
    override = f"model.batch_norm.scale={str(not wanted).lower()}"
    return [Cause(Finding("gamma", MISMATCH, title, details, (override,), ("model.batch_norm.scale",)), names)]


def _input_channels(sides: Sides, open_names: set[str]) -> list[Cause]:
    name = f"{next(iter(BODY))}/{KERNEL}"
    if name not in open_names or name not in sides.found or len(sides.found[name]) != 4:
        return []
    found, wanted = sides.found[name][2], sides.wanted[name][2]
    if found == wanted:
        return []
    title = f"the checkpoint takes images of {found} channel{'s' if found > 1 else ''}, the model of {wanted}"
    same_filters = sides.found[name][3] == sides.wanted[name][3]
    return [Cause(Finding("input_channels", MISMATCH, title, (name,)), [name] if same_filters else [])]


def _filters(sides: Sides, open_names: set[str]) -> list[Cause]:
    """Filter counts: one width for all layers, or else the layers that stand out."""
    found, wanted = sides.filters(sides.found), sides.filters(sides.wanted)
    changed = {unit for unit in found.keys() & wanted.keys() if found[unit] != wanted[unit]}
    if not changed:
        return []
    causes = []
    names = [name for name in open_names if _may_follow(name, sides)]
    width = infer(found, sides.width)
    if sides.known is not None and sides.known.fitting(found) >= width.fitting(found):
        width = sides.known  # several widths can have the same filters
    fitting = width.fitting(found)
    if width != sides.width and len(fitting) >= SHARE * len(found):
        causes.append(Cause(_width_finding(sides, width, found, changed), names))
        changed = found.keys() - fitting
        for unit in sorted(changed, key=list(PUBLISHED).index):
            title = f"{unit} has {found[unit]} filters in the checkpoint, not the {width.filters(unit)} of that width"
            causes.append(Cause(Finding("filters", MISMATCH, title), names))
        return causes
    for unit in sorted(changed, key=list(PUBLISHED).index):
        title = f"{unit} has {found[unit]} filters in the checkpoint and {wanted[unit]} in the model"
        causes.append(Cause(Finding("filters", MISMATCH, title, _following(unit, names, sides)), names))
    return causes


def _width_finding(sides: Sides, width: Width, found: Mapping[str, int], changed: Collection[str]) -> Finding:
    overrides = []
    if width.width != sides.width.width:
        overrides.append(f"model.width={width.width:g}")
    if width.min_depth != sides.width.min_depth:
        overrides.append(f"model.min_depth={width.min_depth}")
    first = next(unit for unit in PUBLISHED if unit in changed)
    return Finding(
        "width",
        MISMATCH,
        f"the checkpoint's filters fit model.width={width.width:g} model.min_depth={width.min_depth}, "
        f"the model has width={sides.width.width:g} min_depth={sides.width.min_depth}",
        (
            f"{len(changed)} of {len(found)} convolutions differ in their number of filters; the first, {first}, has "
            f"{found[first]} in the checkpoint and {sides.filters(sides.wanted)[first]} in the model",
        ),
        tuple(overrides),
        ("model.width", "model.min_depth"),
    )


def _following(unit: str, names: Collection[str], sides: Sides) -> tuple[str, ...]:
    kernel = f"{unit}/{KERNEL}"
    shapes = f"{kernel}: checkpoint {shape_text(sides.found[kernel])}, model {shape_text(sides.wanted[kernel])}"
    others = sorted(set(names) - {kernel})
    return (shapes, *([f"{len(others)} more shapes follow from it: {listed(others)}"] if others else []))


def _may_follow(name: str, sides: Sides) -> bool:
    """Whether a changed number of filters, in this layer or an earlier one, can explain the whole difference.

    It cannot explain other windows or classes, nor a batch norm vector that does not fit its own convolution.
    """
    if name not in sides.found or name not in sides.wanted or len(sides.found[name]) != len(sides.wanted[name]):
        return False
    found, wanted = sides.found[name], sides.wanted[name]
    if unit_of(name) in HEADS:
        return name.endswith("kernel") and found[-1] == wanted[-1]
    if name.endswith(KERNEL):
        return found[:2] == wanted[:2]
    kernel = f"{unit_of(name)}/{KERNEL}"
    return kernel in sides.found and found == sides.found[kernel][-1:]


def _aux_window(sides: Sides, open_names: set[str]) -> list[Cause]:
    name = f"{AUX_KERNEL_UNIT}/{KERNEL}"
    if name not in open_names or name not in sides.found or name not in sides.wanted:
        return []
    found, wanted = sides.found[name], sides.wanted[name]
    if len(found) != 4 or found[:2] == wanted[:2]:
        return []
    size = sides.expected.config.preprocess.image_size
    fitting = [
        candidate for candidate in range(SMALLEST_IMAGE, PUBLISHED_IMAGE + 1) if aux_window(candidate) == found[0]
    ]
    title = (
        f"the auxiliary head's kernel is {found[0]}×{found[1]} in the checkpoint and {wanted[0]}×{wanted[1]} in the "
        f"model (preprocess.image_size={size})"
    )
    details = [f"{name}: its window follows the size of the images"]
    overrides: tuple[str, ...] = ()
    if fitting:
        sizes = (
            f"{fitting[0]} to {fitting[-1]} pixels" if fitting[-1] < PUBLISHED_IMAGE else f"{fitting[0]} pixels or more"
        )
        details.append(f"{found[0]}×{found[1]} belongs to images of {sizes}")
        overrides = (f"preprocess.image_size={fitting[0]}",)
    return [
        Cause(Finding("image_size", MISMATCH, title, tuple(details), overrides, ("preprocess.image_size",)), [name])
    ]


def aux_window(image_size: int) -> int:
    """Side in cells of the auxiliary head's last kernel for square images, see trainer/models/inception_v3.py."""
    cells = (image_size - 3) // 2 + 1 - 2  # conv2d_1a, conv2d_2a
    cells = (cells - 3) // 2 + 1 - 2  # maxpool_3a, conv2d_4a
    cells = ((cells - 3) // 2 + 1 - 3) // 2 + 1  # maxpool_5a, mixed_6a
    pooled = (cells - min(AUX_POOL, cells)) // AUX_STRIDE + 1
    return min(AUX_POOL, pooled)


def _classes(sides: Sides, open_names: set[str]) -> list[Cause]:
    name = f"{HEADS[0]}/bias"
    if name not in open_names or name not in sides.found or len(sides.found[name]) != 1:
        return []
    found, wanted = sides.found[name][0], sides.wanted[name][0]
    names = [name for name in open_names if unit_of(name) in HEADS and name in sides.found and name in sides.wanted]
    details = [f"{name}: checkpoint {found}, model {wanted}"]
    cause, title = "classes", f"the checkpoint has {found} classes, the model {wanted}"
    if {found, wanted} == {BACKGROUND, BACKGROUND - 1}:
        cause = "background_class"
        side = "checkpoint" if found == BACKGROUND else "model"
        details.append(f"class 0 of the {side} is the background: its class n is class n - 1 of the other")
    elif found == BACKGROUND:
        details.append("1001 are the 1000 of ImageNet after a background class, as TF-Slim numbers them")
    override = f"model.num_classes={found}"
    return [Cause(Finding(cause, MISMATCH, title, tuple(details), (override,), ("model.num_classes",)), names)]


def _windows(sides: Sides, open_names: set[str]) -> list[Cause]:
    causes = []
    for name in sorted(open_names):
        if name.endswith(KERNEL) and name in sides.found and name in sides.wanted:
            found, wanted = sides.found[name], sides.wanted[name]
            title = f"{name} is {shape_text(found)} in the checkpoint and {shape_text(wanted)} in the model"
            causes.append(Cause(Finding("kernel_shape", MISMATCH, title), [name]))
    return causes


def _rest(sides: Sides, open_names: set[str]) -> list[Cause]:
    """The remaining differences: variables on one side only, and shapes that no layer's filter count explains."""
    absent = sorted(name for name in open_names if name not in sides.found)
    extra = sorted(name for name in open_names if name not in sides.wanted)
    causes = []
    if absent:
        title = f"{len(absent)} variables of the model are not in the checkpoint: {listed(absent)}"
        causes.append(Cause(Finding("absent", MISMATCH, title), absent))
    if extra:
        title = f"{len(extra)} variables of the checkpoint are not in the model: {listed(extra)}"
        causes.append(Cause(Finding("unexpected", MISMATCH, title), extra))
    for name in sorted(open_names - {*absent, *extra}):
        found, wanted = shape_text(sides.found[name]), shape_text(sides.wanted[name])
        title = f"{name} is {found} in the checkpoint and {wanted} in the model"
        causes.append(Cause(Finding("shape", MISMATCH, title), [name]))
    return causes
