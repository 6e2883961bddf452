"""The ceiling in ``scripts/bench torch``: ``product_contender.py float32|bfloat16`` multiplies two square matrices that
stay in memory, again and again, by the same library as a step's convolutions.
"""

from __future__ import annotations

import os
import sys

import tensorflow as tf
from workers import Turns

SIDE = 4096
PRODUCTS = 10  # a turn: some seconds, as long as that of a step
FLOPS = 2 * SIDE**3  # of one product


def main(dtype: str) -> None:
    turns = Turns()
    one, other = tf.cast(tf.random.normal([2, SIDE, SIDE], seed=0), dtype)
    for _ in turns.steps(1, PRODUCTS):
        tf.matmul(one, other)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    main(sys.argv[1])
