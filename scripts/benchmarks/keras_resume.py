"""The script that a user of Keras runs again after an interruption: ``keras_resume.py BACKUP DATA DONE SAVE_EVERY``.

It builds and compiles the network, restores a backup from the directory BACKUP with ``BackupAndRestore``, if there is
one, and trains on the arrays in the file DATA. It makes the file DONE after the first step.
"""

import sys
from pathlib import Path

import keras
import numpy as np

backup, data, done, save_every = sys.argv[1:]
arrays = np.load(data)
images, labels = arrays["images"], arrays["labels"]
model = keras.applications.InceptionV3(
    weights=None, input_shape=images.shape[1:], classes=10, classifier_activation=None
)
model.compile(
    keras.optimizers.Adam(0.001), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
)
callbacks = [
    keras.callbacks.BackupAndRestore(backup, save_freq=int(save_every)),
    keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: Path(done).touch()),
]
model.fit(images, labels, batch_size=32, epochs=1000, callbacks=callbacks)
