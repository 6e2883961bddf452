"""Keras: our own layers (``mixed_5b.branch_0.….conv/kernel``, in exports ``mixed_5b__branch_0__…``), or
``keras.applications`` (``conv2d_8/kernel``).

``keras.applications.InceptionV3`` numbers its layers in the order in which it creates them. The numbers continue from
the models that the process built before, so only their order has a meaning. A nested model is a scope of its own, and
layers that were put on top of the network have the higher numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from trainer.interchange.meanings import Meaning
from trainer.models.inception_v3_units import BODY, is_variable

TITLE = "Keras"
OPTIMIZERS = {
    frozenset({"m", "v"}): "adam",  # Keras 2
    frozenset({"velocity"}): "rmsprop",
    frozenset({"momentum", "velocity"}): "adam",
    frozenset({"momentum"}): "sgd",
    frozenset({"velocity_hat", "momentum", "velocity"}): "adam, amsgrad",
}
NUMBERED = re.compile(
    r"(?P<scope>.*/)?(?:(?P<conv>conv2d)|batch_normalization)(?:_(?P<number>\d+))?/"
    r"(?P<leaf>(?(conv)(?:kernel|bias)|(?:beta|gamma|moving_mean|moving_variance)))"
)
CLASSIFIER = re.compile(r"(?:.*/)?predictions(?:_\d+)?/(kernel|bias)")
SLOT = re.compile(r"[A-Za-z]+(?:_\d+)?/(?P<name>.+)[_/](?P<slot>velocity_hat|momentum|velocity|m|v)")  # adam/…_momentum
LEVEL = re.compile(r"\.|__")  # in our own names: dots in the network, __ in exports
NUMBERED_STATE = ("optimizer/vars/", "optimizer_weights/")  # an HDF5 file names the optimizer
COUNTERS = (
    "seed_generator_state",
    "iteration",
    "iterations",
    "learning_rate",
    "save_counter",
    "beta_1",
    "beta_2",
    "decay",
)


def meanings(labels: Iterable[str]) -> dict[str, Meaning]:
    labels = list(labels)
    found = _numbered(labels)
    for label in labels:
        if label not in found:
            meaning = _dotted(label)
            if meaning is not None:
                found[label] = meaning
    return found | state_meanings(labels, found)


def state_meanings(labels: Sequence[str], variables: Mapping[str, Meaning]) -> dict[str, Meaning]:
    """The meaning of labels that are of an optimizer: slots and counters, beside the ``variables``."""
    found = dict(variables)
    slots = {_flat(meaning.name): meaning.name for meaning in found.values()}
    flat_labels = {_flat(label): found[label].name if label in found else label for label in labels}
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
    name = f"{LEVEL.sub('/', layer.rpartition('/')[2])}/{leaf}"
    return Meaning("variable", name) if is_variable(name) else None


def _numbered(labels: list[str]) -> dict[str, Meaning]:
    """Labels of ``keras.applications``; empty unless a scope of the file has as many convolutions as the network."""
    by_scope: dict[str, list[tuple[str, re.Match[str]]]] = {}
    for label in labels:
        if (match := NUMBERED.fullmatch(label)) and not label.startswith(NUMBERED_STATE):
            by_scope.setdefault(match["scope"] or "", []).append((label, match))
    found: dict[str, Meaning] = {}
    for matches in by_scope.values():
        found |= _network(matches)
    single = not any(
        label.endswith("/kernel") and label not in found and not CLASSIFIER.fullmatch(label) for label in labels
    )
    for label in labels if found and single else ():  # with layers below it, it is not the network's classifier
        if classifier := CLASSIFIER.fullmatch(label):
            found[label] = Meaning("variable", f"logits/logits/{classifier[1]}")
    return found


def _network(matches: list[tuple[str, re.Match[str]]]) -> dict[str, Meaning]:
    numbers: dict[str, set[int]] = {"conv": set(), "batch_norm": set()}
    for _, match in matches:
        numbers[_layer(match)].add(int(match["number"] or 0))
    if len(numbers["conv"]) < len(BODY) or 0 < len(numbers["batch_norm"]) < len(BODY):
        return {}
    units = {
        (layer, number): unit
        for layer, there in numbers.items()
        for number, unit in zip(sorted(there), BODY, strict=False)
    }
    found = {}
    for label, match in matches:
        key = (_layer(match), int(match["number"] or 0))
        if key in units:
            found[label] = Meaning("variable", f"{units[key]}/{key[0]}/{match['leaf']}")
    return found


def _layer(match: re.Match[str]) -> str:
    return "conv" if match["conv"] else "batch_norm"
