"""TF-Slim: ``InceptionV3/Mixed_5b/Branch_1/Conv2d_0b_5x5/BatchNorm/beta``.

Names and their irregularities: tensorflow/models research/slim/nets/inception_v3.py. Slots and shadows have the endings
that the ``tf.compat.v1.train`` optimizers and ``ExponentialMovingAverage`` append.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.interchange.meanings import Meaning
from trainer.models.inception_v3_units import AUX_KERNEL_UNIT, NORM_LEAVES, is_variable

TITLE = "TF-Slim"
SCOPE = "InceptionV3/"
SHADOW = "ExponentialMovingAverage"
SLOTS = ("RMSProp", "RMSProp_1", "RMSProp_2", "Momentum", "Adam", "Adam_1", "Adagrad", "Adadelta", "Adadelta_1", "Ftrl")
COUNTERS = ("global_step", "beta1_power", "beta2_power", "learning_rate")
OPTIMIZERS = {
    frozenset({"Adam", "Adam_1"}): "adam",
    frozenset({"Momentum"}): "sgd",
    frozenset({"RMSProp", "RMSProp_1"}): "rmsprop",
    frozenset({"RMSProp", "RMSProp_1", "RMSProp_2"}): "rmsprop, centered",
    frozenset({"Adagrad"}): "adagrad",
    frozenset({"Adadelta", "Adadelta_1"}): "adadelta",
    frozenset({"Ftrl", "Ftrl_1"}): "ftrl",
}
# Slim's unit, in lower case → ours, where they differ
IRREGULAR = {
    "mixed_5c/branch_1/conv2d_0b_1x1": "mixed_5c/branch_1/conv2d_0a_1x1",
    "mixed_5c/branch_1/conv_1_0c_5x5": "mixed_5c/branch_1/conv2d_0b_5x5",
    "mixed_6a/branch_0/conv2d_1a_1x1": "mixed_6a/branch_0/conv2d_1a_3x3",
    "mixed_6a/branch_1/conv2d_1a_1x1": "mixed_6a/branch_1/conv2d_1a_3x3",
    "mixed_7b/branch_1/conv2d_0b_3x1": "mixed_7b/branch_1/conv2d_0c_3x1",
    "logits/conv2d_1c_1x1": "logits/logits",
    "auxlogits/conv2d_1b_1x1": "aux_logits/conv2d_1b_1x1",
    "auxlogits/conv2d_2b_1x1": "aux_logits/logits",
}
LEAVES = {"weights": "kernel", "biases": "bias"}


def meanings(labels: Iterable[str]) -> dict[str, Meaning]:
    """Names below ``InceptionV3/``. Where no label has that scope, the network was built in another one, or in none."""
    labels = list(labels)
    scoped = any(SCOPE in label for label in labels)
    found = {label: _meaning(label, scoped=scoped) for label in labels}
    return {label: meaning for label, meaning in found.items() if meaning is not None}


def _meaning(label: str, *, scoped: bool) -> Meaning | None:
    if label in COUNTERS:
        return Meaning("counter", label)
    if scoped:
        _, scope, rest = label.partition(SCOPE)  # clones and towers put scopes in front
        return _below(rest) if scope else None
    parts = label.split("/")
    found = (_below("/".join(parts[start:])) for start in range(len(parts)))
    return next((meaning for meaning in found if meaning is not None), None)


def _below(rest: str) -> Meaning | None:
    """The meaning of what follows the network's scope."""
    stem, _, last = rest.rpartition("/")
    if last == SHADOW or last in SLOTS:
        name = _variable(stem)
        if name is None:
            return None
        return Meaning("shadow", name) if last == SHADOW else Meaning("slot", name, last)
    name = _variable(rest)
    return None if name is None else Meaning("variable", name)


def _variable(path: str) -> str | None:
    head, _, leaf = path.rpartition("/")
    if leaf in NORM_LEAVES and head.endswith("/BatchNorm"):
        name = f"{_unit(head.removesuffix('/BatchNorm'))}/batch_norm/{leaf}"
    elif leaf in LEAVES:
        unit = _unit(head)
        name = f"{unit}/{LEAVES[leaf]}" if unit.endswith("/logits") else f"{unit}/conv/{LEAVES[leaf]}"
    else:
        return None
    return name if is_variable(name) else None


def _unit(path: str) -> str:
    lower = path.lower()
    if re.fullmatch(r"auxlogits/conv2d_2a_\dx\d", lower):
        return AUX_KERNEL_UNIT  # Slim names it after the window, whose size depends on the image size
    return IRREGULAR[lower] if lower in IRREGULAR else lower
