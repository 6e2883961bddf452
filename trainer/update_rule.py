"""What an optimizer is made of: slots for each variable, and what a step does with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

Slots = Mapping[str, tf.Variable]
# (variable, gradient, the variable's slots)
Update = Callable[[tf.Variable, tf.Tensor, Slots], None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An update rule: the slots each variable has, with their initial value, and what a step does.

    ``begin`` makes the update of one step from its learning rate float32 ``[]`` and its number float32 ``[]``, 1 for
    the first. What all variables share is computed there: thousands of operations fewer in the graph of a step.
    """

    slots: Mapping[str, float]
    begin: Callable[[tf.Tensor, tf.Tensor], Update]
