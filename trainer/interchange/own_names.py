"""This trainer's state tree: ``model/mixed_5b/…/kernel``, ``optimizer/m/mixed_5b/…``, ``ema/…``, ``progress/step``,
``divergence/loss_mean``.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainer.interchange.meanings import Meaning
from trainer.models.inception_v3_units import is_variable

TITLE = "this trainer"
# trainer/training/optimizers.py; Adam and AdamW have the same slots
OPTIMIZERS = {
    frozenset({"m", "v"}): "adam",
    frozenset({"momentum"}): "sgd",
    frozenset({"mean_square", "momentum"}): "rmsprop",
}


def meanings(labels: Iterable[str]) -> dict[str, Meaning]:
    found = {label: _meaning(label) for label in labels}
    return {label: meaning for label, meaning in found.items() if meaning is not None}


def _meaning(label: str) -> Meaning | None:
    if is_variable(label):
        return Meaning("variable", label)
    section, _, name = label.partition("/")
    if section in ("progress", "divergence"):
        return Meaning("counter", label)
    if section == "optimizer":
        slot, _, name = name.partition("/")
        return Meaning("slot", name, slot) if is_variable(name) else None
    if section in ("model", "ema") and is_variable(name):
        return Meaning("variable" if section == "model" else "shadow", name)
    return None
