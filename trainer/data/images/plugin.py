"""Transforms from other distributions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.config.plugins import TRANSFORMS, blamed, title
from trainer.config.schema.preprocessing import TransformPlugin
from trainer.data.images.draw import Draw
from trainer.errors import UsageError
from trainer.runtime.purity import hidden_state

Shape = tuple[int | None, int | None, int]
Applied = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

PROBE_SIDES = (24, 40)  # of an image whose size is not known yet


def plugged(plugin: TransformPlugin, image: tf.Tensor, size: int | None, draw: Draw) -> tf.Tensor:
    """The image that the plug-in makes of ``image``, float32 ``[height, width, 3]``, of ``size`` x ``size`` if an
    earlier transform resized it to that.
    """
    draws = draw.uniform(f"{TRANSFORMS} {plugin.name}", _count(plugin))
    return _applied(plugin, (size, size, 3))(image, draws)


def _count(plugin: TransformPlugin) -> int:
    with blamed(TRANSFORMS, plugin.name):
        count = plugin.draws()
    if type(count) is not int or count < 0:
        raise UsageError(f"{title(TRANSFORMS, plugin.name)} draws {count!r} numbers, but must draw 0 or more")
    return count


@functools.cache
def _applied(plugin: TransformPlugin, shape: Shape) -> Applied:
    """The plug-in's work on images of ``shape``, as a checked graph: none of its other code ever runs.

    Raises:
        UsageError: it fails, returns something other than an image, or is not a function of the image and its draws.
    """
    with tf.init_scope(), tf.device("/device:CPU:0"):  # also from within the graph of a pipeline
        applied, again = (_traced(plugin, shape) for _ in range(2))
        height, width = (known or side for known, side in zip(shape[:2], PROBE_SIDES, strict=True))
        image = tf.reshape(tf.linspace(0.0, 1.0, height * width * 3), [height, width, 3])
        draws = tf.constant(np.linspace(0.0, 0.9, _count(plugin)), tf.float32)
        with blamed(TRANSFORMS, plugin.name):
            found = [each(image, draws).numpy() for each in (applied, again)]
    if found[0].tobytes() != found[1].tobytes():
        raise UsageError(
            f"{title(TRANSFORMS, plugin.name)} makes another image of the same image and draws the second time\n"
            "take random numbers from its draws; what Python draws is drawn once and kept"
        )
    return applied


def _traced(plugin: TransformPlugin, shape: Shape) -> tf.types.experimental.ConcreteFunction:
    called = title(TRANSFORMS, plugin.name)

    def apply(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        with blamed(TRANSFORMS, plugin.name):
            result = plugin.apply(image, draws)
        found = f"{result.dtype.name} {result.shape}" if tf.is_tensor(result) else repr(result)
        fits = tf.is_tensor(result) and result.dtype == tf.float32 and result.shape.is_compatible_with(shape)
        if not fits or (shape[0] is not None and not result.shape.is_fully_defined()):
            raise UsageError(
                f"{called} makes {found} of an image float32 {tf.TensorShape(shape)}, but must make an image float32 "
                f"{tf.TensorShape(shape)}{'' if shape[0] is None else ', as resize has left it'}"
            )
        return tf.ensure_shape(result, shape)

    traced = tf.function(apply, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, tf.float32), tf.TensorSpec([_count(plugin)], tf.float32)
    )
    hidden = hidden_state(traced)
    if hidden is not None:
        raise UsageError(
            f"{called} is not a function of the image and its draws: it uses {hidden}\n"
            "take random numbers from its draws, so that a resumed run sees the same images"
        )
    return traced
