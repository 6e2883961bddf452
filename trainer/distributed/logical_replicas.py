"""Equal shares of a batch whose results are added in one order, whatever devices compute them.

A device that holds several logical replicas computes them one after the other, by one function: the same kernels run on
the same shapes, so a share has the same bits on any device of a kind. Their results are added along a binary tree:
pairs, pairs of pairs, and so on. A device's own replicas are a whole branch of it. The sums of the branches are copied
to every device, and each adds them in the tree's order. Nothing is added by a library, whose order follows the ring.

The functions of the tree are never inlined. So the graph grows with the logarithm of the number of logical replicas,
and TensorFlow optimises a share's function by itself: alike on every layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.distributed.replicas import Rows, copies, count_here

Values = list[tf.Tensor]
Join = Callable[[Values, Values], Values]

NEVER_INLINED = {"_noinline": True}


def added(left: Values, right: Values) -> Values:
    """The sums of what two neighbours have computed."""
    return [one + other for one, other in zip(left, right, strict=True)]


def in_turn(
    compute: Callable[[Rows], Values], join: Join, logical: int, blocks: int, of_all: int
) -> Callable[[Rows], Values]:
    """A function from a replica's rows to what ``compute`` makes of its logical replicas, one after the other, joined
    along the tree.

    ``logical`` is the number of logical replicas of the whole batch, a power of two, and ``of_all`` the number of
    replicas that share it. The rows lie as ``Share`` cuts them: an equal share of each of ``blocks`` blocks. A logical
    replica has its own equal share of each. ``compute`` leaves every variable as it finds it.
    """
    count = logical // of_all
    assert count * of_all == logical, "the caller chooses a number of replicas that divides the logical ones"
    assert count & (count - 1) == 0, "check() refuses other numbers than powers of two"

    def share(rows: Rows, number: tf.Tensor) -> Values:
        def cut(tensor: tf.Tensor) -> tf.Tensor:
            size, *inner = tensor.shape
            parts = tf.reshape(tensor, [blocks, count, size // (blocks * count), *inner])
            return tf.reshape(parts[:, number], [size // count, *inner])

        return compute({name: cut(tensor) for name, tensor in rows.items()})

    branch = _function(share)
    for level in range(int(math.log2(count))):
        branch = _function(_both(branch, join, 1 << level))
    return lambda rows: list(branch(dict(rows), tf.constant(0)))


def _both(branch: Callable[[Rows, tf.Tensor], Values], join: Join, width: int) -> Callable[[Rows, tf.Tensor], Values]:
    """Two neighbouring branches, each of ``width`` logical replicas, joined."""

    def both(rows: Rows, first: tf.Tensor) -> Values:
        left = branch(rows, first)
        with tf.control_dependencies(left):  # one after the other: together they would need the memory of both
            right = branch(rows, first + width)
        return join(left, right)

    return both


def _function(compute: Callable[[Rows, tf.Tensor], Values]) -> Callable[[Rows, tf.Tensor], Values]:
    function: Callable[[Rows, tf.Tensor], Values] = tf.function(
        compute, autograph=False, experimental_attributes=NEVER_INLINED
    )
    return function


def total_in_order(values: Sequence[tf.Tensor]) -> Values:
    """The sums over all replicas of tensors of one type, added along the tree, from inside ``Replicas.run``."""
    if count_here() == 1:
        return list(values)
    packed = tf.concat([tf.reshape(value, [-1]) for value in values], 0)  # one exchange instead of hundreds
    sums = [[own] for own in tf.unstack(copies(packed))]
    while len(sums) > 1:
        sums = [added(left, right) for left, right in zip(sums[::2], sums[1::2], strict=True)]
    parts = tf.split(sums[0][0], [value.shape.num_elements() for value in values])
    return [tf.reshape(part, value.shape) for part, value in zip(parts, values, strict=True)]
