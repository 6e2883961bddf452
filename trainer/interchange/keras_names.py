"""Keras: our own layers (``mixed_5b.branch_0.….conv/kernel``), or ``keras.applications`` (``conv2d_8/kernel``).

``keras.applications.InceptionV3`` numbers its layers in the order in which it creates them. The numbers continue from
the models that the process built before, so only their order has a meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.interchange.meanings import Meaning
from trainer.models.inception_v3_units import BODY, NORM_LEAVES, is_variable

TITLE = "Keras"
OPTIMIZERS = {
    frozenset({"m", "v"}): "adam",  # Keras 2
    frozenset({"velocity"}): "rmsprop",
    frozenset({"momentum", "velocity"}): "adam",
    frozenset({"momentum"}): "sgd",
    frozenset({"velocity_hat", "momentum", "velocity"}): "adam, amsgrad",
}
NUMBERED = re.compile(
    r"(?:.*/)?(conv2d|batch_normalization)(?:_(\d+))?/(kernel|bias|beta|gamma|moving_mean|moving_variance)"
)
CLASSIFIER = re.compile(r"(?:.*/)?predictions(?:_\d+)?/(kernel|bias)")
SLOT = re.compile(r"[A-Za-z]+(?:_\d+)?/(?P<name>.+)[_/](?P<slot>velocity_hat|momentum|velocity|m|v)")  # adam/…_momentum
NUMBERED_STATE = ("optimizer/vars/", "optimizer_weights/")  # an HDF5 file names the optimizer
COUNTERS = ("iteration", "iterations", "learning_rate", "save_counter", "beta_1", "beta_2", "decay")


def meanings(labels: Iterable[str]) -> dict[str, Meaning]:
    labels = list(labels)
    found = _numbered(labels)
    for label in labels:
        if label not in found:
            meaning = _dotted(label)
            if meaning is not None:
                found[label] = meaning
    slots = {_flat(meaning.name): meaning.name for meaning in found.values()}
    flat_labels = {_flat(label): meaning.name for label, meaning in found.items()}
    for label in labels:
        match = SLOT.fullmatch(label)
        if label in found:
            continue
        if match is not None and (flat := _flat(match["name"])) in slots.keys() | flat_labels.keys():
            found[label] = Meaning("slot", slots[flat] if flat in slots else flat_labels[flat], match["slot"])
        elif label.rpartition("/")[2] in COUNTERS:
            found[label] = Meaning("counter", label)
        elif label.startswith(NUMBERED_STATE):
            found[label] = Meaning("slot", label, "numbered state")
    return found


def _flat(name: str) -> str:
    """Keras 3 joins a variable's path with ``_`` when it names the variable's slots."""
    return name.replace("/", "_").replace(".", "_")


def _dotted(label: str) -> Meaning | None:
    layer, _, leaf = label.rpartition("/")
    name = f"{layer.rpartition('/')[2].replace('.', '/')}/{leaf}"
    return Meaning("variable", name) if is_variable(name) else None


def _numbered(labels: list[str]) -> dict[str, Meaning]:
    """Labels of ``keras.applications``; empty unless the file has as many convolutions as the network."""
    matches = {label: match for label in labels if (match := NUMBERED.fullmatch(label))}
    numbers = {
        layer: sorted({int(match[2] or 0) for match in matches.values() if match[1] == layer})
        for layer in ("conv2d", "batch_normalization")
    }
    if len(numbers["conv2d"]) != len(BODY) or len(numbers["batch_normalization"]) not in (0, len(BODY)):
        return {}
    units = list(BODY)
    ranks = {layer: {number: rank for rank, number in enumerate(found)} for layer, found in numbers.items()}
    found = {}
    for label, match in matches.items():
        layer = "batch_norm" if match[3] in NORM_LEAVES else "conv"
        found[label] = Meaning("variable", f"{units[ranks[match[1]][int(match[2] or 0)]]}/{layer}/{match[3]}")
    for label in labels:
        classifier = CLASSIFIER.fullmatch(label)
        if classifier is not None:
            found[label] = Meaning("variable", f"logits/logits/{classifier[1]}")
    return found
