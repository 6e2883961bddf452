"""A loop of one's own with Orbax: ``goodput_orbax.py DIRECTORY STEPS SAVE_EVERY``, as ``goodput_keras.py``.

As a careful author would write it: saves in the background, an order that is a function of the epoch, a position that
is the step, and a checkpoint on SIGTERM.
"""

import signal
import sys
from typing import Any

import keras
import numpy as np
import orbax.checkpoint
import tensorflow as tf
from goodput_peer import BATCH, RATE, Place

place, steps, save_every = Place(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
asked: list[int] = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
model = place.network()
optimizer = keras.optimizers.Adam(RATE)
optimizer.build(model.trainable_variables)
variables = [*model.variables, *optimizer.variables]
manager = orbax.checkpoint.CheckpointManager(
    place.path / "checkpoints",
    options=orbax.checkpoint.CheckpointManagerOptions(max_to_keep=3, enable_async_checkpointing=True),
)


@tf.function
def train(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


def examples_of(step: int) -> np.ndarray:
    epoch, batch = divmod(step, len(place.labels) // BATCH)
    order = np.random.Generator(np.random.PCG64([0, epoch])).permutation(len(place.labels))
    return order[BATCH * batch : BATCH * (batch + 1)]


def tree() -> dict[str, Any]:
    return {str(number): np.asarray(variable.numpy()) for number, variable in enumerate(variables)}


step = manager.latest_step() or 0
if step:
    values = manager.restore(step, args=orbax.checkpoint.args.StandardRestore(tree()))
    for number, variable in enumerate(variables):
        variable.assign(values[str(number)])
if steps:
    place.began(step)
while step < steps and not asked:
    examples = examples_of(step)
    train(*map(tf.constant, place.batch(examples))).numpy()
    step += 1
    place.made(step, examples.tolist())
    if step % save_every == 0 or asked:
        manager.save(step, args=orbax.checkpoint.args.StandardSave(tree()))
manager.wait_until_finished()
place.finish(model, step)
