"""A network, an optimizer, a schedule, a source and a transform for trainer: the keys of each, and what it does with
them.

TensorFlow and Keras are imported where they are used, so that a wrong key is told at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from trainer.plugins import ModelPlugin, OptimizerPlugin, SchedulePlugin, SourcePlugin, TransformPlugin, key

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainer.plugins import Rule, Slots, Split, StoredSplit, Update


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


@dataclasses.dataclass(frozen=True)
class Lion(OptimizerPlugin):
    """A step of one size in every direction, by the sign of a momentum (arXiv 2302.06675, algorithm 2)."""

    name: Literal["lion"] = key("which optimizer: Lion", "fixed")
    beta_1: float = key("share of the momentum in the step's direction", "consent", minimum=0.0, below=1.0)
    beta_2: float = key("decay of the momentum", "consent", minimum=0.0, below=1.0)
    weight_decay: float = key("decoupled decay of kernels, times the learning rate", "consent", minimum=0.0)

    def rule(self) -> Rule:
        import tensorflow as tf

        from trainer.plugins import Rule, assign, assign_sub

        def begin(rate: tf.Tensor, step: tf.Tensor) -> Update:
            def update(variable: tf.Variable, gradient: tf.Tensor, slots: Slots) -> None:
                value, momentum = (tf.convert_to_tensor(each) for each in (variable, slots["momentum"]))
                direction = tf.sign(self.beta_1 * momentum + (1.0 - self.beta_1) * gradient)
                decay = self.weight_decay * value if len(variable.shape) > 1 else 0.0
                assign_sub(variable, rate * (direction + decay))
                assign(slots["momentum"], self.beta_2 * momentum + (1.0 - self.beta_2) * gradient)

            return update

        return Rule({"momentum": 0.0}, begin)


@dataclasses.dataclass(frozen=True)
class Grain(TransformPlugin):
    """Noise as in a film, other in every example."""

    name: Literal["grain"] = key("which transform: noise as in a film", "consent")
    strength: float = key("standard deviation, of a 0..1 image", "consent", minimum=0.0, maximum=1.0)

    def draws(self) -> int:
        return 2

    def apply(self, image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        seed = tf.cast(draws * 2.0**24, tf.int32)  # as many numbers as are wanted, all decided by the draws
        noise = tf.random.stateless_normal(tf.shape(image), seed, alg="philox")
        return tf.clip_by_value(image + self.strength * noise, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Arrays(SourcePlugin):
    """An .npz file of arrays ``SPLIT_images`` (uint8 ``[n, height, width, 3]``), ``SPLIT_labels`` (int64 ``[n]``) for
    train and validation, and ``class_names``.
    """

    name: Literal["arrays"] = key("which data: arrays in an .npz file", "fixed")
    file: str = key("the .npz file", "free", path=True)

    def open(self, split: Split) -> StoredSplit:
        from trainer_example.arrays import ArraysSplit

        return ArraysSplit(self, split)
