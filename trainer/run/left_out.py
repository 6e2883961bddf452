"""What a file of weights has and a new run does not take, with the reason for each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from trainer.command_line import argument, command_line, consent
from trainer.diagnosis.comparison import head_text
from trainer.diagnosis.prescription import look_command
from trainer.interchange.contents import ORIGIN, Contents, Tensor
from trainer.interchange.findings import SHOWN, listed
from trainer.interchange.translation import Translation
from trainer.run_directory.layout import CHECKPOINTS

PREPROCESSING = re.compile(r"(?:^|/)normalization(?:_\d+)?/(?:mean|variance|count)$")
NOT_TAKEN = "  not taken from the file: "


def left_out(
    contents: Contents,
    translation: Translation,
    skipped: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    classifiers: Collection[str],
) -> list[str]:
    """A line for each reason. ``skipped`` are the network's variables that are in the file and were not taken, with
    their shapes there. ``shapes`` are those of the run's network, ``classifiers`` the names of its classifiers'.
    """
    reasons: dict[str, list[str]] = {}
    for name, shape in skipped.items():
        reasons.setdefault(_reason(name, shape, shapes, classifiers), []).append(f"{name} {list(shape)}")
    fitting = {shape for name in classifiers if name in shapes for shape in (shapes[name], shapes[name][2:])}
    stems = {_stem(tensor) for tensor in translation.own_head}
    for tensor in translation.unmatched:
        head = _head(len(stems), tensor, fitting) if _stem(tensor) in stems else _nameless(tensor)
        text = f"{tensor.label} {list(tensor.shape)}"
        if text not in reasons.setdefault(head, []):  # a SavedModel of Keras has each variable twice
            reasons[head].append(text)
    lines = [f"{NOT_TAKEN}{listed(names)} ({reason})" for reason, names in reasons.items()]
    if any(len(names) > SHOWN for names in reasons.values()):
        lines.append(f"    all of them: {look_command(contents.path)}")
    if translation.shadows and translation.variables:
        first = next(iter(translation.shadows.values()))
        lines.append(
            f"{NOT_TAKEN}{len(translation.shadows)} moving averages, first {first.label} "
            f"(averages start at the weights){_averages(contents)}"
        )
    if slots := sum(translation.slots.values()):
        kind = f" of {translation.optimizer}" if translation.optimizer else ""
        lines.append(f"{NOT_TAKEN}{slots} tensors of the optimizer's state{kind} (a new run begins with its own)")
    if translation.counters:
        lines.append(
            f"{NOT_TAKEN}{len(translation.counters)} counters: {listed(translation.counters)} (they start at 0)"
        )
    return lines


def _head(dense_layers: int, tensor: Tensor, fitting: Collection[tuple[int, ...]]) -> str:
    taken = f"; {consent(['data.classes'])} says that they are those of the data, and takes it"
    return head_text(dense_layers) + (taken if dense_layers == 1 and tensor.shape in fitting else "")


def _nameless(tensor: Tensor) -> str:
    if PREPROCESSING.search(tensor.label):
        return "preprocess.normalize does what it does"
    return "nothing in this network has such a name"


def _stem(tensor: Tensor) -> str:
    """The layer of a tensor: ``dense_1`` of ``dense_1/kernel``, ``fc.0`` of ``fc.0.weight``."""
    return re.split(r"[/.](?=[^/.]*$)", tensor.label)[0]


def _reason(
    name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], classifiers: Collection[str]
) -> str:
    if name not in shapes:
        return "this network has no such layer"
    if shape != shapes[name]:
        kind = "classes" if name in classifiers else "values"
        return f"this network has {shapes[name][-1]} {kind} there"
    return "they are for other classes"


def _averages(contents: Contents) -> str:
    """How to start from the averages of one of our own checkpoints, where it lies in its run."""
    if ORIGIN not in contents.facts or contents.path.absolute().parent.name != CHECKPOINTS:
        return ""
    run_dir = contents.path.absolute().parent.parent
    output = run_dir.with_name(f"{run_dir.name}-{contents.path.name}.safetensors")
    places = [argument("run_dir", run_dir), argument("checkpoint", contents.path.name), argument("output", output)]
    command = command_line("export", *places, "weights=ema", "format=weights")
    return f"; to start from the averages, export them and give that file: {command}"
