"""Mixing of neighbours in a training batch: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

The examples at positions 2k and 2k + 1 mix with each other and draw by the number k of their pair, so the result does
not depend on how a batch is divided, as long as the parts are even. The draws are made where examples are prepared;
the pixels are mixed where the step is computed, on its device.

Both are one formula. An example keeps the share ``kept`` of itself inside a box and all of itself outside: for mixup
the box is the whole image, and CutMix keeps nothing inside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.preprocessing import CutMixConfig, MixupConfig, NoMixingConfig
from trainer.data.images.draw import Draw

DRAWN = 5  # kept, then the box: top, left, bottom, right


def mixing_of(position: tf.Tensor, config: Config) -> dict[str, tf.Tensor]:
    """What the example at ``position`` (int64 ``[]``) needs to be mixed: nothing, or ``mixing`` float32 ``[5]``."""
    mixing, draw = config.mixing, Draw(config.seed, position // 2)
    if isinstance(mixing, NoMixingConfig):
        return {}
    size = config.preprocess.image_size
    numbers = draw.uniform("mixing", 4)
    if isinstance(mixing, MixupConfig):
        drawn = _mixup(draw, mixing.alpha, size)
    elif isinstance(mixing, CutMixConfig):
        drawn = _cutmix(draw, mixing.alpha, size, numbers[2:])
    else:
        boxed = _cutmix(draw, mixing.cutmix_alpha, size, numbers[2:])
        blended = _mixup(draw, mixing.mixup_alpha, size)
        drawn = tf.where(numbers[1] < mixing.cutmix_probability, boxed, blended)
    unmixed = tf.constant([1.0, 0.0, 0.0, 0.0, 0.0])
    return {"mixing": tf.where(numbers[0] < mixing.probability, drawn, unmixed)}


def _mixup(draw: Draw, alpha: float, size: int) -> tf.Tensor:
    return tf.concat([[draw.beta("mixup", alpha)], [0.0, 0.0, size, size]], 0)


def _cutmix(draw: Draw, alpha: float, size: int, centre: tf.Tensor) -> tf.Tensor:
    """A square box around any pixel, cut off at the border, of the area that is drawn to be exchanged."""
    side = tf.floor(size * tf.sqrt(1.0 - draw.beta("cutmix", alpha)))
    first = tf.floor(centre * size) - tf.floor(side / 2.0)
    corners = tf.concat([first, first + side], 0)
    return tf.concat([[0.0], tf.clip_by_value(corners, 0.0, size)], 0)


def mixed(part: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """``part`` of a batch with its neighbours mixed, if it has ``mixing``.

    ``image`` float32 ``[B, S, S, 3]`` is mixed with that of the neighbour. Added are ``partner_label`` int64 ``[B]``,
    the neighbour's, and ``label_weight`` float32 ``[B]``, the share of the example's own label in the target.
    """
    if "mixing" not in part:
        return dict(part)
    image, label = part["image"], part["label"]
    count, size = image.shape[0], image.shape[1]
    assert count % 2 == 0, "the caller keeps the pairs of a batch together"
    kept, top, left, bottom, right = tf.unstack(part["mixing"], axis=1)
    lines = tf.range(size, dtype=tf.float32)
    columns = tf.repeat(lines, 3)  # whole rows at a time: broadcasting along three channels is slow
    within_lines = tf.logical_and(lines >= top[:, tf.newaxis], lines < bottom[:, tf.newaxis])
    within_columns = tf.logical_and(columns >= left[:, tf.newaxis], columns < right[:, tf.newaxis])
    box = tf.cast(within_lines, tf.float32)[:, :, tf.newaxis] * tf.cast(within_columns, tf.float32)[:, tf.newaxis]
    own = 1.0 - (1.0 - kept)[:, tf.newaxis, tf.newaxis] * box
    rows = tf.reshape(image, [count, size, 3 * size])
    area = (bottom - top) * (right - left) / size**2
    return {
        **{name: tensor for name, tensor in part.items() if name != "mixing"},
        "image": tf.reshape(own * rows + (1.0 - own) * _neighbours(rows), image.shape),
        "partner_label": _neighbours(label),
        "label_weight": 1.0 - (1.0 - kept) * area,
    }


def _neighbours(tensor: tf.Tensor) -> tf.Tensor:
    """Rows 0 and 1 exchanged, 2 and 3, and so on."""
    pairs = tf.reshape(tensor, [tensor.shape[0] // 2, 2, *tensor.shape[1:]])
    return tf.reshape(tf.reverse(pairs, [1]), tensor.shape)
