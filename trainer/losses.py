"""The training objective and what is counted beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tensorflow as tf

from trainer.config.schema import Config
from trainer.optimizers import is_kernel


def objective(
    outputs: Mapping[str, tf.Tensor], labels: tf.Tensor, kernels: Iterable[tf.Variable], config: Config
) -> tf.Tensor:
    """What training minimises, float32 ``[]``: the mean over the batch of the label-smoothed cross-entropy (arXiv
    1512.00567 section 7), plus ``aux_weight`` times that of the auxiliary logits, plus weight_decay × Σ w²/2 over
    the kernels (``tf.nn.l2_loss``, as in slim's l2_regularizer).
    """
    smoothing = config.train.label_smoothing
    loss = tf.reduce_mean(cross_entropy(outputs["logits"], labels, smoothing))
    if "aux_logits" in outputs:
        loss += config.train.aux_weight * tf.reduce_mean(cross_entropy(outputs["aux_logits"], labels, smoothing))
    if config.model.weight_decay:
        loss += config.model.weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels if is_kernel(kernel)])
    return loss


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Per example, float32 ``[batch]``, of ``logits`` ``[batch, classes]`` and ``labels`` int64 ``[batch]``."""
    classes = logits.shape[-1]
    target = tf.one_hot(labels, classes, dtype=tf.float32)
    target = target * (1.0 - smoothing) + smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


def correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Whether the highest logit is the label's, bool ``[batch]``."""
    return tf.equal(tf.argmax(logits, axis=-1), labels)
