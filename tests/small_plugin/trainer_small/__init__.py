"""Plug-ins for tests whose claim does not depend on the network: one that is built and traced in a tenth of the time of
Inception V3, and the digits at a pace.

Such a run would be over before a test can disturb it. ``data.seconds`` lets it wait between batches, which costs no
processor, where a larger network would cost one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from trainer.plugins import ModelPlugin, SourcePlugin, key

if TYPE_CHECKING:
    import keras

    from trainer.plugins import Split, StoredSplit


@dataclasses.dataclass(frozen=True)
class SmallNetwork(ModelPlugin):
    """Two convolutions with batch norm, dropout and a classifier: every kind of state that Inception V3 has."""

    name: Literal["small"] = key("which network: two convolutions", "fixed")
    activation: Literal["relu", "silu"] = key("after each convolution", "fixed")
    epsilon: float = key("of batch norm", "fixed", above=0.0)

    def build(self, image_size: int) -> keras.Model:
        import keras

        image = x = keras.Input((image_size, image_size, 3))
        for number, filters in enumerate((4, 8)):
            x = keras.layers.Conv2D(filters, 3, 4, "same", use_bias=False, name=f"conv_{number}")(x)
            x = keras.layers.BatchNormalization(momentum=0.9, epsilon=self.epsilon, name=f"norm_{number}")(x)
            x = keras.layers.Activation(self.activation, name=f"activation_{number}")(x)
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dropout(0.2, name="drop")(x)
        return keras.Model(image, keras.layers.Dense(self.num_classes, name="classifier")(x))


@dataclasses.dataclass(frozen=True)
class PacedDigits(SourcePlugin):
    """The embedded digits, read no faster than a record in so many seconds."""

    name: Literal["paced"] = key("which data: the digits, slowly", "fixed")
    seconds: float = key("that reading a record takes", "free", minimum=0.0)

    def open(self, split: Split) -> StoredSplit:
        from trainer_small.paced import PacedSplit

        return PacedSplit(self.seconds, split)
