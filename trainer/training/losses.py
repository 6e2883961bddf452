"""The training objective and what is counted beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tensorflow as tf

from trainer.config.schema import Config
from trainer.training.optimizers import is_decayed


def objective(
    outputs: Mapping[str, tf.Tensor], part: Mapping[str, tf.Tensor], trained: Iterable[tf.Variable], config: Config
) -> tf.Tensor:
    """What training minimises, float32 ``[]``: the mean over the examples of ``part`` of the label-smoothed
    cross-entropy (arXiv 1512.00567 section 7), plus ``aux_weight`` times that of the auxiliary logits, plus
    weight_decay × Σ w²/2 over the kernels among the ``trained`` variables, or over all of them by
    ``model.weight_decay_on`` (``tf.nn.l2_loss``, as in slim's l2_regularizer).
    """
    logits = outputs["logits"]
    target = _target(part, logits.shape[-1], config.train.label_smoothing)
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))
    if "aux_logits" in outputs:
        auxiliary = tf.nn.softmax_cross_entropy_with_logits(target, outputs["aux_logits"])
        loss += config.train.aux_weight * tf.reduce_mean(auxiliary)
    if config.model.weight_decay:
        on = config.model.weight_decay_on
        squares = tf.stack([tf.nn.l2_loss(variable) for variable in trained if is_decayed(variable, on)])
        loss += config.model.weight_decay * tf.reduce_sum(squares)
    return loss


def _target(part: Mapping[str, tf.Tensor], classes: int, smoothing: float) -> tf.Tensor:
    """The target distribution, float32 ``[batch, classes]``; for mixed examples, that of both labels."""
    target = tf.one_hot(part["label"], classes, dtype=tf.float32)
    if "partner_label" in part:
        weight = part["label_weight"][:, tf.newaxis]
        target = weight * target + (1.0 - weight) * tf.one_hot(part["partner_label"], classes, dtype=tf.float32)
    return target * (1.0 - smoothing) + smoothing / classes


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The cross-entropy per example, float32 ``[batch]``, of ``logits`` ``[batch, classes]`` and ``labels`` int64
    ``[batch]``.
    """
    return tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(labels, logits.shape[-1], dtype=tf.float32), logits)


def correct(logits: tf.Tensor, part: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Whether the highest logit is the label's, bool ``[batch]``; for mixed examples, the label with more weight
    counts.
    """
    labels = part["label"]
    if "partner_label" in part:
        labels = tf.where(part["label_weight"] >= 0.5, labels, part["partner_label"])
    return tf.equal(tf.argmax(logits, axis=-1), labels)
