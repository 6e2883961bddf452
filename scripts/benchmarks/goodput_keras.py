"""A Keras script with ``BackupAndRestore``: ``goodput_keras.py DIRECTORY STEPS SAVE_EVERY``.

It trains until STEPS steps are made, goes on from the backup in DIRECTORY, and writes the weights that it arrives at.
With STEPS 0 it writes those of the backup.
"""

import sys

import keras
import numpy as np
from goodput_peer import BATCH, RATE, Place

place, steps, save_every = Place(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Shuffled(keras.utils.PyDataset):
    """All images in batches, in another order in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._generator = np.random.Generator(np.random.PCG64(0))
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(place.labels) // BATCH

    def examples(self, batch: int) -> np.ndarray:
        return self._order[BATCH * batch : BATCH * (batch + 1)]

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        return place.batch(self.examples(batch))

    def on_epoch_end(self) -> None:
        self._order = self._generator.permutation(len(place.labels))


class Watched(keras.callbacks.Callback):
    """Before the backup of a step, because a step is made before it is saved."""

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        place.made(step, data.examples(batch).tolist())
        self.model.stop_training = step >= steps


class Begun(keras.callbacks.Callback):
    """After the restore."""

    def on_train_begin(self, logs: object = None) -> None:
        place.began(int(self.model.optimizer.iterations.numpy()))


model, data = place.network(), Shuffled()
model.compile(keras.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.optimizer.build(model.trainable_variables)
backup = keras.callbacks.BackupAndRestore(str(place.path / "backup"), save_freq=save_every, double_checkpoint=True)
if steps:
    model.fit(data, epochs=10**6, shuffle=False, verbose=0, callbacks=[Watched(), backup, Begun()])
else:
    backup.set_model(model)
    backup.on_train_begin()
place.finish(model, int(model.optimizer.iterations.numpy()))
