"""A network and a schedule for trainer: the keys of each, and what it does with them.

TensorFlow and Keras are imported where they are used, so that a wrong key is told at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from trainer.config.keys import key
from trainer.config.schema import ModelPlugin, SchedulePlugin

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class SmallNet(ModelPlugin):
    """Convolutions that halve the image, each with twice the filters of the one before."""

    name: Literal["small_net"] = key("which network: a small one", "fixed")
    filters: int = key("of the first convolution", "fixed", minimum=1, maximum=1024)
    depth: int = key("number of convolutions", "fixed", minimum=1, maximum=5)
    dropout: float = key("share of the last features dropped in training", "consent", minimum=0.0, below=1.0)

    def build(self, image_size: int) -> keras.Model:
        import keras

        image = x = keras.Input((image_size, image_size, 3))
        for number in range(self.depth):
            x = keras.layers.Conv2D(self.filters * 2**number, 3, 2, "same", use_bias=False, name=f"conv_{number}")(x)
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(x)
            x = keras.layers.ReLU(name=f"relu_{number}")(x)
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dropout(self.dropout, name="drop")(x)
        return keras.Model(image, keras.layers.Dense(self.num_classes, name="classifier")(x))


@dataclasses.dataclass(frozen=True)
class OneCycle(SchedulePlugin):
    """Up in a straight line to the peak, down again to nothing (arXiv 1708.07120, without its last phase)."""

    name: Literal["one_cycle"] = key("which schedule: up and down once", "consent")
    rise: float = key("share of the steps on the way up", "consent", above=0.0, below=1.0)

    def factor(self, step: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        assert self.decay_steps is not None, "filled in when the run started"
        progress = tf.minimum(step / self.decay_steps, 1.0)
        return tf.minimum(progress / self.rise, (1.0 - progress) / (1.0 - self.rise))
